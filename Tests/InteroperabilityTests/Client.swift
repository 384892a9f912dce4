import GatewaySupport
import MQTTWire
import NIOCore
import Operations
import Testing

/// A client as applications use one: it acknowledges what it gets and keeps it. One task uses it.
final class Client {
    struct Message: Equatable {
        var topic: String
        var payload: String
        var qos: QoS
        var retain = false
        var duplicate = false

        init(_ topic: String, _ payload: String, _ qos: QoS, retain: Bool = false, duplicate: Bool = false) {
            (self.topic, self.payload, self.qos) = (topic, payload, qos)
            (self.retain, self.duplicate) = (retain, duplicate)
        }
    }

    enum Failure: Error { case refused(ReasonCode), ended, unexpected(Packet) }

    let version: ProtocolVersion
    private(set) var connack = ConnAck(reason: .unspecifiedError)
    private(set) var messages: [Message] = []
    /// As they came, for their properties.
    private(set) var publishes: [Publish] = []
    private(set) var disconnect: Disconnect?
    /// Off: what comes is kept and not answered.
    var acknowledges = true
    private let socket: TestClient
    private var aliases: [UInt16: ByteBuffer] = [:]
    private var nextID: UInt16 = 0

    private init(_ socket: TestClient, _ version: ProtocolVersion) {
        self.socket = socket
        self.version = version
    }

    /// - Parameter stays: the session outlives the connection: without Clean Session, or with an expiry.
    static func connect(
        _ port: Int, _ id: String, _ version: ProtocolVersion = .v5, clean: Bool = true, stays: Bool = false,
        keepAlive: UInt16 = 60, will: Will? = nil, change: (inout Connect) -> Void = { _ in }
    ) async throws -> Client {
        let client = Client(try await TestClient.connect(port: port, version: version), version)
        var connect = Connect(
            version: version, clientID: id, cleanStart: clean && (version == .v5 || !stays), keepAlive: keepAlive,
            will: will, sessionExpiryInterval: version == .v5 && stays ? 600 : 0)
        change(&connect)
        try await client.send(.connect(connect))
        guard case .connack(let connack)? = try await client.socket.next() else { throw Failure.ended }
        guard !connack.reason.isFailure else { throw Failure.refused(connack.reason) }
        client.connack = connack
        return client
    }

    func send(_ packet: Packet) async throws { try await socket.send(packet, version: version) }

    func send(bytes: [UInt8]) async throws { try await socket.send(ByteBuffer(bytes: bytes)) }

    /// The next packet; `nil` when it was a message, or belonged to one.
    func next() async throws -> Packet? { try await step() }

    /// Of QoS 1 and 2 it waits for the last acknowledgement; the reason is that of the first.
    @discardableResult
    func publish(
        _ topic: String, _ payload: String, _ qos: QoS = .atMostOnce, retain: Bool = false, alias: UInt16 = 0,
        expiry: UInt32? = nil, properties: [UInt8] = []
    ) async throws -> ReasonCode {
        let id = qos == .atMostOnce ? 0 : newID()
        try await send(
            .publish(
                Publish(
                    topic: ByteBuffer(string: topic), payload: ByteBuffer(string: payload), packetID: id, qos: qos,
                    retain: retain, topicAlias: alias, messageExpiry: expiry,
                    applicationProperties: ByteBuffer(bytes: properties))))
        switch qos {
        case .atMostOnce: return .success
        case .atLeastOnce:
            guard case .puback(let answer) = try await answer(), answer.packetID == id else { throw Failure.ended }
            return answer.reason
        case .exactlyOnce:
            guard case .pubrec(let answer) = try await answer(), answer.packetID == id else { throw Failure.ended }
            guard !answer.reason.isFailure else { return answer.reason }
            try await send(.pubrel(Acknowledgement(packetID: id)))
            let end = try await self.answer()
            guard end == .pubcomp(Acknowledgement(packetID: id)) else { throw Failure.unexpected(end) }
            return answer.reason
        }
    }

    @discardableResult
    func subscribe(_ filters: String..., qos: QoS = .exactlyOnce, identifier: UInt32? = nil) async throws
        -> [ReasonCode]
    {
        try await subscribe(filters.map { Subscription(filter: $0, qos: qos) }, identifier: identifier)
    }

