import MQTTSession
import MQTTWire
import NIOConcurrencyHelpers
import NIOCore
import Operations
import SyncModel

@testable import Buffer

/// Devices, the broker and its commits: what `GatewayDriver` does, without sockets.
extension World {
    private func now(_ edge: Edge) -> BrokerTime {
        let clocks = clock.system().now()
        return BrokerTime(
            monotonic: clocks.monotonicTime, gateway: edge.gatewayTime.microseconds(at: clocks.monotonicTime),
            clock: clocks)
    }

    // MARK: Devices

    func connect(_ index: Int) {
        guard let edge, devices[index].connection == nil else { return }
        generations[index] += 1
        devices[index].connection = generations[index]
        edge.broker.connect(
            devices[index].connect(), on: connection(index),
            identity: ClientIdentity(deviceID: devices[index].id, isLocal: false), assignedClientID: "none",
            now: now(edge), into: &edge.output)
        cycleEnded(edge)
    }

    private func connection(_ index: Int) -> ConnectionID {
        ConnectionID(slot: UInt32(index), generation: generations[index])
    }

    func publish(_ index: Int) {
        guard isFaulty else { return }
        after(within(2 * plan.pause), .publish(index), isOfEdge: false)
        guard let edge, devices[index].connection != nil else { return }
        if chance(plan.drop) { return dropConnection(index, edge) }
        guard devices[index].isOpen, devices[index].pending.count < ModelDevice.maximumPending else { return }
        let qos = QoS(rawValue: UInt8.random(in: 0...2, using: &random)) ?? .atMostOnce
        devices[index].count += 1
        let number = devices[index].count
        let topics = ModelDevice.topics + (plan.rules.isEmpty ? [] : [ModelDevice.noise, ModelDevice.numbers])
        let topic = topics[Int.random(in: 0..<topics.count, using: &random)]
        let message = ModelDevice.Pending(
            number: number, payload: payload(of: index, number, topic: topic), topic: topic,
            id: qos == .atMostOnce ? 0 : devices[index].newID(), qos: qos)
        truth.published[message.payload] = .init(device: devices[index].id, number: number, qos: qos)
        if qos != .atMostOnce { devices[index].pending.append(message) }
        edge.broker.receive(
            message.packet(isRepeat: false), on: connection(index), now: now(edge), into: &edge.output)
        cycleEnded(edge)
    }

    /// No two messages have the same.
    private func payload(of index: Int, _ number: Int, topic: String) -> String {
        let poison = chance(plan.poison) ? ModelCloud.poison + "/" : ""
        if topic == ModelDevice.numbers { return poison + "\((index + 1) * 1_000_000 + number)" }
        let length = Int.random(in: 0...plan.maximumPayload, using: &random)
        return poison + "\(devices[index].id)/\(number)/" + String(repeating: "x", count: length)
    }

    private func dropConnection(_ index: Int, _ edge: Edge) {
        note("\(devices[index].id) loses its connection")
        edge.broker.connectionClosed(connection(index), reason: .networkClosed, now: now(edge), into: &edge.output)
        devices[index].lose()
        after(within(3_000_000), .connect(index), isOfEdge: false)
        cycleEnded(edge)
    }

    private func perform(_ action: BrokerAction, _ edge: Edge) {
        switch action {
        case .acknowledge(let id, let kind, let packetID):
            let answer = Acknowledgement(packetID: packetID)
            switch kind {
            case .puback: receive(.puback(answer), on: id, edge)
            case .pubrec: receive(.pubrec(answer), on: id, edge)
            case .pubcomp: receive(.pubcomp(answer), on: id, edge)
            }
        case .send(let id, let packet): receive(packet, on: id, edge)
        case .close(let id, let reason):
            let index = Int(id.slot)
            guard devices[index].connection == id.generation else { return }
            note("\(devices[index].id) is closed: \(reason)")
            devices[index].lose()
            after(1_000_000, .connect(index), isOfEdge: false)
        case .deliver, .pauseReading, .resumeReading: break
        }
    }

    /// What the gateway sends reaches the device, or its connection breaks before.
    private func receive(_ packet: Packet, on id: ConnectionID, _ edge: Edge) {
        let index = Int(id.slot)
        guard devices[index].connection == id.generation else { return }
        if chance(plan.drop) { return dropConnection(index, edge) }
        switch packet {
        case .connack(let answer): connected(index, answer, edge)
        case .puback(let answer), .pubrec(let answer), .pubcomp(let answer):
            if let reply = devices[index].acknowledged(packet, id: answer.packetID) {
                edge.broker.receive(reply, on: id, now: now(edge), into: &edge.output)
            }
        default: break
        }
    }

    private func connected(_ index: Int, _ answer: ConnAck, _ edge: Edge) {
        guard answer.reason == .success else { return }
        if devices[index].hasSession, !answer.sessionPresent, !isDamaged, !hasBelievedWrongTime {
            truth.problem("\(devices[index].id) has lost its session")
            note("\(devices[index].id) has no session")
        }
        devices[index].hasSession = true
        devices[index].isOpen = true
        for message in devices[index].pending {
            if !message.isReleased { devices[index].resent.insert(message.number) }
            edge.broker.receive(
                message.packet(isRepeat: true), on: connection(index), now: now(edge), into: &edge.output)
        }
    }

    // MARK: Cycle

