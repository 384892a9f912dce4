import NIOCore

/// Reads the fields of one packet's body. Every read names its field, so that an error can say where it happened.
struct PacketReader {
    let kind: PacketKind
    /// What is left of the body, or of the property block within it.
    var bytes: ByteBuffer

    func malformed(_ field: String, _ flaw: DecodingError.Flaw) -> DecodingError {
        .malformed(kind, field: field, flaw)
    }

    func protocolError(_ field: String, _ flaw: DecodingError.Flaw) -> DecodingError {
        .protocolError(kind, field: field, flaw)
    }

    var isAtEnd: Bool { bytes.readableBytes == 0 }

    func expectEnd() throws(DecodingError) {
        guard isAtEnd else { throw malformed("last field", .trailingBytes) }
    }

    mutating func byte(_ field: String) throws(DecodingError) -> UInt8 {
        guard let value = bytes.readInteger(as: UInt8.self) else { throw malformed(field, .truncated) }
        return value
    }

    mutating func uint16(_ field: String) throws(DecodingError) -> UInt16 {
        guard let value = bytes.readInteger(as: UInt16.self) else { throw malformed(field, .truncated) }
        return value
    }

    mutating func uint32(_ field: String) throws(DecodingError) -> UInt32 {
        guard let value = bytes.readInteger(as: UInt32.self) else { throw malformed(field, .truncated) }
        return value
    }

    /// A byte that may only be 0 or 1; anything else is a protocol error.
    mutating func bool(_ field: String) throws(DecodingError) -> Bool {
        switch try byte(field) {
        case 0: false
        case 1: true
        default: throw protocolError(field, .outOfRange)
        }
    }

    mutating func packetID() throws(DecodingError) -> UInt16 {
        let id = try uint16("packet identifier")
        guard id != 0 else { throw protocolError("packet identifier", .zero) }
        return id
    }

    /// At most four bytes and the fewest that hold the value (MQTT-1.5.5-1).
    mutating func variableByteInteger(_ field: String) throws(DecodingError) -> UInt32 {
        var value: UInt32 = 0
        for position in 0..<4 {
            let byte = try byte(field)
            value |= UInt32(byte & 0x7F) << UInt32(7 * position)
            if byte & 0x80 == 0 {
                guard position == 0 || byte != 0 else { throw malformed(field, .overlong) }
                return value
            }
        }
        throw malformed(field, .overlong)
    }

    /// Bytes after a length of two bytes; a slice.
    mutating func binary(_ field: String) throws(DecodingError) -> ByteBuffer {
        guard let length = bytes.readInteger(as: UInt16.self), let slice = bytes.readSlice(length: Int(length)) else {
            throw malformed(field, .truncated)
        }
        return slice
    }

    /// A checked UTF-8 string as a slice.
    mutating func utf8(_ field: String) throws(DecodingError) -> ByteBuffer {
        let slice = try binary(field)
        if let flaw = slice.withUnsafeReadableBytes(UTF8Check.flaw) { throw malformed(field, flaw) }
        return slice
    }

    mutating func string(_ field: String) throws(DecodingError) -> String {
        String(buffer: try utf8(field))
    }

    /// A topic that something is published to: not empty, no wildcards (MQTT-3.3.2-2, MQTT-3.3.2-14, MQTT-4.7.3-1).
    mutating func topicName(_ field: String) throws(DecodingError) -> ByteBuffer {
        let slice = try binary(field)
        guard slice.readableBytes > 0 else { throw malformed(field, .empty) }
        if let flaw = slice.withUnsafeReadableBytes(UTF8Check.topicNameFlaw) { throw malformed(field, flaw) }
        return slice
    }

    mutating func reasonCode(_ isAllowed: (ReasonCode) -> Bool) throws(DecodingError) -> ReasonCode {
        let reason = ReasonCode(rawValue: try byte("reason code"))
        guard isAllowed(reason) else { throw protocolError("reason code", .notAllowed) }
        return reason
    }

    mutating func userProperty() throws(DecodingError) -> UserProperty {
        UserProperty(name: try string("user property name"), value: try string("user property value"))
    }
}
