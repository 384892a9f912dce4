import NIOCore

extension ByteBuffer {
    /// Appends a packet in the shortest form that the version allows. What 3.1.1 has no place for is left out.
    ///
    /// Strings and binary fields hold at most 65,535 bytes, packets at most 268,435,455 behind the fixed header; the
    /// caller has bounded them.
    package mutating func write(_ packet: Packet, version: ProtocolVersion) {
        write(packet, version: version, maximumSize: .max)
    }

    /// As above for a receiver that takes packets of at most `maximumSize` bytes: reason string and user properties are
    /// dropped where they would exceed it (MQTT 5.0, 3.2.2.3.9 and the like). If that does not help nothing is written
    /// and the result is `false` (MQTT-3.1.2-24).
    @discardableResult
    package mutating func write(_ packet: Packet, version: ProtocolVersion, maximumSize: Int) -> Bool {
        let start = writerIndex
        encode(packet, version, diagnostics: true)
        if writerIndex - start <= maximumSize { return true }
        moveWriterIndex(to: start)
        guard version == .v5, packet.mayCarryDiagnostics else { return false }
        encode(packet, version, diagnostics: false)
        if writerIndex - start <= maximumSize { return true }
        moveWriterIndex(to: start)
        return false
    }

    /// PUBACK (0x40), PUBREC (0x50) or PUBCOMP (0x70) with success: the same four bytes in both versions.
    @inline(__always)
    package mutating func writeAcknowledgement(kind: UInt8, packetID: UInt16) {
        writeInteger(UInt32(kind) << 24 | 2 << 16 | UInt32(packetID))
    }

    private mutating func encode(_ packet: Packet, _ version: ProtocolVersion, diagnostics: Bool) {
        switch packet {
        case .connect(let connect): writePacket(.connect) { $0.writeBody(connect) }
        case .connack(let connack): writePacket(.connack) { $0.writeBody(connack, version, diagnostics) }
        case .publish(let publish): writePublish(publish, version)
        case .puback(let ack): writePacket(.puback) { $0.writeBody(ack, version, diagnostics) }
        case .pubrec(let ack): writePacket(.pubrec) { $0.writeBody(ack, version, diagnostics) }
        case .pubrel(let ack): writePacket(.pubrel) { $0.writeBody(ack, version, diagnostics) }
        case .pubcomp(let ack): writePacket(.pubcomp) { $0.writeBody(ack, version, diagnostics) }
        case .subscribe(let subscribe): writePacket(.subscribe) { $0.writeBody(subscribe, version) }
        case .suback(let suback): writePacket(.suback) { $0.writeBody(suback, version, diagnostics) }
        case .unsubscribe(let unsubscribe): writePacket(.unsubscribe) { $0.writeBody(unsubscribe, version) }
        case .unsuback(let unsuback): writePacket(.unsuback) { $0.writeBody(unsuback, version, diagnostics) }
        case .pingreq: writeInteger(UInt16(0xC000))
        case .pingresp: writeInteger(UInt16(0xD000))
        case .disconnect(let disconnect): writePacket(.disconnect) { $0.writeBody(disconnect, version, diagnostics) }
        case .auth(let auth): writePacket(.auth) { $0.writeBody(auth, diagnostics) }
        }
    }

    private mutating func writePacket(_ kind: PacketKind, _ writeBody: (inout ByteBuffer) -> Void) {
        var body = ByteBuffer()
        writeBody(&body)
        writeInteger(kind.rawValue << 4 | (kind.requiredFlags ?? 0))
        writeVariableByteInteger(body.readableBytes)
        writeImmutableBuffer(body)
    }
}

extension Packet {
    /// Whether it has a reason string or user properties that may be dropped.
    fileprivate var mayCarryDiagnostics: Bool {
        switch self {
        case .connack, .puback, .pubrec, .pubrel, .pubcomp, .suback, .unsuback, .disconnect, .auth: true
        case .connect, .publish, .subscribe, .unsubscribe, .pingreq, .pingresp: false
        }
    }
}

// MARK: - Fields

extension ByteBuffer {
    mutating func writeVariableByteInteger(_ value: Int) {
        precondition(value >= 0 && value <= 268_435_455, "MQTT encodes at most 268,435,455")
        var rest = UInt32(truncatingIfNeeded: value)
        while rest > 0x7F {
            writeInteger(UInt8(truncatingIfNeeded: rest & 0x7F) | 0x80)
            rest >>= 7
        }
        writeInteger(UInt8(truncatingIfNeeded: rest))
    }

    static func variableByteIntegerSize(_ value: Int) -> Int {
        if value < 128 { return 1 }
        if value < 16_384 { return 2 }
        return value < 2_097_152 ? 3 : 4
    }

    mutating func writeBinary(_ bytes: ByteBuffer) {
        precondition(bytes.readableBytes <= UInt16.max, "MQTT fields hold at most 65,535 bytes")
        writeInteger(UInt16(truncatingIfNeeded: bytes.readableBytes))
        writeImmutableBuffer(bytes)
    }

    mutating func writeUTF8(_ text: String) {
        let count = text.utf8.count
        precondition(count <= UInt16.max, "MQTT strings hold at most 65,535 bytes")
        writeInteger(UInt16(truncatingIfNeeded: count))
        writeString(text)
    }
}

/// Builds a property block; properties that are `nil` are left out.
struct PropertyWriter {
    private(set) var bytes = ByteBuffer()

    mutating func add(_ property: Property, _ value: (some FixedWidthInteger)?) {
        guard let value else { return }
        bytes.writeInteger(property.rawValue)
        bytes.writeInteger(value)
    }

    mutating func add(_ property: Property, _ value: Bool?) {
        add(property, value.map { UInt8($0 ? 1 : 0) })
    }

    mutating func add(_ property: Property, _ value: String?) {
        guard let value else { return }
        bytes.writeInteger(property.rawValue)
        bytes.writeUTF8(value)
    }

    mutating func add(_ property: Property, _ value: ByteBuffer?) {
        guard let value else { return }
        bytes.writeInteger(property.rawValue)
        bytes.writeBinary(value)
    }

    mutating func add(subscriptionIdentifier: UInt32?) {
        guard let subscriptionIdentifier else { return }
        bytes.writeInteger(Property.subscriptionIdentifier.rawValue)
        bytes.writeVariableByteInteger(Int(subscriptionIdentifier))
    }

    mutating func add(_ userProperties: [UserProperty]) {
        for property in userProperties {
            bytes.writeInteger(Property.userProperty.rawValue)
            bytes.writeUTF8(property.name)
            bytes.writeUTF8(property.value)
        }
    }

    /// Properties that are encoded already.
    mutating func add(encoded: ByteBuffer) { bytes.writeImmutableBuffer(encoded) }
}

extension ByteBuffer {
    mutating func writeProperties(_ build: (inout PropertyWriter) -> Void) {
        var writer = PropertyWriter()
        build(&writer)
        writeVariableByteInteger(writer.bytes.readableBytes)
        writeImmutableBuffer(writer.bytes)
    }
}
