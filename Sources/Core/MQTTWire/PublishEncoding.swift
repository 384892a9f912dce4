import NIOCore

/// Where the parts of an encoded PUBLISH lie.
private struct PublishLayout {
    /// Bytes of the properties, without their length.
    let properties: Int
    /// Bytes after the fixed header.
    let remainingLength: Int

    init(_ publish: Publish, _ version: ProtocolVersion) {
        var properties = 0
        var remaining = 2 + publish.topic.readableBytes + (publish.qos == .atMostOnce ? 0 : 2)
        if version == .v5 {
            properties = publish.applicationProperties.readableBytes
            if publish.topicAlias != 0 { properties += 3 }
            if publish.messageExpiry != nil { properties += 5 }
            for identifier in publish.subscriptionIdentifiers {
                properties += 1 + ByteBuffer.variableByteIntegerSize(Int(identifier))
            }
            remaining += ByteBuffer.variableByteIntegerSize(properties) + properties
        }
        self.properties = properties
        remainingLength = remaining + publish.payload.readableBytes
    }
}

extension ByteBuffer {
    mutating func writePublish(_ publish: Publish, _ version: ProtocolVersion) {
        let layout = PublishLayout(publish, version)
        reserveCapacity(minimumWritableBytes: 5 + layout.remainingLength)
        writeInteger(
            EncodedPublish.firstByte(qos: publish.qos, retain: publish.retain, duplicate: publish.duplicate))
        writeVariableByteInteger(layout.remainingLength)
        writeBinary(publish.topic)
        if publish.qos != .atMostOnce { writeInteger(publish.packetID) }
        if version == .v5 {
            writeVariableByteInteger(layout.properties)
            // First, as in `EncodedPublish.writeParts`.
            writeSubscriptionIdentifiers(publish.subscriptionIdentifiers)
            if publish.topicAlias != 0 {
                writeInteger(Property.topicAlias.rawValue)
                writeInteger(publish.topicAlias)
            }
            if let expiry = publish.messageExpiry {
                writeInteger(Property.messageExpiry.rawValue)
                writeInteger(expiry)
            }
            writeImmutableBuffer(publish.applicationProperties)
        }
        writeImmutableBuffer(publish.payload)
    }

    fileprivate mutating func writeSubscriptionIdentifiers(_ identifiers: [UInt32]) {
        for identifier in identifiers {
            writeInteger(Property.subscriptionIdentifier.rawValue)
            writeVariableByteInteger(Int(identifier))
        }
    }
}

/// How a PUBLISH to a 5.0 client names its topic (3.3.2.3.4).
package enum TopicNaming: Sendable, Equatable {
    case name
    /// The name, and the alias that stands for it from now on.
    case nameWithAlias(UInt16)
    case alias(UInt16)

    var alias: UInt16? {
        switch self {
        case .name: nil
        case .nameWithAlias(let alias), .alias(let alias): alias
        }
    }
}

/// One message encoded once for a version and a QoS. What differs from subscriber to subscriber (packet identifier, DUP,
/// RETAIN, subscription identifiers, topic alias) is put in when it is written.
package struct EncodedPublish: Sendable {
    package let version: ProtocolVersion
    package let qos: QoS
    /// The whole packet with packet identifier 0, DUP and RETAIN off, no subscription identifiers and no topic alias.
    private let bytes: ByteBuffer
    private let headerSize: Int
    private let topicSize: Int
    private let layout: PublishLayout

    /// Packet identifier, QoS, DUP, RETAIN, subscription identifiers and topic alias of `publish` are not looked at.
    package init(_ publish: Publish, version: ProtocolVersion, qos: QoS) {
        var plain = publish
        plain.qos = qos
        plain.packetID = 0
        plain.duplicate = false
        plain.retain = false
        plain.subscriptionIdentifiers = []
        plain.topicAlias = 0
        var bytes = ByteBuffer()
        bytes.writePublish(plain, version)
        self.version = version
        self.qos = qos
        self.bytes = bytes
        layout = PublishLayout(plain, version)
        headerSize = bytes.readableBytes - layout.remainingLength
        topicSize = 2 + publish.topic.readableBytes
    }

    static func firstByte(qos: QoS, retain: Bool, duplicate: Bool) -> UInt8 {
        0x30 | (duplicate ? 0b1000 : 0) | qos.rawValue << 1 | (retain ? 1 : 0)
    }

    /// `packetID` is ignored at QoS 0, `subscriptionIdentifiers` and `topic` in 3.1.1.
    package func write(
        to buffer: inout ByteBuffer, packetID: UInt16 = 0, retain: Bool = false, duplicate: Bool = false,
        subscriptionIdentifiers: [UInt32] = [], topic: TopicNaming = .name
    ) {
        let start = buffer.writerIndex
        let idOffset: Int
        if version == .v311 || (subscriptionIdentifiers.isEmpty && topic == .name) {
            buffer.writeImmutableBuffer(bytes)
            idOffset = headerSize + topicSize
        } else {
            idOffset = writeParts(to: &buffer, subscriptionIdentifiers, topic)
        }
        buffer.setInteger(Self.firstByte(qos: qos, retain: retain, duplicate: duplicate), at: start)
        if qos != .atMostOnce { buffer.setInteger(packetID, at: start + idOffset) }
    }

    /// Puts subscription identifiers and alias before the other properties. Returns where the packet identifier belongs.
    private func writeParts(to buffer: inout ByteBuffer, _ identifiers: [UInt32], _ topic: TopicNaming) -> Int {
        let idSize = qos == .atMostOnce ? 0 : 2
        let propertyLengthAt = headerSize + topicSize + idSize
        let propertiesAt = propertyLengthAt + ByteBuffer.variableByteIntegerSize(layout.properties)
        let topicPart: ByteBuffer
        if case .alias = topic {
            topicPart = Self.emptyTopic
        } else {
            topicPart = part(headerSize..<headerSize + topicSize)
        }
        var properties = layout.properties + (topic.alias == nil ? 0 : 3)
        for identifier in identifiers { properties += 1 + ByteBuffer.variableByteIntegerSize(Int(identifier)) }
        let remaining =
            topicPart.readableBytes + idSize + ByteBuffer.variableByteIntegerSize(properties) + properties
            + bytes.readableBytes - propertiesAt - layout.properties
        buffer.reserveCapacity(minimumWritableBytes: 5 + remaining)
        buffer.writeInteger(UInt8(0))
        buffer.writeVariableByteInteger(remaining)
        buffer.writeImmutableBuffer(topicPart)
        if idSize > 0 { buffer.writeInteger(UInt16(0)) }
        buffer.writeVariableByteInteger(properties)
        buffer.writeSubscriptionIdentifiers(identifiers)
        if let alias = topic.alias {
            buffer.writeInteger(Property.topicAlias.rawValue)
            buffer.writeInteger(alias)
        }
        buffer.writeImmutableBuffer(part(propertiesAt..<bytes.readableBytes))
        return 1 + ByteBuffer.variableByteIntegerSize(remaining) + topicPart.readableBytes
    }

    private static let emptyTopic = ByteBuffer(bytes: [0, 0])

    private func part(_ range: Range<Int>) -> ByteBuffer {
        // The ranges are offsets into what `init` wrote.
        bytes.getSlice(at: bytes.readerIndex + range.lowerBound, length: range.count) ?? ByteBuffer()
    }
}