    func tick(_ edge: Edge) {
        after(500_000, .tick)
        let fill = edge.store.shared.fill.withLockedValue { $0 }
        edge.broker.storage = fill.isFull || edge.failedCommits > 0 ? .full : .open
        edge.broker.tick(now: now(edge), into: &edge.output)
        if plan.buffer.dropsOldest, fill.bytes > plan.buffer.maximumBytes + 200_000 {
            truth.problem("\(fill.bytes) bytes are in the buffer")
        }
        if bug == .dropWithoutLedger { dropSilently(edge) }
        cycleEnded(edge)
    }

    private func cycleEnded(_ edge: Edge) {
        performActions(edge)
        guard edge.pipeline.takesPending, !edge.output.group.isEmpty else { return }
        apply(
            edge.pipeline.pending(isLarge: edge.broker.isLarge(edge.output.group), now: clock.monotonic), edge)
    }

    private func performActions(_ edge: Edge) {
        while !edge.output.actions.isEmpty {
            let actions = edge.output.actions
            edge.output.actions = []
            edge.output.deliveredBytes = 0
            for action in actions { perform(action, edge) }
        }
    }

    // MARK: Commits

    func apply(_ action: CommitPipeline.Action, _ edge: Edge) {
        switch action {
        case .none, .stop: break
        case .scheduleHandOver: after(0, .handOver)
        case .handOver:
            let (changes, effects) = edge.output.group.takeState()
            edge.group = .init(drafts: edge.output.group.frames.take(), changes: changes, effects: effects)
            submit(edge)
            edge.broker.groupTaken(now: now(edge), into: &edge.output)
            cycleEnded(edge)
        case .retry: submit(edge)
        case .wake(let time): after(max(0, time - clock.monotonic), .pipelineTimer)
        }
    }

    private func submit(_ edge: Edge) {
        guard let group = edge.group else { return }
        if bug == .acknowledgementBeforeCommit {
            edge.group?.effects = []
            edge.broker.committed(group.effects, now: now(edge), into: &edge.output)
            performActions(edge)
        }
        guard !group.drafts.isEmpty || !group.changes.isEmpty else { return completed(edge) }
        after(within(plan.diskTime), .commit)
    }

    func commit(_ edge: Edge) {
        guard let group = edge.group else { return }
        let first = edge.store.lastSequence + 1
        let numbers = truth.attempted(
            group.drafts, epoch: edge.epoch, first: first, numbers: edge.numbers)
        let result = onWriter(edge, isCommit: true) { $0.commit(group.drafts, changes: group.changes) }
        guard !disk.isDead, let result else { return }
        if case .success(let receipt) = result {
            edge.numbers = numbers
            truth.confirmed(receipt, first: first)
            if receipt.messageCount > 0 { edge.recorded = receipt.lastSequence }
            note("commits \(receipt.messageCount) to \(receipt.lastSequence)")
        } else {
            note("commit fails: \(result)")
        }
        lookForStandIns(edge)
        after(10, .committed(result))
    }

    func committed(_ result: Result<CommitReceipt, BufferError>, _ edge: Edge) {
        switch result {
        case .success:
            edge.failedCommits = 0
            if edge.broker.storage == .full, !edge.store.shared.fill.withLockedValue({ $0.isFull }) {
                edge.broker.storage = .open
            }
            completed(edge)
        case .failure(let error):
            if error.mayPass { edge.broker.storage = .full }
            edge.failedCommits += 1
            let action = edge.pipeline.failed(mayPass: error.mayPass, now: clock.monotonic)
            apply(action, edge)
            if action == .stop { stop(error) }
        }
    }

    private func completed(_ edge: Edge) {
        guard let group = edge.group else { return }
        edge.group = nil
        var next = 0
        while next < group.effects.count {
            edge.output.deliveredBytes = 0
            next = edge.broker.committed(group.effects, from: next, now: now(edge), into: &edge.output)
            performActions(edge)
        }
        apply(
            edge.pipeline.committed(
                hasMore: !edge.output.group.isEmpty, isLarge: edge.broker.isLarge(edge.output.group),
                now: clock.monotonic), edge)
    }

    // MARK: The writer

    /// Runs a job as the writer's thread would, and what maintenance follows it.
    ///
    /// - Returns: `nil` where the writer has ended.
    func onWriter<Value>(_ edge: Edge, isCommit: Bool = false, _ body: (BufferStore) -> Value) -> Value? {
        let answer = JobAnswer<Value>()
        withoutActuallyEscaping(body) { body in
            nonisolated(unsafe) let body = body
            let job: WriterQueue.Job = { answer.value = body($0) }
            writerTurn(.jobs(commit: isCommit ? job : nil, other: isCommit ? nil : job), edge)
        }
        if !isCommit { lookForStandIns(edge) }
        return answer.value
    }

    func writerTurn(_ turn: WriterQueue.Turn, _ edge: Edge) {
        let announcements = edge.store.shared.announcements
        _ = edge.writer.take(turn)
        if edge.store.shared.announcements > announcements { announce(edge) }
        edge.idleTurn += 1
        if let idle = edge.writer.idleTime { after(max(1_000, Int64(idle * 1_000_000)), .idleTurn(edge.idleTurn)) }
    }
}

/// What a job on the writer has come to.
///
/// `@unchecked Sendable`: the job is run before `onWriter` returns, on the same thread.
private final class JobAnswer<Value>: @unchecked Sendable { var value: Value? }
