import FoundationEssentials
import Operations
import SwiftASN1

/// `Time` of RFC 5280, 4.1.2.5, as seconds since 1970.
enum CertificateTime {
    static func isTime(_ node: ASN1Node) -> Bool {
        node.identifier == UTCTime.defaultIdentifier || node.identifier == GeneralizedTime.defaultIdentifier
    }

    static func seconds(derEncoded node: ASN1Node) throws -> Int64 {
        if node.identifier == UTCTime.defaultIdentifier {
            let time = try UTCTime(derEncoded: node)
            return CivilTime(
                year: time.year, month: time.month, day: time.day, hour: time.hours, minute: time.minutes,
                second: time.seconds
            ).secondsSince1970
        }
        let time = try GeneralizedTime(derEncoded: node)
        return CivilTime(
            year: time.year, month: time.month, day: time.day, hour: time.hours, minute: time.minutes,
            second: time.seconds
        ).secondsSince1970
    }

    /// UTCTime through 2049, GeneralizedTime from 2050 on.
    static func serialize(_ seconds: Int64, into coder: inout DER.Serializer) throws {
        let time = CivilTime(secondsSince1970: seconds)
        if (1950..<2050).contains(time.year) {
            try coder.serialize(
                UTCTime(
                    year: time.year, month: time.month, day: time.day, hours: time.hour, minutes: time.minute,
                    seconds: time.second))
        } else {
            try coder.serialize(
                GeneralizedTime(
                    year: time.year, month: time.month, day: time.day, hours: time.hour, minutes: time.minute,
                    seconds: time.second, fractionalSeconds: 0))
        }
    }
}

extension Date {
    /// Certificates have whole seconds.
    var wholeSeconds: Int64 { Int64(timeIntervalSince1970.rounded()) }

    init(secondsSince1970 seconds: Int64) {
        self.init(timeIntervalSince1970: TimeInterval(seconds))
    }
}
