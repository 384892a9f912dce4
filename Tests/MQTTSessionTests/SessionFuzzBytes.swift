import MQTTWire
import NIOCore

@testable import MQTTSession

/// A script's bytes, and packets made of them. Beyond the end all are 0.
struct ScriptBytes {
    private let bytes: [UInt8]
    private var position = 0

    init(_ bytes: some Sequence<UInt8>) { self.bytes = Array(bytes) }

    var isAtEnd: Bool { position >= bytes.count }

    mutating func next() -> UInt8 {
        defer { position += 1 }
        return position < bytes.count ? bytes[position] : 0
    }

    mutating func next(count: Int) -> [UInt8] { (0..<count).map { _ in next() } }

    mutating func choose(_ count: Int) -> Int { Int(next()) % count }

    private mutating func flag() -> Bool { next() & 1 == 1 }

    /// Few, so that they meet again.
    private mutating func packetID() -> UInt16 { [1, 2, 3, 4, 65_535][choose(5)] }

    private mutating func qos() -> QoS { [.atMostOnce, .atLeastOnce, .exactlyOnce][choose(3)] }

    private static let topics = ["up/a", "up/b", "a", "a/b", "a/b/c", "$SYS/x", "$x", "a/b/c/d/e", "up//", "ü"]
    private static let filters = [
        "#", "up/#", "+/a", "a/b", "$share/g/up/#", "$share/g/+", "$share/h/#", "$SYS/#", "a/#/b", "$share/g",
        "$share//x",
        "up/a", "+", "a/b/c/d/e", "$share/g/a/b",
    ]
    private static let clientIDs = [
        "c1", "c2", "c3", "", "c 4", "c5", "a client id that is longer than is allowed here",
    ]
    private static let expiries: [UInt32] = [0, 1, 60, 100_000, .max]

    private mutating func properties() -> ByteBuffer {
        switch choose(6) {
        case 0: ByteBuffer(bytes: [1, 1])
        case 1: ByteBuffer(bytes: [0x26, 0, 1, 0x6B, 0, 1, 0x76])
        default: ByteBuffer()
        }
    }

    private mutating func payload() -> ByteBuffer {
        switch choose(8) {
        case 0: ByteBuffer()
        case 1: ByteBuffer(bytes: [0xFF, 0xFE])
        case 2: ByteBuffer(repeating: 0x61, count: 250)
        default: ByteBuffer(string: "payload-\(next() & 7)")
        }
    }

    mutating func connect() -> Connect {
        let version: ProtocolVersion = flag() ? .v5 : .v311
        let cleanStart = flag()
        let expiry = Self.expiries[choose(5)]
        var packet = Connect(
            version: version, clientID: Self.clientIDs[choose(Self.clientIDs.count)], cleanStart: cleanStart,
            keepAlive: [0, 1, 60, 65_535][choose(4)],
            sessionExpiryInterval: version == .v5 ? expiry : cleanStart ? 0 : .max)
        let rare = next()
        if rare & 3 == 1 {
            packet.will = Will(
                topic: Self.topics[choose(Self.topics.count)], payload: payload(), qos: qos(), retain: flag(),
                delayInterval: version == .v5 ? [0, 1, 60, .max][choose(4)] : 0)
        }
        guard version == .v5 else { return packet }
        packet.receiveMaximum = [.max, 1, 2, 3][choose(4)]
        if rare & 12 == 4 { packet.maximumPacketSize = [20, 60, 300][choose(3)] }
        if rare & 48 == 16 { packet.topicAliasMaximum = [1, 5, .max][choose(3)] }
        if rare == 255 { packet.authenticationMethod = "x" }
        packet.requestProblemInformation = rare < 128
        return packet
    }

    mutating func publish() -> Publish {
        let qos = qos()
        var packet = Publish(
            topic: ByteBuffer(string: Self.topics[choose(Self.topics.count)]), payload: payload(),
            packetID: qos == .atMostOnce ? 0 : packetID(), qos: qos, retain: flag(),
            duplicate: qos != .atMostOnce && flag())
        let rare = next()
        if rare & 7 == 1 { packet.topicAlias = [1, 2, 3, 65_535][choose(4)] }
        if rare & 15 == 1 { packet.topic = ByteBuffer() }
        if rare & 24 == 8 { packet.messageExpiry = [0, 1, 60, .max][choose(4)] }
        if rare == 254 { packet.subscriptionIdentifiers = [1] }
        packet.applicationProperties = properties()
        return packet
    }

    mutating func subscribe() -> Subscribe {
        let subscriptions = (0..<[1, 1, 2, 6][choose(4)]).map { _ in
            let options = next()
            return Subscription(
                filter: Self.filters[choose(Self.filters.count)], qos: qos(), noLocal: options & 7 == 1,
                retainAsPublished: options & 8 != 0,
                retainHandling: [.send, .sendIfNew, .doNotSend, .send][Int(options >> 4 & 3)])
        }
        let identifier: UInt32? = [nil, nil, 0, 1, 268_435_455][choose(5)]
        return Subscribe(packetID: packetID(), subscriptions: subscriptions, subscriptionIdentifier: identifier)
    }

    mutating func rarePacket() -> Packet {
        let ack = Acknowledgement(packetID: packetID(), reason: choose(8) == 0 ? .unspecifiedError : .success)
        switch choose(10) {
        case 0, 1, 2, 3: return .pubrel(ack)
        case 4:
            return .unsubscribe(Unsubscribe(packetID: packetID(), filters: [Self.filters[choose(Self.filters.count)]]))
        case 5: return .pingreq
        case 6:
            let expiry: UInt32? = flag() ? Self.expiries[choose(5)] : nil
            return .disconnect(
                Disconnect(reason: flag() ? .success : .disconnectWithWill, sessionExpiryInterval: expiry))
        case 7: return .auth(Auth(reason: .success))
        case 8: return .connect(connect())
        default: return .suback(SubAck(packetID: packetID(), reasons: [.success]))
        }
    }

    /// What a driver ends a connection for.
    mutating func closeReason() -> CloseReason {
        [
            .malformedPacket, .packetTooLarge, .protocolError, .keepAliveTimeout, .slowReader, .certificateRevoked,
            .certificateExpired, .serverBusy, .networkError,
        ][choose(9)]
    }
}
