import MQTTSession
import NIOCore
import SyncModel

@testable import Buffer

/// The uplink's loop, the network and the cloud: what `UplinkService` does, without tasks.
extension World {
    func announce(_ edge: Edge) {
        guard !edge.isDataAnnounced else { return }
        edge.isDataAnnounced = true
        after(100, .tell(.dataAvailable(.init())))
    }

    func tell(_ event: UplinkState.Event, _ edge: Edge) {
        var event = event
        if case .dataAvailable = event {
            edge.isDataAnnounced = false
            event = .dataAvailable(edge.store.waitingBytes)
        }
        perform(edge.uplink.handle(event, now: clock.monotonic, using: &random), edge)
    }

    func perform(_ actions: [UplinkState.Action], _ edge: Edge) {
        for action in actions {
            switch action {
            case .wake(let time):
                edge.wakesAt = time
                after(max(0, time - clock.monotonic), .uplinkTimer)
            case .alarm(let status): note("alarm: \(status)")
            case .breaker, .stop: break
            case .startLive, .cut, .send, .acknowledge, .bury: after(within(2_000), .ask(action))
            }
        }
    }

    // MARK: The buffer

    func ask(_ action: UplinkState.Action, _ edge: Edge) {
        switch action {
        case .startLive:
            job(edge, { store throws(SQLiteError) in try store.startLive() }) { _ in
                .liveStarted(edge.store.waitingBytes)
            }
        case .cut(let lane, let maximumBytes):
            let messages = Int64(plan.buffer.messages)
            job(
                edge,
                { store throws(SQLiteError) in
                    try store.nextCut(in: lane, maximumBytes: Int64(maximumBytes), maximumMessages: messages)
                }
            ) { cut in
                edge.cut = cut
                self.note("cut \(cut.map { "\($0.id): \($0.firstFrame)...\($0.lastFrame)" } ?? "none"), \(lane)")
                return .cut(cut.map { .init(id: $0.id, bytes: $0.byteCount) })
            }
        case .acknowledge:
            guard let cut = edge.cut else { return }
            job(edge, { store throws(SQLiteError) in try store.acknowledge(cut) }) { isKnown in
                self.note("answered \(cut.id)")
                if !isKnown { self.truth.problem("cut \(cut.id) is not known") }
                return .acknowledged(edge.store.waitingBytes)
            }
        case .bury(let suspect):
            guard let cut = edge.cut else { return }
            let time = clock.wall
            job(edge, { store throws(SQLiteError) in try store.bury(suspect, in: cut, time: time) }) { burial in
                self.note("buries \(suspect.piece)")
                if burial == .notInCut {
                    self.truth.problem("\(suspect.piece) is not in cut \(cut.id)")
                }
                return burial == .done ? .buried : .gone
            }
        case .send(let content, let timeout): send(content, timeout: timeout, edge)
        case .wake, .alarm, .breaker, .stop: break
        }
    }

    /// A job of the uplink's, and the event that its outcome is.
    private func job<Value>(
        _ edge: Edge, _ body: (BufferStore) throws(SQLiteError) -> Value, _ event: (Value) -> UplinkState.Event
    ) {
        let result = withoutActuallyEscaping(body) { body in
            onWriter(edge) { store in store.attempt { () throws(SQLiteError) in try body(store) } }
        }
        guard !disk.isDead, let result else { return }
        switch result {
        case .success(let value): after(10, .tell(event(value)))
        case .failure(let error): failed(error)
        }
    }

    private func failed(_ error: BufferError) {
        note("the uplink's job fails: \(error)")
        switch error {
        case .closed, .corrupt: stop(error)
        default: after(10, .tell(.bufferFailed))
        }
    }

    // MARK: The network

    private func send(_ content: UplinkState.Content, timeout: Int64, _ edge: Edge) {
        guard let cut = edge.cut else { return }
        let read = onWriter(edge) { store in
            store.attempt { () throws(SQLiteError) in try self.contents(of: cut, store) }
        }
        guard !disk.isDead, let read else { return }
        switch read {
        case .failure(let error): failed(error)
        case .success(let contents):
            let all = contents.frames
            var batch = contents
            switch content {
            case .whole: break
            case .probe: batch.frames = []
            case .pieces(let pieces):
                guard let frames = all.parts(pieces) else {
                    truth.problem("a frame cannot be taken apart")
                    return
                }
                guard !frames.isEmpty else { return after(10, .tell(.gone)) }
                batch = Contents(frames: frames, accounts: [], ledger: [])
            }
            var encoder = BatchEncoder(
                gateway: Self.gateway, lane: cut.lane, accounts: batch.accounts, ledger: batch.ledger)
            for frame in batch.frames { encoder.append(header: frame.header, records: frame.records) }
            post(encoder.finish(), content, pieces: all.pieces, timeout: timeout, edge)
        }
    }

