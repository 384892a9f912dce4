import NIOCore

/// Collects the encoded properties that travel on with a message, in order. As long as they lie side by side they stay
/// a slice of what was read; only where others stand between them are they copied.
struct ApplicationProperties {
    private(set) var bytes = ByteBuffer()
    private var isCopied = false

    /// `range` are indices of `source`, ascending from call to call.
    mutating func append(_ range: Range<Int>, of source: ByteBuffer, follows: Bool) {
        guard let slice = source.getSlice(at: range.lowerBound, length: range.count) else { return }
        if bytes.readableBytes == 0 {
            bytes = slice
        } else if follows, !isCopied,
            let grown = source.getSlice(
                at: range.lowerBound - bytes.readableBytes, length: bytes.readableBytes + range.count)
        {
            bytes = grown
        } else {
            if !isCopied {
                var copy = ByteBuffer()
                copy.writeImmutableBuffer(bytes)
                bytes = copy
                isCopied = true
            }
            bytes.writeImmutableBuffer(slice)
        }
    }
}

extension ByteBuffer {
    /// Whether encoded application properties say that the payload is UTF-8 (3.3.2.3.2). Of properties that the decoder
    /// has checked.
    package var declaresUTF8Payload: Bool {
        var rest = self
        while let identifier = rest.readInteger(as: UInt8.self) {
            guard let property = Property(rawValue: identifier) else { return false }
            let fields: Int
            switch property {
            case .payloadFormat: return rest.getInteger(at: rest.readerIndex, as: UInt8.self) == 1
            case .userProperty: fields = 2
            default: fields = 1
            }
            for _ in 0..<fields {
                guard let length = rest.readInteger(as: UInt16.self), rest.readSlice(length: Int(length)) != nil else {
                    return false
                }
            }
        }
        return false
    }

    /// Well-formed UTF-8; U+0000 is a character like others in a payload.
    package var isUTF8: Bool {
        withUnsafeReadableBytes { UTF8Check.isWellFormed($0) }
    }
}

/// The properties of a message, in PUBLISH or as a will.
struct MessageProperties {
    var topicAlias: UInt16 = 0
    var messageExpiry: UInt32?
    var willDelay: UInt32 = 0
    var subscriptionIdentifiers: [UInt32] = []
    var application = ByteBuffer()
}

extension PacketReader {
    mutating func messageProperties(_ context: PropertyContext) throws(DecodingError) -> MessageProperties {
        var result = MessageProperties()
        var application = ApplicationProperties()
        var lastForwarded = -1
        try properties(context) { property, block throws(DecodingError) in
            // Identifiers take one byte, as all are below 128.
            let start = block.bytes.readerIndex - 1
            if try block.forwardedProperty(property) {
                let end = block.bytes.readerIndex
                application.append(start..<end, of: block.whole, follows: lastForwarded == start)
                lastForwarded = end
            } else {
                try block.localProperty(property, into: &result)
            }
        }
        result.application = application.bytes
        return result
    }

    /// The same bytes with the reader index at their beginning, so that what was read can be sliced.
    private var whole: ByteBuffer {
        var copy = bytes
        copy.moveReaderIndex(to: 0)
        return copy
    }

    /// Reads past a property that travels on with the message; `false`, and nothing read, if it does not.
    private mutating func forwardedProperty(_ property: Property) throws(DecodingError) -> Bool {
        switch property {
        case .payloadFormat: _ = try bool(property.name)
        case .contentType: _ = try utf8(property.name)
        case .responseTopic: _ = try topicName(property.name)
        case .correlationData: _ = try binary(property.name)
        case .userProperty:
            _ = try utf8("user property name")
            _ = try utf8("user property value")
        default: return false
        }
        return true
    }

    private mutating func localProperty(
        _ property: Property, into result: inout MessageProperties
    ) throws(DecodingError) {
        switch property {
        case .messageExpiry: result.messageExpiry = try uint32(property.name)
        case .willDelay: result.willDelay = try uint32(property.name)
        case .topicAlias:
            result.topicAlias = try uint16(property.name)
            guard result.topicAlias != 0 else { throw .topicAliasInvalid }
        case .subscriptionIdentifier: result.subscriptionIdentifiers.append(try subscriptionIdentifier())
        default: throw malformed(property.name, .notAllowed)
        }
    }

    mutating func subscriptionIdentifier() throws(DecodingError) -> UInt32 {
        let identifier = try variableByteInteger(Property.subscriptionIdentifier.name)
        guard identifier != 0 else { throw protocolError(Property.subscriptionIdentifier.name, .zero) }
        return identifier
    }
}
