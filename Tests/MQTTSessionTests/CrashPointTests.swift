import Foundation
import MQTTWire
import NIOCore
import Testing

@testable import MQTTSession

/// A device that keeps to the standard. It publishes, or it subscribes at QoS 2.
private final class Device {
    struct Pending {
        var payload: String
        var id: UInt16
        /// QoS 2: PUBREC has come.
        var isReleased = false
    }

    let slot: UInt32
    let qos: QoS
    let version: ProtocolVersion
    let isStored: Bool
    let isSubscriber: Bool
    /// CONNACK has come, on this connection and ever.
    var isConnected = false
    var wasConnected = false
    var pending: [Pending] = []
    var count = 0
    /// How often each message went out.
    var sends: [String: Int] = [:]
    var promised: Set<String> = []
    private var nextID: UInt16 = 1
    /// As a receiver: a QoS 2 id is one message until PUBREL.
    var known: Set<UInt16> = []
    var received: [String] = []

    var clientID: String { "c\(slot)" }
    var topic: String { qos == .atLeastOnce && isStored ? "up/state" : "up/event" }

    init(_ slot: UInt32, _ qos: QoS, _ version: ProtocolVersion, isStored: Bool, isSubscriber: Bool = false) {
        self.slot = slot
        self.qos = qos
        self.version = version
        self.isStored = isStored
        self.isSubscriber = isSubscriber
    }

    /// From a narrow range, so that ids come round.
    func newID() -> UInt16 {
        repeat { nextID = nextID % 20 + 1 } while pending.contains { $0.id == nextID }
        return nextID
    }
}

/// Lives of a daemon that all end in a crash, each at some step of a commit, with devices that send again what has no
/// answer. The disk keeps what was fsynced; what was written only, it keeps or not.
private final class CrashSimulation {
    enum Point: CaseIterable {
        /// The writer has the group and has done nothing.
        case beforeWrite
        /// The transaction is written and not fsynced: it survives or not.
        case beforeFsync
        /// It is durable, nobody knows.
        case beforeEffects
        case betweenEffects
        /// Everything was said; how much of it went out is chance.
        case afterEffects
    }

    let h = Harness {
        $0.queuedMessagesMaximum = 100_000; $0.queuedBytesMaximum = 1 << 30; $0.receiveMaximum = 100
    }
    var random: SeededGenerator
    let devices = [
        Device(0, .exactlyOnce, .v5, isStored: true), Device(1, .exactlyOnce, .v311, isStored: true),
        Device(2, .atLeastOnce, .v5, isStored: true), Device(3, .atLeastOnce, .v311, isStored: false),
        Device(4, .exactlyOnce, .v5, isStored: false),
        Device(5, .exactlyOnce, .v5, isStored: true, isSubscriber: true),
    ]
    var crashes: [Point: Int] = [:]
    /// How often each message is on the disk.
    var durable: [String: Int] = [:]
    private var counted = 0

    init(seed: UInt64) { random = SeededGenerator(state: seed) }

