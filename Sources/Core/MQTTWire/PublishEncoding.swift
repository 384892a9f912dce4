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

/// One message encoded once for a version and a QoS. What differs from subscriber to subscriber (packet identifier, DUP,
/// RETAIN, subscription identifiers) is put in when it is written.
package struct EncodedPublish: Sendable {
    package let version: ProtocolVersion
    package let qos: QoS
    /// The whole packet with packet identifier 0, DUP and RETAIN off, and no subscription identifiers.
    private let bytes: ByteBuffer
    private let headerSize: Int
    private let topicSize: Int
    private let layout: PublishLayout

    /// Packet identifier, QoS, DUP, RETAIN and subscription identifiers of `publish` are not looked at.
    package init(_ publish: Publish, version: ProtocolVersion, qos: QoS) {
        var plain = publish
        plain.qos = qos
        plain.packetID = 0
        plain.duplicate = false
        plain.retain = false
        plain.subscriptionIdentifiers = []
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

    /// Bytes that `write` appends: to be held against the receiver's maximum packet size.
    package func size(subscriptionIdentifiers: [UInt32] = []) -> Int {
        guard version == .v5, !subscriptionIdentifiers.isEmpty else { return bytes.readableBytes }
        let remaining = remainingLength(subscriptionIdentifiers).remaining
        return 1 + ByteBuffer.variableByteIntegerSize(remaining) + remaining
    }

    /// `packetID` is ignored at QoS 0, `subscriptionIdentifiers` in 3.1.1.
    package func write(
        to buffer: inout ByteBuffer, packetID: UInt16 = 0, retain: Bool = false, duplicate: Bool = false,
        subscriptionIdentifiers: [UInt32] = []
    ) {
        let start = buffer.writerIndex
        let idOffset: Int
        if version == .v311 || subscriptionIdentifiers.isEmpty {
            buffer.writeImmutableBuffer(bytes)
            idOffset = headerSize + topicSize
        } else {
            idOffset = writeParts(to: &buffer, subscriptionIdentifiers) + topicSize
        }
        buffer.setInteger(Self.firstByte(qos: qos, retain: retain, duplicate: duplicate), at: start)
        if qos != .atMostOnce { buffer.setInteger(packetID, at: start + idOffset) }
    }

    private func remainingLength(_ identifiers: [UInt32]) -> (properties: Int, remaining: Int) {
        var properties = layout.properties
        for identifier in identifiers { properties += 1 + ByteBuffer.variableByteIntegerSize(Int(identifier)) }
        let growth =
            properties - layout.properties + ByteBuffer.variableByteIntegerSize(properties)
            - ByteBuffer.variableByteIntegerSize(layout.properties)
        return (properties, layout.remainingLength + growth)
    }

    /// Puts the subscription identifiers before the other properties. Returns the size of the fixed header.
    private func writeParts(to buffer: inout ByteBuffer, _ identifiers: [UInt32]) -> Int {
        let lengths = remainingLength(identifiers)
        let idSize = qos == .atMostOnce ? 0 : 2
        let propertyLengthAt = headerSize + topicSize + idSize
        let propertiesAt = propertyLengthAt + ByteBuffer.variableByteIntegerSize(layout.properties)
        buffer.reserveCapacity(minimumWritableBytes: 5 + lengths.remaining)
        buffer.writeInteger(UInt8(0))
        buffer.writeVariableByteInteger(lengths.remaining)
        buffer.writeImmutableBuffer(part(headerSize..<propertyLengthAt))
        buffer.writeVariableByteInteger(lengths.properties)
        buffer.writeSubscriptionIdentifiers(identifiers)
        buffer.writeImmutableBuffer(part(propertiesAt..<bytes.readableBytes))
        return 1 + ByteBuffer.variableByteIntegerSize(lengths.remaining)
    }

    private func part(_ range: Range<Int>) -> ByteBuffer {
        // The ranges are offsets into what `init` wrote.
        bytes.getSlice(at: bytes.readerIndex + range.lowerBound, length: range.count) ?? ByteBuffer()
    }
}
