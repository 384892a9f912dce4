import MQTTSession
import MQTTWire
import NIOCore
import SyncModel
import Testing

/// An action in a form that can be compared.
enum Seen: Equatable {
    case send(UInt32, Packet)
    case ack(UInt32, AcknowledgementKind, UInt16)
    case deliver(UInt32, String, String, qos: QoS, id: UInt16, retain: Bool, dup: Bool, ids: [UInt32])
    case close(UInt32, CloseReason)
    case pause(UInt32)
    case resume(UInt32)

    init(_ action: BrokerAction) {
        switch action {
        case .send(let c, let packet): self = .send(c.slot, packet.withoutReasonString)
        case .acknowledge(let c, let kind, let id): self = .ack(c.slot, kind, id)
        case .deliver(let c, let d):
            self = .deliver(
                c.slot, String(buffer: d.message.topic), String(buffer: d.message.payload), qos: d.qos,
                id: d.packetID, retain: d.retain, dup: d.duplicate, ids: d.subscriptionIdentifiers)
        case .close(let c, let reason): self = .close(c.slot, reason)
        case .pauseReading(let c): self = .pause(c.slot)
        case .resumeReading(let c): self = .resume(c.slot)
        }
    }
}

extension Packet {
    /// Reason strings are looked at by tests of their own.
    var withoutReasonString: Packet {
        switch self {
        case .connack(var packet):
            packet.reasonString = nil
            return .connack(packet)
        case .puback(var packet):
            packet.reasonString = nil
            return .puback(packet)
        case .pubrec(var packet):
            packet.reasonString = nil
            return .pubrec(packet)
        case .suback(var packet):
            packet.reasonString = nil
            return .suback(packet)
        case .disconnect(var packet):
            packet.reasonString = nil
            return .disconnect(packet)
        default: return self
        }
    }
}

/// A delivery with the usual flags.
func delivered(
    _ slot: UInt32, _ topic: String, _ payload: String, qos: QoS = .atMostOnce, id: UInt16 = 0, retain: Bool = false,
    dup: Bool = false, ids: [UInt32] = []
) -> Seen {
    .deliver(slot, topic, payload, qos: qos, id: id, retain: retain, dup: dup, ids: ids)
}

/// What was put into a frame.
struct Synced: Equatable {
    var topic: String
    var payload: String
    var flags: UInt64
}

/// Durable state as the buffer keeps it: the changes, applied in order.
struct ReferenceStore {
    var sessions: [SessionID: RestoredSession] = [:]
    var retained: [ByteBuffer: StoredPublish] = [:]
    var synced: [Synced] = []
    var refusals: [String: RefusalRecord] = [:]

    mutating func apply(_ change: DurableChange) {
        switch change {
        case .sessionSaved(let record):
            if sessions[record.id] == nil { sessions[record.id] = RestoredSession(record: record) }
            sessions[record.id]!.record = record
        case .sessionRemoved(let id): sessions[id] = nil
        case .sessionDisconnected(let id, let at): sessions[id]!.disconnectedAt = at
        case .subscriptionSaved(let id, let subscription, let identifier):
            sessions[id]!.subscriptions.removeAll { $0.subscription.filter == subscription.filter }
            sessions[id]!.subscriptions.append(RestoredSubscription(subscription: subscription, identifier: identifier))
        case .subscriptionRemoved(let id, let filter):
            sessions[id]!.subscriptions.removeAll { $0.subscription.filter == filter }
        case .queued(let id, let order, let message, let packetID):
            #expect(order > sessions[id]!.queue.last?.order ?? 0)
            sessions[id]!.queue.append(
                QueuedRecord(order: order, message: message, stage: packetID == 0 ? .queued : .sent, packetID: packetID)
            )
        case .stageChanged(let id, let order, let stage, let packetID):
            let index = sessions[id]!.queue.firstIndex { $0.order == order }!
            sessions[id]!.queue[index].stage = stage
            sessions[id]!.queue[index].packetID = packetID
        case .dequeued(let id, let order):
            let before = sessions[id]!.queue.count
            sessions[id]!.queue.removeAll { $0.order == order }
            #expect(sessions[id]!.queue.count == before - 1)
        case .packetIDReceived(let id, let packetID):
            #expect(!sessions[id]!.receivedPacketIDs.contains(packetID))
            sessions[id]!.receivedPacketIDs.append(packetID)
        case .packetIDReleased(let id, let packetID):
            sessions[id]!.receivedPacketIDs.removeAll { $0 == packetID }
        case .willSaved(let id, let will): sessions[id]!.will = will
        case .willRemoved(let id):
            #expect(sessions[id]!.will != nil)
            sessions[id]!.will = nil
        case .retained(let message): retained[message.topic] = message
        case .retainedRemoved(let topic): retained[topic] = nil
        case .refusalsCounted(let record): refusals[record.device] = record
        case .refusalsForgotten(let device): refusals[device] = nil
        }
    }