    func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &random) < percent }

    // MARK: Devices

    func connectAll() {
        for device in devices where !device.isConnected {
            h.connect(
                device.slot,
                Connect(
                    version: device.version, clientID: device.clientID, cleanStart: !device.isStored,
                    sessionExpiryInterval: device.isStored ? 100_000 : 0,
                    receiveMaximum: device.isSubscriber ? UInt16.random(in: 1...5, using: &random) : 100))
        }
    }

    func publish(_ device: Device) {
        guard device.isConnected, !device.isSubscriber, device.pending.count < 15 else { return }
        device.count += 1
        let message = Device.Pending(payload: "\(device.clientID)-\(device.count)", id: device.newID())
        device.pending.append(message)
        send(message, of: device, isRepeat: false)
    }

    func send(_ message: Device.Pending, of device: Device, isRepeat: Bool) {
        device.sends[message.payload, default: 0] += 1
        h.publish(
            device.slot, device.topic, message.payload, qos: device.qos, id: message.id,
            retain: device.topic == "up/state", dup: isRepeat)
    }

    /// CONNACK: what has no answer goes out again, in order; a session that was not to outlive its connection starts anew.
    func resume(_ device: Device, _ connack: ConnAck) {
        if connack.reason != .success || connack.sessionPresent != (device.isStored && device.wasConnected) {
            // The first CONNACK may have been lost.
            #expect(
                device.isStored && !device.wasConnected && connack.reason == .success, "\(device.clientID): \(connack)")
        }
        device.isConnected = true
        device.wasConnected = true
        if !device.isStored, device.qos == .exactlyOnce { device.pending = [] }
        for message in device.pending {
            if message.isReleased {
                h.receive(device.slot, .pubrel(Acknowledgement(packetID: message.id)))
            } else {
                send(message, of: device, isRepeat: device.isStored)
            }
        }
        if device.isSubscriber { h.subscribe(device.slot, "up/#", qos: .exactlyOnce, handling: .doNotSend) }
    }

    /// - Parameter isAlive: whether the daemon still hears the answer.
    func take(_ seen: Seen, _ device: Device, isAlive: Bool) {
        func answer(_ packet: Packet) { if isAlive { h.receive(device.slot, packet) } }
        switch seen {
        case .send(_, .connack(let connack)) where isAlive: resume(device, connack)
        case .ack(_, .puback, let id):
            device.pending.removeAll { message in
                if message.id == id { device.promised.insert(message.payload) }
                return message.id == id
            }
        case .ack(_, .pubrec, let id):
            for index in device.pending.indices where device.pending[index].id == id {
                device.promised.insert(device.pending[index].payload)
                device.pending[index].isReleased = true
                answer(.pubrel(Acknowledgement(packetID: id)))
            }
        case .ack(_, .pubcomp, let id): device.pending.removeAll { $0.id == id }
        case .send(_, .pubcomp(let ack)): device.pending.removeAll { $0.id == ack.packetID }
        case .deliver(_, _, let payload, .exactlyOnce, let id, _, _, _):
            if device.known.insert(id).inserted { device.received.append(payload) }
            answer(.pubrec(Acknowledgement(packetID: id)))
        case .deliver(_, _, let payload, _, let id, _, _, _):
            device.received.append(payload)
            answer(.puback(Acknowledgement(packetID: id)))
        case .send(_, .pubrel(let ack)):
            device.known.remove(ack.packetID)
            answer(.pubcomp(ack))
        case .close(let slot, let reason): Issue.record("connection \(slot) closed: \(reason)")
        default: break
        }
    }

    // MARK: The promise

    /// Whatever leaves the broker must be on the disk at that moment.
    func emitted() -> [Seen] {
        let actions = h.drain()
        for action in actions {
            switch action {
            case .ack(let slot, let kind, let id):
                let device = devices[Int(slot)]
                if kind == .pubcomp {
                    #expect(!device.isStored || stored(device)?.receivedPacketIDs.contains(id) == false)
                } else if let message = device.pending.first(where: { $0.id == id }) {
                    #expect(durable[message.payload] != nil, "\(kind) of \(message.payload) before its commit")
                    if device.topic == "up/state" { checkRetained(message.payload) }
                }
            case .send(let slot, .suback):
                #expect(stored(devices[Int(slot)])?.subscriptions.count == 1)
            case .send(let slot, .connack) where devices[Int(slot)].isStored:
                #expect(stored(devices[Int(slot)]) != nil)
            default: break
            }
        }
        return actions
    }

    func stored(_ device: Device) -> RestoredSession? {
        h.store.sessions.values.first { $0.record.key.clientID == device.clientID }
    }

    /// The retained message is the acknowledged one or a later one.
    func checkRetained(_ payload: String) {
        let number = { (text: String) in text.split(separator: "-").last.flatMap { Int($0) } ?? 0 }
        let retained = h.store.retained[ByteBuffer(string: "up/state")].map { String(buffer: $0.payload) } ?? ""
        #expect(number(retained) >= number(payload))
    }

    func fsync(_ group: inout CommitGroup) {
        h.store.apply(&group)
        for message in h.store.synced[counted...] { durable[message.payload, default: 0] += 1 }
        counted = h.store.synced.count
    }

    // MARK: A life

    func takeGroup() -> CommitGroup {
        defer { h.output.group = CommitGroup() }
        return h.output.group
    }

    /// The devices get what was said, and answer, until nothing more is said.
    func deliverAll() {
        while !h.output.actions.isEmpty {
            for action in emitted() { take(action, devices[Int(action.slot)], isAlive: true) }
        }
    }

    func commitOnce() {
        var group = takeGroup()
        fsync(&group)
        h.broker.committed(group.effects, now: h.now, into: &h.output)
        deliverAll()
    }

    func live() {
        connectAll()
        deliverAll()
        for _ in 0..<Int.random(in: 1...6, using: &random) {
            for _ in 0..<Int.random(in: 0...3, using: &random) { publish(devices.randomElement(using: &random)!) }
            deliverAll()
            commitOnce()
        }
    }

    func crash() {
        let point = Point.allCases.randomElement(using: &random)!
        crashes[point, default: 0] += 1
        for _ in 0..<Int.random(in: 0...4, using: &random) { publish(devices.randomElement(using: &random)!) }
        var group = takeGroup()
        // While the writer is at work the next group fills; no crash leaves anything of it.
        for _ in 0..<Int.random(in: 0...2, using: &random) { publish(devices.randomElement(using: &random)!) }
        switch point {
        case .beforeWrite: break
        case .beforeFsync: if chance(50) { fsync(&group) }
        case .beforeEffects: fsync(&group)
        case .betweenEffects:
            fsync(&group)
            let done = Int.random(in: 0...group.effects.count, using: &random)
            h.broker.committed(Array(group.effects.prefix(done)), now: h.now, into: &h.output)
        case .afterEffects:
            fsync(&group)
            h.broker.committed(group.effects, now: h.now, into: &h.output)
        }
        // Of what was said, each connection gets the first part, and nobody hears an answer.
        let actions = emitted()
        for device in devices {
            let own = actions.filter { $0.slot == device.slot }
            for action in own.prefix(Int.random(in: 0...own.count, using: &random)) {
                take(action, device, isAlive: false)
            }
            device.isConnected = false
        }
        h.time += Int64.random(in: 0...500_000, using: &random)
        h.restart(h.broker.configuration)
        if chance(50) { h.advance(seconds: 0.3) }
    }

    /// Without a crash, until everything has its answer.
    func finish() {
        for _ in 0..<1_000 {
            connectAll()
            deliverAll()
            commitOnce()
            let isQuiet =
                h.output.group.isEmpty && devices.allSatisfy { $0.isConnected && $0.pending.isEmpty }
                && h.broker.sessions.allSatisfy { $0.queuedMessages == 0 }
            if isQuiet { return }
        }
        Issue.record("it does not come to an end")
    }
}