    @discardableResult
    func subscribe(_ subscriptions: [Subscription], identifier: UInt32? = nil) async throws -> [ReasonCode] {
        let id = newID()
        try await send(
            .subscribe(Subscribe(packetID: id, subscriptions: subscriptions, subscriptionIdentifier: identifier)))
        guard case .suback(let answer) = try await answer(), answer.packetID == id else { throw Failure.ended }
        return answer.reasons
    }

    func unsubscribe(_ filters: String...) async throws {
        let id = newID()
        try await send(.unsubscribe(Unsubscribe(packetID: id, filters: filters)))
        guard case .unsuback(let answer) = try await answer(), answer.packetID == id else { throw Failure.ended }
    }

    /// What has come since it was last asked: at least `count` messages, and all that the server sent before it answered a
    /// ping after those. A message whose publisher has its acknowledgement is among them.
    func received(_ count: Int = 0) async throws -> [Message] {
        while messages.count < count {
            if let packet = try await step() { throw Failure.unexpected(packet) }
        }
        try await send(.pingreq)
        let answer = try await answer()
        guard answer == .pingresp else { throw Failure.unexpected(answer) }
        defer { forget() }
        return messages
    }

    func forget() {
        messages = []
        publishes = []
    }

    func disconnect(_ packet: Disconnect = Disconnect()) async throws {
        try await send(.disconnect(packet))
        try await end()
    }

    /// Ends the connection without a word.
    func vanish() async { await socket.close() }

    /// Reads until the server has closed the connection; what comes until then is not answered any more.
    func end() async throws {
        acknowledges = false
        do {
            while true { _ = try await step() }
        } catch Failure.ended {}
    }

    private func newID() -> UInt16 {
        nextID += 1
        return nextID
    }

    private func answer() async throws -> Packet {
        while true {
            if let packet = try await step() { return packet }
        }
    }

    /// Reads one packet; `nil` when it was a message, or belonged to one.
    private func step() async throws -> Packet? {
        guard let packet = try await socket.next() else { throw Failure.ended }
        switch packet {
        case .publish(let publish): try await receive(publish)
        case .pubrel(let release):
            if acknowledges { try await send(.pubcomp(Acknowledgement(packetID: release.packetID))) }
        case .disconnect(let disconnect): self.disconnect = disconnect
        default: return packet
        }
        return nil
    }

    private func receive(_ publish: Publish) async throws {
        var topic = publish.topic
        if publish.topicAlias > 0 {
            if topic.readableBytes > 0 { aliases[publish.topicAlias] = topic }
            topic = try #require(aliases[publish.topicAlias], "an alias that no message has named")
        }
        publishes.append(publish)
        messages.append(
            Message(
                String(buffer: topic), String(buffer: publish.payload), publish.qos, retain: publish.retain,
                duplicate: publish.duplicate))
        guard acknowledges else { return }
        switch publish.qos {
        case .atMostOnce: break
        case .atLeastOnce: try await send(.puback(Acknowledgement(packetID: publish.packetID)))
        case .exactlyOnce: try await send(.pubrec(Acknowledgement(packetID: publish.packetID)))
        }
    }
}

/// A gateway that lets its clients do everything but subscribe to `test/nosubscribe`, as `paho.yaml` does.
func withServer(_ body: @escaping @Sendable (Int) async throws -> Void) async throws {
    var configuration = gatewayConfiguration()
    configuration.access = [
        .init(verdict: .deny, action: .subscribe, topic: "test/nosubscribe"),
        .init(verdict: .allow, action: .all, topic: "#"), .init(verdict: .allow, action: .publish, topic: "$own/#"),
    ]
    configuration.deviceLimits.messagesPerSecond = nil
    configuration.deviceLimits.bytesPerSecond = nil
    configuration.mqtt.keepAliveMaximum = 60
    configuration.mqtt.maximumPacketSize = 4_096
    configuration.mqtt.receiveMaximum = 8
    configuration.buffer.freeDiskFloor = 0
    try await withGateway(configuration) { port, _ in try await body(port) }
}
