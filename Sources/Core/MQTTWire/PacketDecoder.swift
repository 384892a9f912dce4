import NIOCore

/// Turns a stream of bytes into packets, in either direction.
///
/// It keeps nothing but the version: unfinished packets stay in the caller's buffer and cost a look at the fixed header a
/// call, however the bytes drip in. After an error the buffer is as it was, and the connection has to end.
package struct PacketDecoder: Sendable {
    /// `nil` until CONNECT was decoded, and until then nothing but CONNECT is accepted. A client sets its own.
    package var version: ProtocolVersion?
    /// Bytes of a whole packet with its fixed header; more is refused before it is buffered.
    package let maximumPacketSize: Int

    package init(maximumPacketSize: Int) {
        self.maximumPacketSize = maximumPacketSize
    }

    /// The next packet, or `nil` if more bytes are needed. The buffer's reader index moves by whole packets.
    package mutating func next(_ buffer: inout ByteBuffer) throws(DecodingError) -> Packet? {
        guard let header = try FixedHeader(peeking: buffer, isStrict: version == .v5) else { return nil }
        let kind = header.kind
        if let required = kind.requiredFlags, required != header.flags {
            throw .malformed(kind, field: "fixed header", .reservedBits)
        }
        guard kind == .connect || version != nil else {
            throw .protocolError(kind, field: "packet before CONNECT", .unexpected)
        }
        guard header.size + header.remainingLength <= maximumPacketSize else {
            throw .packetTooLarge(kind, size: header.size + header.remainingLength, maximum: maximumPacketSize)
        }
        let bodyStart = buffer.readerIndex + header.size
        guard buffer.writerIndex - bodyStart >= header.remainingLength else { return nil }

        let packet: Packet
        if kind == .publish {
            packet = .publish(try decodePublish(buffer, at: bodyStart, header))
        } else if let body = buffer.getSlice(at: bodyStart, length: header.remainingLength) {
            packet = try decode(kind, body)
        } else {
            return nil
        }
        buffer.moveReaderIndex(to: bodyStart + header.remainingLength)
        return packet
    }

    private mutating func decode(_ kind: PacketKind, _ body: ByteBuffer) throws(DecodingError) -> Packet {
        var reader = PacketReader(kind: kind, bytes: body)
        if kind == .connect {
            guard version == nil else { throw .protocolError(.connect, field: "second CONNECT", .unexpected) }
            let connect = try reader.connect()
            try reader.expectEnd()
            version = connect.version
            return .connect(connect)
        }
        // Checked by the caller: only CONNECT comes before a version is known.
        let version = version ?? .v5
        let packet: Packet
        switch kind {
        case .connack: packet = .connack(try reader.connack(version))
        case .puback: packet = .puback(try reader.acknowledgement(version))
        case .pubrec: packet = .pubrec(try reader.acknowledgement(version))
        case .pubrel: packet = .pubrel(try reader.acknowledgement(version))
        case .pubcomp: packet = .pubcomp(try reader.acknowledgement(version))
        case .subscribe: packet = .subscribe(try reader.subscribe(version))
        case .suback: packet = .suback(try reader.suback(version))
        case .unsubscribe: packet = .unsubscribe(try reader.unsubscribe(version))
        case .unsuback: packet = .unsuback(try reader.unsuback(version))
        case .pingreq: packet = .pingreq
        case .pingresp: packet = .pingresp
        case .disconnect: packet = .disconnect(try reader.disconnect(version))
        case .auth where version == .v5: packet = .auth(try reader.auth())
        default: throw reader.malformed("packet type", .unknown)
        }
        try reader.expectEnd()
        return packet
    }
}

/// The first two to five bytes of a packet.
private struct FixedHeader {
    let kind: PacketKind
    let flags: UInt8
    /// Bytes of the header itself.
    let size: Int
    /// Bytes after the header.
    let remainingLength: Int

