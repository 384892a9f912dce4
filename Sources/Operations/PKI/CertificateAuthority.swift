import Crypto
import FoundationEssentials
import Glibc
import Operations
import SwiftASN1
import X509

/// An authority's key and certificate, and the shapes of what it issues. Times are seconds since 1970.
struct CertificateAuthority {
    let certificate: Certificate
    let key: P256.Signing.PrivateKey

    /// Clocks of devices are often some minutes behind.
    static let backdating: Int64 = 300

    /// A fresh authority. Its name ends in a piece of its key's digest, so that two authorities never share a name.
    static func create(name: String, now: Int64, days: Int) throws -> CertificateAuthority {
        let key = P256.Signing.PrivateKey()
        let publicKey = Certificate.PublicKey(key.publicKey)
        let identifier = SubjectKeyIdentifier(hash: publicKey)
        let suffix = Certificate.SerialNumber(bytes: identifier.keyIdentifier.prefix(4)).hexadecimal.lowercased()
        let subject = DistinguishedName([
            RelativeDistinguishedName(.init(type: .RDNAttributeType.organizationName, utf8String: "Sluice")),
            RelativeDistinguishedName(.init(type: .RDNAttributeType.commonName, utf8String: "\(name) \(suffix)")),
        ])
        let extensions = try Certificate.Extensions([
            .init(BasicConstraints.isCertificateAuthority(maxPathLength: 0), critical: true),
            .init(KeyUsage(keyCertSign: true, cRLSign: true), critical: true),
            .init(identifier, critical: false),
        ])
        let certificate = try Certificate(
            version: .v3, serialNumber: randomSerial(), publicKey: publicKey,
            notValidBefore: Date(secondsSince1970: now - backdating),
            notValidAfter: Date(secondsSince1970: now + Int64(days) * 86_400), issuer: subject, subject: subject,
            signatureAlgorithm: .ecdsaWithSHA256, extensions: extensions, issuerPrivateKey: .init(key))
        return CertificateAuthority(certificate: certificate, key: key)
    }

    struct Issued {
        var certificate: Certificate
        var key: P256.Signing.PrivateKey
    }

    /// - Parameter names: further SANs, of a server: its DNS names and addresses.
    func issue(_ role: PeerRole, names: [GeneralName] = [], notBefore: Int64, notAfter: Int64) throws -> Issued {
        let key = P256.Signing.PrivateKey()
        let publicKey = Certificate.PublicKey(key.publicKey)
        let authorityIdentifier = try certificate.extensions.subjectKeyIdentifier?.keyIdentifier
        let usage: ExtendedKeyUsage.Usage = role.kind == .server ? .serverAuth : .clientAuth
        let extensions = try Certificate.Extensions([
            .init(BasicConstraints.notCertificateAuthority, critical: true),
            .init(KeyUsage(digitalSignature: true), critical: true),
            .init(ExtendedKeyUsage([usage]), critical: false),
            .init(SubjectAlternativeNames([.uniformResourceIdentifier(role.uri)] + names), critical: false),
            .init(SubjectKeyIdentifier(hash: publicKey), critical: false),
            .init(AuthorityKeyIdentifier(keyIdentifier: authorityIdentifier), critical: false),
        ])
        let subject = DistinguishedName([
            RelativeDistinguishedName(.init(type: .RDNAttributeType.commonName, utf8String: role.id))
        ])
        let issued = try Certificate(
            version: .v3, serialNumber: Self.randomSerial(), publicKey: publicKey,
            notValidBefore: Date(secondsSince1970: notBefore), notValidAfter: Date(secondsSince1970: notAfter),
            issuer: certificate.subject, subject: subject, signatureAlgorithm: .ecdsaWithSHA256, extensions: extensions,
            issuerPrivateKey: .init(self.key))
        return Issued(certificate: issued, key: key)
    }

    /// 127 random bits: positive, and within the 20 bytes of RFC 5280, 4.1.2.2, whatever the first bit.
    static func randomSerial() -> Certificate.SerialNumber {
        var generator = SystemRandomNumberGenerator()
        var bytes = (0..<16).map { _ in UInt8.random(in: 0...255, using: &generator) }
        bytes[0] = bytes[0] & 0x7F | 0x40
        return Certificate.SerialNumber(bytes: bytes)
    }
}

/// The names under which clients reach a server.
package struct ServerName: Sendable {
    let general: GeneralName

    /// A DNS name, also with a wildcard as its first label.
    package static func dns(_ text: String) throws(PKIError) -> ServerName {
        let labels = text.split(separator: ".", omittingEmptySubsequences: false)
        let isValid =
            text.utf8.count <= 253
            && labels.enumerated().allSatisfy { index, label in
                if index == 0 && label == "*" && labels.count > 1 { return true }
                return (1...63).contains(label.utf8.count) && label.first != "-" && label.last != "-"
                    && label.utf8.allSatisfy {
                        $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_")
                            || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0 | 0x20)
                            || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
                    }
            }
        guard isValid else { throw .badName("\"\(text.printable)\" is no DNS name") }
        return ServerName(general: .dnsName(text))
    }

    package static func address(_ text: String) throws(PKIError) -> ServerName {
        for (family, length) in [(AF_INET, 4), (AF_INET6, 16)] {
            var bytes = [UInt8](repeating: 0, count: length)
            if inet_pton(family, text, &bytes) == 1 {
                return ServerName(general: .ipAddress(ASN1OctetString(contentBytes: bytes[...])))
            }
        }
        throw .badName("\"\(text.printable)\" is no IPv4 or IPv6 address")
    }
}