    mutating func apply(_ group: inout CommitGroup) {
        for change in group.changes { apply(change) }
        for draft in group.frames.take() { synced += Self.records(draft.records) }
    }

    var state: RestoredState {
        RestoredState(
            sessions: sessions.values.sorted { $0.record.id < $1.record.id }, retained: Array(retained.values),
            refusals: refusals.values.sorted { $0.device < $1.device })
    }

    /// The records of a frame, read by hand: tag, length, and fields of one byte of tag each.
    private static func records(_ buffer: ByteBuffer) -> [Synced] {
        var buffer = buffer
        var found: [Synced] = []
        while buffer.readInteger(as: UInt8.self) != nil {
            var record = buffer.readSlice(length: Int(varint(&buffer)))!
            var synced = Synced(topic: "", payload: "", flags: 0)
            while let tag = record.readInteger(as: UInt8.self) {
                let value = varint(&record)
                switch tag >> 3 {
                case 2: synced.flags = value
                case 4: synced.topic = record.readString(length: Int(value))!
                case 5: synced.payload = record.readString(length: Int(value))!
                case 6: record.moveReaderIndex(forwardBy: Int(value))
                default: break
                }
            }
            found.append(synced)
        }
        return found
    }

    private static func varint(_ buffer: inout ByteBuffer) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while let byte = buffer.readInteger(as: UInt8.self) {
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { break }
            shift += 7
        }
        return value
    }
}

/// A broker with its storage, and the part of the driver that matters: groups are committed when the test says so.
final class Harness {
    var broker: Broker
    var output = BrokerOutput()
    var store = ReferenceStore()
    /// Microseconds.
    var time: Int64 = 1_000_000
    private var generations: [UInt32: UInt32] = [:]

    static func configuration(_ change: (inout BrokerConfiguration) -> Void = { _ in }) -> BrokerConfiguration {
        var configuration = BrokerConfiguration()
        configuration.access = [AccessRule(verdict: .allow, action: .all, topic: "#")]
        configuration.uplinkFilters = ["up/#"]
        configuration.defaultRate = .unlimited
        configuration.globalMessagesPerSecond = nil
        change(&configuration)
        return configuration
    }

    init(_ configuration: BrokerConfiguration = Harness.configuration(), store: ReferenceStore = ReferenceStore()) {
        self.store = store
        broker = Broker(configuration: configuration, restoring: store.state, now: Self.time(1_000_000))
    }

    convenience init(_ change: (inout BrokerConfiguration) -> Void) { self.init(Harness.configuration(change)) }

    /// What a step has moved the wall clock by.
    var wallStep: Int64 = 0

