/// Why bytes are no packet. The connection they came from must end: nothing after them can be trusted.
package enum DecodingError: Error, Equatable, Sendable {
    /// It cannot be parsed as the standard says (MQTT 5.0, 4.13.1).
    case malformed(PacketKind, field: String, Flaw)
    /// It can be parsed, and the standard forbids it.
    case protocolError(PacketKind, field: String, Flaw)
    /// Topic alias 0 (MQTT-3.3.2-8).
    case topicAliasInvalid
    /// Bytes of the whole packet with its fixed header. Known as soon as the fixed header is in.
    case packetTooLarge(PacketKind, size: Int, maximum: Int)
    /// The level byte of a CONNECT that speaks neither 3.1.1 nor 5.0; a CONNACK may say so.
    case unsupportedProtocolVersion(level: UInt8)

    package enum Flaw: String, Sendable {
        case truncated = "is cut off"
        case notUTF8 = "is not valid UTF-8"
        case containsNull = "contains U+0000"
        case repeated = "appears more than once"
        case notAllowed = "is not allowed here"
        case outOfRange = "is out of range"
        case zero = "is 0"
        case reservedBits = "has reserved bits set"
        case empty = "is empty"
        case trailingBytes = "is followed by bytes that belong to nothing"
        case wildcard = "contains a wildcard"
        case overlong = "is encoded in more bytes than allowed"
        case unexpected = "was not expected"
        case missing = "is missing"
        case unknown = "is unknown"
    }

    /// What to put into DISCONNECT or CONNACK of MQTT 5.0.
    package var reason: ReasonCode {
        switch self {
        case .malformed: .malformedPacket
        case .protocolError: .protocolError
        case .topicAliasInvalid: .topicAliasInvalid
        case .packetTooLarge: .packetTooLarge
        case .unsupportedProtocolVersion: .unsupportedProtocolVersion
        }
    }
}

extension DecodingError: CustomStringConvertible {
    /// One line for the log.
    package var description: String {
        switch self {
        case .malformed(let kind, let field, let flaw):
            "malformed \(kind.name): \(field) \(flaw.rawValue)"
        case .protocolError(let kind, let field, let flaw):
            "protocol error in \(kind.name): \(field) \(flaw.rawValue)"
        case .topicAliasInvalid:
            "protocol error in PUBLISH: topic alias is 0"
        case .packetTooLarge(let kind, let size, let maximum):
            "\(kind.name) of \(size) bytes is larger than the maximum packet size of \(maximum) bytes"
        case .unsupportedProtocolVersion(let level):
            "CONNECT with protocol level \(level); supported are 4 (MQTT 3.1.1) and 5 (MQTT 5.0)"
        }
    }
}