    private struct Contents {
        var frames: [StoredFrame]
        var accounts: [EpochAccount]
        var ledger: [LedgerLine]
    }

    /// As `Buffer.contents` puts it together.
    private func contents(of cut: Cut, _ store: BufferStore) throws(SQLiteError) -> Contents {
        let (accounts, ledger) = try store.accountsAndLedger(of: cut)
        guard let accounts, let ledger else {
            truth.problem("cut \(cut.id) is not open")
            return Contents(frames: [], accounts: [], ledger: [])
        }
        let buried = try store.buried(from: cut.firstFrame, through: cut.lastFrame)
        var frames: [StoredFrame] = []
        var next = cut.firstFrame
        while next <= cut.lastFrame {
            let slice = try store.frames(
                from: next, through: cut.lastFrame, maximumBytes: store.configuration.readSlice)
            for frame in slice.frames {
                if let positions = buried[frame.id] {
                    frames += frame.without(positions) ?? []
                } else {
                    frames.append(frame)
                }
            }
            next = slice.last + 1
        }
        return Contents(frames: frames, accounts: accounts, ledger: ledger)
    }

    private func post(
        _ bytes: ByteBuffer, _ content: UplinkState.Content, pieces: [BatchSplit.Piece], timeout: Int64, _ edge: Edge
    ) {
        requests += 1
        edge.request = .init(
            id: requests, content: content, sentBytes: bytes.readableBytes,
            pieces: content == .whole ? pieces : [])
        after(timeout, .timeout(requests))
        note("sends \(bytes.readableBytes) bytes, request \(requests)")
        if bug == .deletionBeforeAnswer, let cut = edge.cut {
            _ = onWriter(edge) { store in store.attempt { () throws(SQLiteError) in try store.acknowledge(cut) } }
        }
        if !chance(plan.network.lost) { arriveLater(bytes, plan.network.time) }
        if chance(plan.network.repeated) { arriveLater(bytes, 60_000_000) }
    }

    private func arriveLater(_ bytes: ByteBuffer, _ time: Int64) {
        after(within(time), .arrive(bytes, request: requests, life: life), isOfEdge: false)
    }

    func arrive(_ bytes: ByteBuffer, request: Int, life: Int) {
        if chance(plan.network.outage) { cloudIsBackAt = clock.now + within(30_000_000) }
        var status: Int
        var retryAfter: Int64?
        if isFaulty, clock.now < cloudIsBackAt {
            status = 503
        } else if chance(plan.network.refused) {
            status = Bool.random(using: &random) ? 429 : 503
            retryAfter = Bool.random(using: &random) ? within(5_000_000) : nil
        } else {
            status = cloud.receive(bytes)
            after(within(1_000_000), .process, isOfEdge: false)
        }
        note("request \(request) arrives: \(status)")
        guard life == self.life, !chance(plan.network.lostAnswer) else { return }
        after(within(plan.network.time), .answer(request, status: status, retryAfter: retryAfter))
    }

    func answered(_ id: Int, status: Int, retryAfter: Int64?, _ edge: Edge) {
        guard let request = edge.request, request.id == id else { return }
        edge.request = nil
        let answer = UplinkState.Answer(status: status, retryAfter: retryAfter, sentBytes: request.sentBytes)
        guard UplinkState.verdict(on: status) == .malformed else { return tell(.answer(answer), edge) }
        tell(.refused(answer, .init(pieces: request.pieces, reason: "poison")), edge)
    }

    func timedOut(_ id: Int, _ edge: Edge) {
        guard let request = edge.request, request.id == id else { return }
        edge.request = nil
        note("request \(id) gets no answer")
        tell(.failure(sentBytes: request.sentBytes, pieces: request.pieces), edge)
    }

    func process() {
        cloud.process(
            Int.random(in: 1...20, using: &random), crashes: chance(plan.network.processorCrash))
        if !cloud.isProcessed { after(within(500_000), .process, isOfEdge: false) }
    }
}

extension BufferStore {
    fileprivate var waitingBytes: UplinkState.Waiting {
        UplinkState.Waiting(live: waiting.live.bytes, backlog: waiting.backlog.bytes)
    }
}