@Suite struct CrashPointTests {
    /// 100 crashes a seed; `SLUICE_TEST_SEEDS` is the number of seeds.
    static let seeds = ProcessInfo.processInfo.environment["SLUICE_TEST_SEEDS"].flatMap { Int($0) } ?? 60

    @Test(arguments: 1...seeds)
    func noCrashLosesWhatWasAcknowledgedOrDoublesQoS2(seed: Int) {
        let run = CrashSimulation(seed: UInt64(seed))
        // The subscription is there before the first message.
        run.finish()
        for _ in 0..<100 {
            run.live()
            run.crash()
        }
        run.finish()
        #expect(run.crashes.values.reduce(0, +) == 100 && run.crashes.count == CrashSimulation.Point.allCases.count)

        for device in run.devices where !device.isSubscriber {
            let all = (0..<device.count).map { "\(device.clientID)-\($0 + 1)" }
            for payload in all {
                let count = run.durable[payload, default: 0]
                let isPromised = device.promised.contains(payload)
                #expect(count > 0 || !isPromised, "seed \(seed): \(payload) was acknowledged and is lost")
                if device.qos == .exactlyOnce { #expect(count <= 1, "seed \(seed): \(payload) is there twice") }
                #expect(count <= device.sends[payload, default: 0], "seed \(seed): \(payload) is there too often")
            }
            // Whoever goes on with its session comes to an end with every message.
            if device.isStored || device.qos == .atLeastOnce { #expect(device.promised == Set(all)) }
            #expect(device.count > 50)
        }
        let committed = run.h.store.synced.map(\.payload)
        let received = run.devices[5].received
        // QoS 2 on the whole way: each once, in the order of the commits.
        for prefix in ["c0-", "c1-", "c4-"] {
            #expect(received.filter { $0.hasPrefix(prefix) } == committed.filter { $0.hasPrefix(prefix) })
        }
        #expect(Set(received) == Set(committed))
    }
}
