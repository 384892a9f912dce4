import MQTTWire
import NIOCore
import SyncModel

@testable import MQTTSession

/// Bytes as a script of events for a broker: connections with odd fields, packets as decoded from bytes or made up, clocks,
/// commits at any moment, restarts. Whatever the bytes are, what `checkState` and `perform` demand holds.
///
/// It is run by libFuzzer (Tests/Fuzz) and, from seeds, by the ordinary tests.
struct SessionFuzz {
    /// A connection as the driver and the client at its other end see it.
    struct Client {
        let version: ProtocolVersion
        let receiveMaximum: Int
        let maximumPacketSize: Int
        var isConnected = false
        /// What the client has not answered; true after PUBREL was sent or PUBREC given.
        var outstanding: [UInt16: QoS] = [:]
    }

    static let receiveMaximum: UInt16 = 3
    static let inflightMaximum = 3
    static let heldMaximum = 2
    static let queuedMaximum = 6
    static let queuedBytesMaximum = 600
    static let subscriptionsMaximum = 4
    static let sessionsMaximum = 7
    static let retainedMaximum = 3

    var broker: Broker
    var output = BrokerOutput()
    var store = FuzzStore()
    /// Taken by the writer.
    var writing: CommitGroup?
    var clients: [ConnectionID: Client] = [:]
    var bytes: ScriptBytes
    /// Microseconds.
    private var time: Int64 = 1_000_000
    private var wallOffset: Int64 = 1_700_000_000_000_000
    private var generations: [UInt32] = [0, 0, 0, 0]
    private var isCommitting = false

    init(_ script: some Sequence<UInt8>) {
        bytes = ScriptBytes(script)
        broker = Broker(configuration: Self.configuration(0), restoring: RestoredState(), now: Self.time(1_000_000, 0))
    }

    /// Runs the script to its end, then commits what is left.
    static func run(_ script: some Sequence<UInt8>) throws(Violation) {
        var fuzz = SessionFuzz(script)
        while !fuzz.bytes.isAtEnd {
            try fuzz.step()
            try fuzz.perform()
            try fuzz.checkState()
        }
        var rounds = 0
        while fuzz.writing != nil || !fuzz.output.group.isEmpty {
            try fuzz.commit()
            try fuzz.checkState()
            rounds += 1
            try Violation.unless(rounds < 1_000, "commits lead to commits without an end")
        }
    }

    static func configuration(_ variant: Int) -> BrokerConfiguration {
        var configuration = BrokerConfiguration()
        configuration.receiveMaximum = variant == 1 ? 1 : receiveMaximum
        configuration.inflightMaximum = variant == 1 ? 2 : inflightMaximum
        configuration.maximumPacketSize = 512
        configuration.queuedMessagesMaximum = queuedMaximum - variant
        configuration.queuedBytesMaximum = queuedBytesMaximum
        configuration.sessionsMaximum = sessionsMaximum
        configuration.sessionsPerDeviceMaximum = 3
        configuration.subscriptionsPerSessionMaximum = subscriptionsMaximum
        configuration.retainedMessagesMaximum = retainedMaximum
        configuration.retainedBytesMaximum = 300
        configuration.heldMessagesMaximum = heldMaximum
        configuration.topicAliasMaximum = 2
        configuration.maximumTopicLevels = 4
        configuration.maximumDevices = 6
        configuration.maximumClientIDBytes = 40
        configuration.whenFull = variant == 2 ? .slow : .refuse
        configuration.defaultRate =
            switch variant {
            case 1: RatePolicy(messagesPerSecond: 2, burst: 2, bytesPerSecond: 500, overLimit: .slow)
            case 2: RatePolicy(messagesPerSecond: 2, burst: 2, bytesPerSecond: 500, overLimit: .refuse)
            default: .unlimited
            }
        configuration.uplinkFilters = ["up/#"]
        configuration.disclosesReasons = variant != 2
        if variant == 2 {
            configuration.access = [AccessRule(verdict: .deny, action: .subscribe, topic: "a/b")]
        }
        configuration.access.append(AccessRule(verdict: .allow, action: .all, topic: "#"))
        return configuration
    }

    static func time(_ monotonic: Int64, _ wall: Int64) -> BrokerTime {
        BrokerTime(
            monotonic: monotonic, gateway: monotonic,
            clock: FrameClock(
                wallTime: max(1, wall + monotonic), monotonicTime: monotonic, bootHigh: 1, bootLow: 2,
                isSynchronised: true))
    }

    var now: BrokerTime { Self.time(time, wallOffset) }

    // MARK: Events

