import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import MQTTSession

/// A broker and the reference model under the same random events: clients that come, go and break off, commits at any
/// moment, crashes. What each client gets is compared with what the model says it is owed.
final class ModelRun {
    let h: Harness
    var model = ReferenceModel()
    /// What the disk holds: the model when the last committed group was taken.
    var durable = ReferenceModel()
    var random: SeededGenerator
    let clients = (0..<5).map { ModelClient(UInt32($0)) }
    /// What the broker has sent on each connection and no client has seen, with the time of its sending.
    private var wire: [UInt32: [(seen: Seen, time: Int64)]] = [:]
    private var writing: (group: CommitGroup, model: ReferenceModel)?
    private var numbers = 0
    private var messages = 0
    /// Crashes so far.
    var life = 0
    /// By the number of what was owed: who got it, how, and in which life.
    var received: [Int: (form: ReferenceModel.Owed.Form, life: Int)] = [:]
    /// The last number by sender, topic, QoS, receiver and life.
    var lastInOrder: [String: Int] = [:]
    /// QoS 1 messages that came with DUP under the id that the client knew for the same.
    var repeats: Set<ModelClient.Received> = []
    private(set) var script: [String] = []
    private(set) var problems: [String] = []

    init(seed: UInt64) {
        random = SeededGenerator(state: seed)
        h = Harness {
            $0.queuedMessagesMaximum = 100_000
            $0.queuedBytesMaximum = 1 << 30
            $0.receiveMaximum = 100
            $0.keepAliveMaximum = .max
            $0.sessionExpiryMaximum = .max
            $0.systemTopicsInterval = nil
            $0.access.append(AccessRule(verdict: .allow, action: .all, topic: "$x/#"))
        }
    }

