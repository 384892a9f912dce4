import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import MQTTSession

/// A publisher that keeps to the standard: it sends again what has no answer, with the same id, when it connects anew.
private struct Publisher {
    struct Pending {
        var payload: String
        var id: UInt16
        var qos: QoS
        /// QoS 2: PUBREC has come.
        var isReleased = false
    }

    let slot: UInt32
    let clientID: String
    let qos: QoS
    var isConnected = false
    var pending: [Pending] = []
    var nextID: UInt16 = 1
    var count = 0
    /// Payloads that the broker has promised.
    var promised: Set<String> = []

    mutating func id() -> UInt16 {
        // A narrow range, so that ids come round.
        repeat { nextID = nextID % 20 + 1 } while pending.contains { $0.id == nextID }
        return nextID
    }
}

/// A subscriber that keeps to the standard: a QoS 2 id is one message until PUBREL.
private struct Receiver {
    let slot: UInt32
    let clientID: String
    let qos: QoS
    var isConnected = false
    var known: Set<UInt16> = []
    var received: [String] = []
}

/// One run: publishers and subscribers with stored sessions, connections that break at any moment, and daemons that die
/// with their open groups and with or without the one that was being written.
private final class Simulation {
    let h = Harness {
        $0.queuedMessagesMaximum = 100_000; $0.queuedBytesMaximum = 1 << 30; $0.receiveMaximum = 100
    }
    var random: SeededGenerator
    var publishers: [Publisher]
    var receivers: [Receiver]
    /// Taken by the writer, not yet committed.
    var writing: CommitGroup?

    init(seed: UInt64) {
        random = SeededGenerator(state: seed)
        publishers = [
            Publisher(slot: 0, clientID: "p2", qos: .exactlyOnce),
            Publisher(slot: 1, clientID: "p1", qos: .atLeastOnce),
        ]
        receivers = [
            Receiver(slot: 2, clientID: "s2", qos: .exactlyOnce), Receiver(slot: 3, clientID: "s1", qos: .atLeastOnce),
        ]
    }