    private mutating func step() throws(Violation) {
        let slot = UInt32(bytes.choose(4))
        let connection = ConnectionID(slot: slot, generation: generations[Int(slot)])
        switch bytes.choose(16) {
        case 0, 1: connect(slot, bytes.connect())
        case 2, 3, 4: broker.receive(.publish(bytes.publish()), on: connection, now: now, into: &output)
        case 5: broker.receive(.subscribe(bytes.subscribe()), on: connection, now: now, into: &output)
        case 6: answer(on: connection)
        case 7: broker.receive(bytes.rarePacket(), on: connection, now: now, into: &output)
        case 8: try raw(on: connection)
        case 9: take()
        case 10, 11: try commit()
        case 12: tick()
        case 13:
            broker.writabilityChanged(connection, isWritable: bytes.choose(2) == 0, now: now, into: &output)
        case 14:
            clients[connection] = nil
            broker.connectionClosed(connection, reason: .networkClosed, now: now, into: &output)
        default: try rareEvent(on: connection)
        }
    }

    private mutating func rareEvent(on connection: ConnectionID) throws(Violation) {
        switch bytes.choose(6) {
        case 0: broker.storage = bytes.choose(2) == 0 ? .open : .full
        case 1: broker.reconfigure(Self.configuration(bytes.choose(3)), now: now)
        case 2: try restart(bytes.choose(3))
        case 3: broker.inputIsHeld(now: now)
        case 4: broker.refuse(connection, reason: bytes.closeReason(), now: now, into: &output)
        default:
            broker.shutdown(now: now, into: &output)
            try perform()
            try restart(2)
        }
    }

    private mutating func connect(_ slot: UInt32, _ packet: Connect) {
        let old = ConnectionID(slot: slot, generation: generations[Int(slot)])
        // Now and then a second CONNECT; else the slot has another connection now, which ends one that was there.
        var connection = old
        if clients[old] == nil || bytes.choose(8) != 0 {
            generations[Int(slot)] += 1
            connection = ConnectionID(slot: slot, generation: generations[Int(slot)])
            clients[old] = nil
            clients[connection] = Client(
                version: packet.version, receiveMaximum: Int(packet.receiveMaximum),
                maximumPacketSize: packet.maximumPacketSize.map(Int.init) ?? .max)
        }
        let isLocal = bytes.choose(2) == 0
        let identity = ClientIdentity(deviceID: isLocal ? nil : ["d1", "d2"][bytes.choose(2)], isLocal: isLocal)
        broker.connect(
            packet, on: connection, identity: identity, assignedClientID: "assigned-\(connection.generation)-\(slot)",
            now: now, into: &output)
    }

    /// The client answers a message that it has.
    private mutating func answer(on connection: ConnectionID) {
        guard let outstanding = clients[connection]?.outstanding, !outstanding.isEmpty else { return }
        let ids = outstanding.keys.sorted()
        let id = ids[bytes.choose(ids.count)]
        let fails = bytes.choose(8) == 0
        let ack = Acknowledgement(packetID: id, reason: fails ? .unspecifiedError : .success)
        if outstanding[id] == .atLeastOnce {
            clients[connection]?.outstanding[id] = nil
            broker.receive(.puback(ack), on: connection, now: now, into: &output)
        } else if bytes.choose(2) == 0 {
            if fails { clients[connection]?.outstanding[id] = nil }
            broker.receive(.pubrec(ack), on: connection, now: now, into: &output)
        } else {
            broker.receive(.pubcomp(Acknowledgement(packetID: id)), on: connection, now: now, into: &output)
            // What was not released before is still owed.
            if !isInFlight(id, on: connection) { clients[connection]?.outstanding[id] = nil }
        }
    }

    private func isInFlight(_ id: UInt16, on connection: ConnectionID) -> Bool {
        let session = broker.slot(of: connection).map { broker.slots[$0].session }
        return session.flatMap { broker.sessionTable[$0]?.outgoing.inflightIndex(of: id) } != nil
    }

    /// Bytes as they come from a socket.
    private mutating func raw(on connection: ConnectionID) throws(Violation) {
        var buffer = ByteBuffer(bytes: bytes.next(count: bytes.choose(48)))
        var decoder = PacketDecoder(maximumPacketSize: 512)
        decoder.version = clients[connection]?.version
        do throws(DecodingError) {
            guard let packet = try decoder.next(&buffer) else { return }
            if case .connect(let connect) = packet {
                self.connect(connection.slot, connect)
            } else {
                broker.receive(packet, on: connection, now: now, into: &output)
                // Any answer may be among them: the client's own account ends here.
                clients[connection]?.outstanding = [:]
            }
        } catch {
            broker.refuse(connection, reason: .malformedPacket, now: now, into: &output)
        }
    }