    static func time(_ microseconds: Int64, wallStep: Int64 = 0) -> BrokerTime {
        BrokerTime(
            monotonic: microseconds, gateway: 3_000_000_000 + microseconds,
            clock: FrameClock(
                wallTime: 1_700_000_000_000_000 + wallStep + microseconds, monotonicTime: microseconds, bootHigh: 1,
                bootLow: 2,
                isSynchronised: true))
    }

    var now: BrokerTime { Self.time(time, wallStep: wallStep) }

    func id(_ slot: UInt32) -> ConnectionID { ConnectionID(slot: slot, generation: generations[slot] ?? 0) }

    /// What the broker did since the last call, without a commit.
    func drain() -> [Seen] {
        defer { output.actions.removeAll() }
        return output.actions.map(Seen.init)
    }

    /// Commits the open group; groups that come of it stay open.
    func commit() {
        var group = output.group
        output.group = CommitGroup()
        store.apply(&group)
        broker.committed(group.effects, now: now, into: &output)
    }

    /// Commits until nothing is left, and says what was done.
    func settle() -> [Seen] {
        while !output.group.isEmpty { commit() }
        return drain()
    }

    func restart(_ configuration: BrokerConfiguration = Harness.configuration()) {
        broker = Broker(configuration: configuration, restoring: store.state, now: now)
        output = BrokerOutput()
    }

    func advance(seconds: Double) {
        time += Int64(seconds * 1_000_000)
        broker.tick(now: now, into: &output)
    }

    // MARK: Packets

    func connect(_ slot: UInt32, _ packet: Connect, device: String? = "d1", isLocal: Bool = false) {
        generations[slot, default: 0] += 1
        broker.connect(
            packet, on: id(slot), identity: ClientIdentity(deviceID: device, isLocal: isLocal),
            assignedClientID: "assigned-\(generations[slot]!)", now: now, into: &output)
    }

    /// Connects and takes the CONNACK out of what is seen.
    @discardableResult
    func open(
        _ slot: UInt32, _ clientID: String, _ version: ProtocolVersion = .v5, clean: Bool = true, expiry: UInt32 = 0,
        device: String = "d1", will: Will? = nil, receiveMaximum: UInt16 = .max, maximumPacketSize: UInt32? = nil
    ) -> [Seen] {
        connect(
            slot,
            Connect(
                version: version, clientID: clientID, cleanStart: clean, keepAlive: 60, will: will,
                sessionExpiryInterval: expiry, receiveMaximum: receiveMaximum, maximumPacketSize: maximumPacketSize),
            device: device)
        return settle()
    }

    func receive(_ slot: UInt32, _ packet: Packet) {
        broker.receive(packet, on: id(slot), now: now, into: &output)
    }

    func publish(
        _ slot: UInt32, _ topic: String, _ payload: String = "x", qos: QoS = .atMostOnce, id packetID: UInt16 = 0,
        retain: Bool = false, dup: Bool = false, alias: UInt16 = 0, expiry: UInt32? = nil
    ) {
        broker.publish(
            Publish(
                topic: ByteBuffer(string: topic), payload: ByteBuffer(string: payload), packetID: packetID, qos: qos,
                retain: retain, duplicate: dup, topicAlias: alias, messageExpiry: expiry),
            on: id(slot), now: now, into: &output)
    }

    func subscribe(
        _ slot: UInt32, _ filter: String, qos: QoS = .atMostOnce, identifier: UInt32? = nil, noLocal: Bool = false,
        retainAsPublished: Bool = false, handling: RetainHandling = .send
    ) {
        receive(
            slot,
            .subscribe(
                Subscribe(
                    packetID: 1,
                    subscriptions: [
                        Subscription(
                            filter: filter, qos: qos, noLocal: noLocal, retainAsPublished: retainAsPublished,
                            retainHandling: handling)
                    ], subscriptionIdentifier: identifier)))
    }

    func close(_ slot: UInt32) {
        broker.connectionClosed(id(slot), reason: .networkClosed, now: now, into: &output)
    }
}

/// SplitMix64: the same numbers from the same seed.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