    func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &random) < percent }
    func choose<Value>(_ values: [Value]) -> Value { values[Int.random(in: 0..<values.count, using: &random)] }
    func note(_ line: String) { script.append(line) }
    func problem(_ text: String) { if problems.count < 5 { problems.append("after step \(script.count): \(text)") } }

    private func number() -> Int {
        numbers += 1
        return numbers
    }

    // MARK: Steps

    func step() {
        let client = choose(clients)
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<12: if client.slot == nil || chance(15) { connect(client) }
        case 12..<40: publish(client)
        case 40..<54: subscribe(client)
        case 54..<58: unsubscribe(client)
        case 58..<72: commit()
        case 72..<84: answer(client)
        case 84..<89: breakOff(client)
        case 89..<92: disconnect(client)
        case 92..<97: advance(choose([1, 3, 20, 200]))
        case 97..<98: crash()
        default: takeGroup()
        }
        collect()
        if chance(70) { deliverAll() }
        compareSessions()
    }

    private func connect(_ client: ModelClient, mayBeClean: Bool = true) {
        client.lose(now: h.time, life: life)
        client.expire(now: h.time, life: life)
        let cleanStart = client.insistsOnCleanStart || (mayBeClean && chance(25))
        let expiry: UInt32 =
            client.version == .v311 ? (cleanStart ? 0 : .max) : mayBeClean ? choose([0, 5, 1_000, 1_000, .max]) : .max
        var will: ReferenceModel.PendingWill?
        if mayBeClean, chance(40) {
            messages += 1
            will = ReferenceModel.PendingWill(
                message: .init(
                    topic: "will/\(client.clientID)", payload: "w\(messages)",
                    qos: choose([.atMostOnce, .atLeastOnce, .exactlyOnce]), retain: chance(30)),
                delay: client.version == .v5 ? choose([0, 2, 60]) : 0,
                expiry: client.version == .v5 && chance(20) ? 30 : nil)
        }
        if cleanStart {
            client.insistsOnCleanStart = true
            client.forget()
        }
        client.asks(expiry: expiry == .max ? nil : Int64(expiry))
        let slot = client.nextSlot()
        note(
            "\(client.clientID) connects, slot \(slot), clean \(cleanStart), expiry \(expiry), will \(will?.delay ?? -1)"
        )
        client.expectsSession = model.connect(
            client.clientID, slot: slot, cleanStart: cleanStart, expiry: expiry == .max ? nil : Int64(expiry),
            will: will, now: h.time, number: number)
        client.slot = slot
        client.instance = model.session(client.clientID)?.instance ?? 0
        wire[slot] = []
        h.connect(
            slot,
            Connect(
                version: client.version, clientID: client.clientID, cleanStart: cleanStart, keepAlive: 0,
                will: will.map {
                    Will(
                        topic: $0.message.topic, payload: ByteBuffer(string: $0.message.payload), qos: $0.message.qos,
                        retain: $0.message.retain, delayInterval: UInt32($0.delay),
                        messageExpiry: $0.expiry.map { UInt32($0) })
                }, sessionExpiryInterval: expiry,
                receiveMaximum: client.version == .v5 ? choose([1, 2, 5]) : .max))
    }

    private func publish(_ client: ModelClient) {
        guard client.isConnected, client.pending.count < 8 else { return }
        messages += 1
        let qos: QoS = choose([.atMostOnce, .atLeastOnce, .exactlyOnce])
        let retain = chance(25)
        let message = ModelClient.Pending(
            topic: choose(["a", "a/b", "b/c", "$x/a", "up/a", "r/1", "r/2"]),
            payload: retain && chance(25) ? "" : "m\(messages)", id: qos == .atMostOnce ? 0 : client.newID(), qos: qos,
            retain: retain, expiry: client.version == .v5 && chance(25) ? choose([1, 30]) : nil)
        note(
            "\(client.clientID) publishes \(message.payload) on \(message.topic), QoS \(qos.rawValue), retain \(retain)"
        )
        if qos != .atMostOnce { client.pending.append(message) }
        send(message, of: client, isRepeat: false)
    }

    private func send(_ message: ModelClient.Pending, of client: ModelClient, isRepeat: Bool) {
        if model.take(message.id, qos: message.qos, from: client.clientID) {
            model.route(
                .init(
                    topic: message.topic, payload: message.payload, qos: message.qos, retain: message.retain,
                    expiresAt: message.expiry.map { h.time + Int64($0) * 1_000_000 }, sender: client.clientID),
                from: client.instance, now: h.time, number: number)
        }
        h.publish(
            client.slot!, message.topic, message.payload, qos: message.qos, id: message.id, retain: message.retain,
            dup: isRepeat, expiry: message.expiry)
    }

    private static let filters = [
        "#", "+", "a/#", "a/b", "+/c", "$x/#", "r/+", "will/+", "$share/g/a/#", "$share/g/#", "$share/h/+/c", "up/a",
    ]

    private func subscribe(_ client: ModelClient) {
        guard client.isConnected else { return }
        var filter = ReferenceModel.Filter(
            filter: choose(Self.filters), qos: choose([.atMostOnce, .atLeastOnce, .exactlyOnce]))
        var handling = RetainHandling.send
        if client.version == .v5 {
            filter.noLocal = filter.share == nil && chance(25)
            filter.retainAsPublished = chance(40)
            filter.identifier = chance(40) ? UInt32.random(in: 1...9, using: &random) : nil
            handling = choose([.send, .sendIfNew, .doNotSend])
        }
        note("\(client.clientID) subscribes to \(filter), \(handling)")
        model.subscribe(client.clientID, filter, handling: handling, now: h.time, number: number)
        h.subscribe(
            client.slot!, filter.filter, qos: filter.qos, identifier: filter.identifier, noLocal: filter.noLocal,
            retainAsPublished: filter.retainAsPublished, handling: handling)
    }

    private func unsubscribe(_ client: ModelClient) {
        guard client.isConnected else { return }
        let filter = choose(Self.filters)
        note("\(client.clientID) unsubscribes from \(filter)")
        model.unsubscribe(client.clientID, filter)
        h.receive(client.slot!, .unsubscribe(Unsubscribe(packetID: 9, filters: [filter])))
    }

    private func answer(_ client: ModelClient) {
        let packets = client.unanswered
        client.unanswered = []
        for packet in packets { if let slot = client.slot { h.receive(slot, packet) } }
    }

    /// The network fails: of what was under way to the client the last part is lost.
    private func breakOff(_ client: ModelClient) {
        guard let slot = client.slot else { return }
        note("\(client.clientID) breaks off")
        deliverFirstPart(of: client)
        client.lose(now: h.time, life: life)
        model.end(client.clientID, publishesWill: true, now: h.time, number: number)
        h.close(slot)
    }

    private func disconnect(_ client: ModelClient) {
        guard client.isConnected, let slot = client.slot else { return }
        let withWill = chance(30)
        let expiry: UInt32? = client.version == .v5 && chance(50) ? choose([0, 5, 1_000]) : nil
        note("\(client.clientID) disconnects, with will \(withWill), expiry \(expiry.map(String.init) ?? "as before")")
        deliverFirstPart(of: client)
        if let expiry, model.session(client.clientID)?.expiry != 0 { client.agrees(on: Int64(expiry)) }
        client.lose(now: h.time, life: life)
        // A session that was to end with its connection cannot be made to stay: an error, so the will is sent.
        let isError = model.session(client.clientID)?.expiry == 0 && expiry ?? 0 > 0
        if let expiry, !isError { model.setExpiry(client.clientID, Int64(expiry)) }
        model.end(client.clientID, publishesWill: withWill || isError, now: h.time, number: number)
        h.receive(
            slot,
            .disconnect(
                Disconnect(reason: withWill ? .disconnectWithWill : .success, sessionExpiryInterval: expiry)))
    }

    private func advance(_ seconds: Double) {
        note("\(seconds) s pass")
        h.advance(seconds: seconds)
        model.tick(now: h.time, number: number)
    }

    // MARK: The disk

    private func takeGroup() {
        guard writing == nil, !h.output.group.isEmpty else { return }
        writing = (h.output.group, model)
        h.output.group = CommitGroup()
    }

    private func commit() {
        takeGroup()
        guard let (full, taken) = writing else { return }
        var group = full
        note("commit")
        writing = nil
        h.store.apply(&group)
        durable = taken
        h.broker.committed(group.effects, now: h.now, into: &h.output)
    }

    private func crash() {
        takeGroup()
        let point = Int.random(in: 0..<3, using: &random)
        note("crash, point \(point)")
        if point > 0, let (full, taken) = writing {
            var group = full
            h.store.apply(&group)
            durable = taken
            let done = point == 1 ? 0 : Int.random(in: 0...group.effects.count, using: &random)
            h.broker.committed(Array(group.effects.prefix(done)), now: h.now, into: &h.output)
        }
        writing = nil
        collect()
        for client in clients {
            deliverFirstPart(of: client)
            client.lose(now: h.time, life: life)
        }
        wire = [:]
        life += 1
        model = durable
        h.restart(h.broker.configuration)
        model.restart(now: h.time)
        advance(0)
    }

    // MARK: What the clients get

    private func collect() {
        for seen in h.drain() { wire[seen.slot, default: []].append((seen, h.time)) }
    }

    private func deliverAll() {
        var isQuiet = false
        while !isQuiet {
            isQuiet = true
            for client in clients {
                guard let slot = client.slot, let items = wire[slot], !items.isEmpty else { continue }
                wire[slot] = []
                isQuiet = false
                for item in items where client.slot == slot { take(item.seen, item.time, client, isAlive: true) }
            }
            collect()
        }
    }

    private func deliverFirstPart(of client: ModelClient) {
        guard let slot = client.slot, let items = wire[slot] else { return }
        wire[slot] = []
        for item in items.prefix(Int.random(in: 0...items.count, using: &random)) {
            take(item.seen, item.time, client, isAlive: false)
        }
    }

    private func take(_ seen: Seen, _ time: Int64, _ client: ModelClient, isAlive: Bool) {
        switch seen {
        case .send(_, .connack(let connack)): if isAlive { resume(client, connack) }
        case .ack(_, .puback, let id): client.pending.removeAll { $0.id == id && $0.qos == .atLeastOnce }
        case .ack(_, .pubrec, let id):
            for index in client.pending.indices where client.pending[index].id == id {
                client.pending[index].isReleased = true
            }
            if isAlive { release(id, of: client) }
        case .ack(_, .pubcomp, let id): client.pending.removeAll { $0.id == id }
        case .send(_, .pubcomp(let ack)): client.pending.removeAll { $0.id == ack.packetID }
        case .deliver(_, let topic, let payload, let qos, let id, let retain, let dup, let ids):
            got(
                Arrival(
                    topic: topic, payload: payload, qos: qos, id: id, isDuplicate: dup, time: time,
                    form: .init(instance: client.instance, qos: qos, retain: retain, identifiers: ids.sorted())), client
            )
            guard qos != .atMostOnce else { return }
            let ack = Acknowledgement(packetID: id)
            reply(qos == .atLeastOnce ? .puback(ack) : .pubrec(ack), client, isAlive: isAlive)
        case .send(_, .pubrel(let ack)):
            client.known.remove(ack.packetID)
            reply(.pubcomp(Acknowledgement(packetID: ack.packetID)), client, isAlive: isAlive)
        case .close(_, let reason): problem("\(client.clientID) was closed: \(reason)")
        default: break
        }
    }

    /// Most answers go out at once, some later, some never.
    private func reply(_ packet: Packet, _ client: ModelClient, isAlive: Bool) {
        guard isAlive, let slot = client.slot else { return }
        if client.unanswered.isEmpty, chance(75) {
            h.receive(slot, packet)
        } else {
            client.unanswered.append(packet)
        }
    }

    private func release(_ id: UInt16, of client: ModelClient) {
        model.release(id, of: client.clientID)
        h.receive(client.slot!, .pubrel(Acknowledgement(packetID: id)))
    }

    private func resume(_ client: ModelClient, _ connack: ConnAck) {
        if connack.reason != .success || connack.sessionPresent != client.expectsSession {
            problem("\(client.clientID): CONNACK says \(connack.sessionPresent), expected \(client.expectsSession)")
        }
        client.isConnected = true
        client.insistsOnCleanStart = false
        client.agreesOnWhatItAsked()
        if !connack.sessionPresent { client.forget() }
        for message in client.pending {
            if message.isReleased {
                release(message.id, of: client)
            } else {
                send(message, of: client, isRepeat: true)
            }
        }
    }

    // MARK: The end

    func finish() {
        for _ in 0..<400 {
            for client in clients where client.slot == nil { connect(client, mayBeClean: false) }
            collect()
            deliverAll()
            for client in clients { answer(client) }
            commit()
            collect()
            let isQuiet =
                h.output.group.isEmpty && writing == nil
                && clients.allSatisfy { client in
                    client.isConnected && client.pending.isEmpty && client.unanswered.isEmpty
                        && client.slot.map { wire[$0]?.isEmpty ?? true } ?? false
                }
                && h.broker.sessions.allSatisfy { $0.queuedMessages == 0 }
            if isQuiet { return }
        }
        problem("it does not come to an end")
    }
}