    private mutating func tick() {
        time += [0, 1_000, 250_000, 2_000_000, 20_000_000, 500_000_000, 800_000_000_000][bytes.choose(7)]
        if bytes.choose(8) == 0 { wallOffset += bytes.choose(2) == 0 ? -3_600_000_000 : 1_577_880_000_000_000 }
        broker.tick(now: now, into: &output)
    }

    private mutating func take() {
        guard writing == nil, !output.group.isEmpty else { return }
        writing = output.group
        output.group = CommitGroup()
    }

    private mutating func commit() throws(Violation) {
        take()
        guard let group = writing else { return }
        writing = nil
        try store.apply(group.changes)
        isCommitting = true
        broker.committed(group.effects, now: now, into: &output)
        try perform()
        isCommitting = false
    }

    /// - Parameter kept: 0: the group at the writer is lost, 1: it is not, 2: the daemon ended in order.
    private mutating func restart(_ kept: Int) throws(Violation) {
        if kept > 0, let group = writing { try store.apply(group.changes) }
        if kept > 1 { try store.apply(output.group.changes) }
        writing = nil
        output = BrokerOutput()
        clients = [:]
        time += 1_000_000
        broker = Broker(configuration: broker.configuration, restoring: store.restart(), now: now)
    }

    // MARK: Actions

    /// Does what the broker says, and demands of every action what no action may break.
    private mutating func perform() throws(Violation) {
        let actions = output.actions
        output.actions = []
        for action in actions {
            switch action {
            case .send(let id, let packet): try send(packet, id)
            case .acknowledge(let id, let kind, _):
                try Violation.unless(isCommitting, "\(kind) before its commit")
                try Violation.unless(clients[id]?.isConnected == true, "\(kind) to nobody")
            case .deliver(let id, let delivery): try deliver(delivery, id)
            case .close(let id, let reason):
                try Violation.unless(clients[id] != nil, "closed twice: \(reason)")
                clients[id] = nil
            case .pauseReading(let id), .resumeReading(let id):
                try Violation.unless(clients[id] != nil, "paused or resumed after its end")
            }
        }
    }

    private mutating func send(_ packet: Packet, _ id: ConnectionID) throws(Violation) {
        guard let client = clients[id] else { throw Violation(description: "sent after the end: \(packet)") }
        let isStored = broker.slot(of: id).map { broker.sessionTable[broker.slots[$0].session]!.isStored } ?? false
        switch packet {
        case .connack(let connack):
            try Violation.unless(!client.isConnected, "a second CONNACK")
            try Violation.unless(isCommitting || !isStored, "\(packet) before its commit")
            clients[id]?.isConnected = connack.reason == .success
        case .suback, .unsuback, .pubcomp:
            try Violation.unless(isCommitting || !isStored, "\(packet) before its commit")
            fallthrough
        default: try Violation.unless(client.isConnected, "before CONNACK: \(packet)")
        }
        // Not where the client had ended the exchange before its PUBREL was committed.
        if case .pubrel(let ack) = packet, isInFlight(ack.packetID, on: id) {
            clients[id]?.outstanding[ack.packetID] = .exactlyOnce
        }
        var buffer = ByteBuffer()
        buffer.write(packet, version: client.version)
        var decoder = PacketDecoder(maximumPacketSize: 1 << 16)
        decoder.version = client.version
        let again = try? decoder.next(&buffer)
        try Violation.unless(again != nil && buffer.readableBytes == 0, "it cannot be read: \(packet)")
    }

    private mutating func deliver(_ delivery: Delivery, _ id: ConnectionID) throws(Violation) {
        guard let client = clients[id], client.isConnected else {
            throw Violation(description: "delivered to nobody: \(delivery.packetID)")
        }
        try Violation.unless(
            delivery.packetSize(client.version) <= client.maximumPacketSize, "too large for its client")
        try Violation.unless((delivery.qos == .atMostOnce) == (delivery.packetID == 0), "a packet id at QoS 0, or none")
        guard delivery.qos != .atMostOnce else { return }
        try Violation.unless(client.outstanding[delivery.packetID] == nil, "packet id \(delivery.packetID) is in use")
        clients[id]?.outstanding[delivery.packetID] = delivery.qos
        try Violation.unless(
            client.outstanding.count < max(client.receiveMaximum, 1), "more than the client's receive maximum")
        guard delivery.qos == .exactlyOnce, let slot = broker.slot(of: id),
            let session = broker.sessionTable[broker.slots[slot].session], session.isStored
        else { return }
        // A crash after the sending must find the id.
        let isDurable = store.sessions[session.id]?.queue.contains { $0.packetID == delivery.packetID } ?? false
        try Violation.unless(isDurable, "QoS 2 id \(delivery.packetID) was sent before it was durable")
    }
}