    func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &random) < percent }

    func version(_ slot: UInt32) -> ProtocolVersion { slot % 2 == 0 ? .v5 : .v311 }

    func connect(_ slot: UInt32, _ clientID: String, window: UInt16) {
        h.connect(
            slot,
            Connect(
                version: version(slot), clientID: clientID, cleanStart: false, sessionExpiryInterval: 100_000,
                receiveMaximum: window))
    }

    func step() {
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<40: publish(Int.random(in: 0..<publishers.count, using: &random))
        case 40..<60: takeGroup()
        case 60..<80: commitGroup()
        case 80..<84: dropConnection()
        case 84..<85: restart()
        default: connectAll()
        }
        act()
    }

    func publish(_ index: Int) {
        guard publishers[index].isConnected, publishers[index].pending.count < 15 else { return }
        let qos = publishers[index].qos
        publishers[index].count += 1
        let payload = "\(publishers[index].clientID)-\(publishers[index].count)"
        let id = publishers[index].id()
        publishers[index].pending.append(.init(payload: payload, id: id, qos: qos))
        h.publish(publishers[index].slot, "up/q", payload, qos: qos, id: id)
    }

    func takeGroup() {
        guard writing == nil, !h.output.group.isEmpty else { return }
        writing = h.output.group
        h.output.group = CommitGroup()
    }

    func commitGroup() {
        guard var group = writing else { return }
        writing = nil
        h.store.apply(&group)
        h.broker.committed(group.effects, now: h.now, into: &h.output)
    }

    func dropConnection() {
        let slot = UInt32.random(in: 0..<4, using: &random)
        // What was under way to the client is lost, now and then all of it.
        if chance(50) { h.output.actions.removeAll { Self.slot(of: $0) == slot } }
        act()
        h.close(slot)
        lose(slot)
    }

    func lose(_ slot: UInt32) {
        for index in publishers.indices where publishers[index].slot == slot { publishers[index].isConnected = false }
        for index in receivers.indices where receivers[index].slot == slot { receivers[index].isConnected = false }
    }

    func restart() {
        if var group = writing, chance(50) { h.store.apply(&group) }
        writing = nil
        h.restart(h.broker.configuration)
        for slot in UInt32(0)..<4 { lose(slot) }
    }

    func connectAll() {
        for index in publishers.indices where !publishers[index].isConnected {
            publishers[index].isConnected = true
            connect(publishers[index].slot, publishers[index].clientID, window: 100)
            for pending in publishers[index].pending {
                if pending.isReleased {
                    h.receive(publishers[index].slot, .pubrel(Acknowledgement(packetID: pending.id)))
                } else {
                    h.publish(
                        publishers[index].slot, "up/q", pending.payload, qos: pending.qos, id: pending.id, dup: true)
                }
            }
        }
        for index in receivers.indices where !receivers[index].isConnected {
            receivers[index].isConnected = true
            connect(receivers[index].slot, receivers[index].clientID, window: UInt16.random(in: 1...6, using: &random))
            h.subscribe(receivers[index].slot, "up/#", qos: receivers[index].qos, handling: .doNotSend)
        }
    }

    /// Does what the broker says until it says nothing more.
    func act() {
        while !h.output.actions.isEmpty {
            for action in h.drain() { act(on: action) }
        }
    }

    static func slot(of action: BrokerAction) -> UInt32 {
        switch action {
        case .send(let c, _), .acknowledge(let c, _, _), .deliver(let c, _), .close(let c, _), .pauseReading(let c),
            .resumeReading(let c):
            c.slot
        }
    }

    func act(on seen: Seen) {
        switch seen {
        case .ack(let slot, let kind, let id): acknowledge(Int(slot), kind, id)
        case .send(let slot, .pubcomp(let ack)): acknowledge(Int(slot), .pubcomp, ack.packetID)
        case .send(let slot, .publish(let publish)):
            receive(slot, String(buffer: publish.payload), publish.qos, publish.packetID)
        case .deliver(let slot, _, let payload, let qos, let id, _, _, _): receive(slot, payload, qos, id)
        case .send(let slot, .pubrel(let ack)):
            let index = Int(slot) - 2
            receivers[index].known.remove(ack.packetID)
            if chance(90) { h.receive(slot, .pubcomp(Acknowledgement(packetID: ack.packetID))) } else { breakOff(slot) }
        case .close(let slot, let reason): Issue.record("connection \(slot) closed: \(reason)")
        default: break
        }
    }

    func acknowledge(_ index: Int, _ kind: AcknowledgementKind, _ id: UInt16) {
        guard let position = publishers[index].pending.firstIndex(where: { $0.id == id }) else { return }
        switch kind {
        case .puback:
            publishers[index].promised.insert(publishers[index].pending.remove(at: position).payload)
        case .pubrec:
            publishers[index].promised.insert(publishers[index].pending[position].payload)
            publishers[index].pending[position].isReleased = true
            h.receive(UInt32(index), .pubrel(Acknowledgement(packetID: id)))
        case .pubcomp: publishers[index].pending.remove(at: position)
        }
    }

    func receive(_ slot: UInt32, _ payload: String, _ qos: QoS, _ id: UInt16) {
        let index = Int(slot) - 2
        guard receivers[index].isConnected else { return }
        if qos == .exactlyOnce {
            if receivers[index].known.insert(id).inserted { receivers[index].received.append(payload) }
        } else {
            receivers[index].received.append(payload)
        }
        let ack = Acknowledgement(packetID: id)
        if chance(90) {
            h.receive(slot, qos == .exactlyOnce ? .pubrec(ack) : .puback(ack))
        } else {
            breakOff(slot)
        }
    }

    func breakOff(_ slot: UInt32) {
        h.close(slot)
        lose(slot)
    }

    /// Lets everything come to an end.
    func finish() {
        for _ in 0..<10_000 {
            connectAll()
            takeGroup()
            commitGroup()
            act()
            if publishers.allSatisfy(\.pending.isEmpty), h.output.group.isEmpty, writing == nil,
                h.broker.sessions.allSatisfy({ $0.queuedMessages == 0 })
            {
                return
            }
        }
        Issue.record("it does not come to an end")
    }
}

@Suite struct SimulationTests {
    @Test(arguments: 1...60)
    func nothingPromisedIsLostAndNothingDoubledAtQoS2(seed: Int) {
        let run = Simulation(seed: UInt64(seed))
        // The subscriptions are there before the first message.
        run.finish()
        for _ in 0..<600 { run.step() }
        run.finish()

        let synced = run.h.store.synced.map(\.payload)
        let counts = Dictionary(synced.map { ($0, 1) }, uniquingKeysWith: +)
        for publisher in run.publishers {
            let all = Set((0..<publisher.count).map { "\(publisher.clientID)-\($0 + 1)" })
            #expect(publisher.promised == all)
            #expect(all.isSubset(of: counts.keys))
        }
        let exact = synced.filter { $0.hasPrefix("p2-") }
        #expect(Set(exact).count == exact.count)

        for receiver in run.receivers {
            let received = Dictionary(receiver.received.map { ($0, 1) }, uniquingKeysWith: +)
            #expect(Set(received.keys) == Set(counts.keys))
            // At QoS 1 a message comes at least as often as it was committed.
            let tooFew = counts.filter { received[$0.key, default: 0] < $0.value }
            #expect(tooFew.isEmpty)
            // QoS 2 on the whole way: each once, in the order of the commits.
            if receiver.qos == .exactlyOnce { #expect(receiver.received.filter { $0.hasPrefix("p2-") } == exact) }
        }
        #expect(run.h.store.sessions.values.allSatisfy { $0.queue.isEmpty && $0.receivedPacketIDs.isEmpty })
    }
}