    /// `nil` until it is complete. `isStrict` refuses a length in more bytes than needed: MQTT 5.0 demands the shortest
    /// form, 3.1.1 does not, and some small clients always send four bytes.
    @inline(__always)
    init?(peeking buffer: ByteBuffer, isStrict: Bool) throws(DecodingError) {
        let start = buffer.readerIndex
        guard let first = buffer.getInteger(at: start, as: UInt8.self) else { return nil }
        // Four bits always name a kind.
        kind = PacketKind(rawValue: first >> 4) ?? .reserved
        flags = first & 0x0F
        guard kind != .reserved else { throw .malformed(kind, field: "packet type", .unknown) }
        var value = 0
        for position in 0..<4 {
            guard let byte = buffer.getInteger(at: start + 1 + position, as: UInt8.self) else { return nil }
            value |= Int(byte & 0x7F) << (7 * position)
            if byte & 0x80 == 0 {
                guard byte != 0 || position == 0 || !isStrict else {
                    throw .malformed(kind, field: "remaining length", .overlong)
                }
                size = 2 + position
                remainingLength = value
                return
            }
        }
        throw .malformed(kind, field: "remaining length", .overlong)
    }
}

extension PacketDecoder {
    /// The hot path: works on indices of the buffer that was read, and only slices topic, payload and properties.
    private func decodePublish(
        _ buffer: ByteBuffer, at bodyStart: Int, _ header: FixedHeader
    ) throws(DecodingError) -> Publish {
        guard let qos = QoS(rawValue: (header.flags >> 1) & 0b11) else {
            throw .malformed(.publish, field: "QoS", .outOfRange)
        }
        let duplicate = header.flags & 0b1000 != 0
        guard !duplicate || qos != .atMostOnce else { throw .malformed(.publish, field: "DUP at QoS 0", .notAllowed) }
        let end = bodyStart + header.remainingLength
        var index = bodyStart + 2
        guard index <= end, let topicLength = buffer.getInteger(at: bodyStart, as: UInt16.self),
            index + Int(topicLength) <= end, let topic = buffer.getSlice(at: index, length: Int(topicLength))
        else { throw .malformed(.publish, field: "topic name", .truncated) }
        if let flaw = topic.withUnsafeReadableBytes(UTF8Check.topicNameFlaw) {
            throw .malformed(.publish, field: "topic name", flaw)
        }
        index += Int(topicLength)

        var publish = Publish(
            topic: topic, payload: topic, qos: qos, retain: header.flags & 1 != 0, duplicate: duplicate)
        if qos != .atMostOnce {
            guard index + 2 <= end, let id = buffer.getInteger(at: index, as: UInt16.self) else {
                throw .malformed(.publish, field: "packet identifier", .truncated)
            }
            guard id != 0 else { throw .protocolError(.publish, field: "packet identifier", .zero) }
            publish.packetID = id
            index += 2
        }
        if version == .v5 {
            index = try decodeProperties(buffer, from: index, to: end, into: &publish)
        }
        guard topicLength > 0 || publish.topicAlias != 0 else {
            guard version == .v5 else { throw .malformed(.publish, field: "topic name", .empty) }
            throw .protocolError(.publish, field: "topic name without a topic alias", .empty)
        }
        guard let payload = buffer.getSlice(at: index, length: end - index) else {
            throw .malformed(.publish, field: "payload", .truncated)
        }
        publish.payload = payload
        return publish
    }

    /// Returns the index after the property block.
    @inline(__always)
    private func decodeProperties(
        _ buffer: ByteBuffer, from index: Int, to end: Int, into publish: inout Publish
    ) throws(DecodingError) -> Int {
        guard index < end, let rest = buffer.getSlice(at: index, length: end - index) else {
            throw .malformed(.publish, field: "property length", .truncated)
        }
        if rest.getInteger(at: 0, as: UInt8.self) == 0 { return index + 1 }
        var reader = PacketReader(kind: .publish, bytes: rest)
        let properties = try reader.messageProperties(.publish)
        publish.topicAlias = properties.topicAlias
        publish.messageExpiry = properties.messageExpiry
        publish.subscriptionIdentifiers = properties.subscriptionIdentifiers
        publish.applicationProperties = properties.application
        return end - reader.bytes.readableBytes
    }
}
