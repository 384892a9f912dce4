import LocalWork
import NIOCore
import Operations
import SyncModel

/// A window whose frames are being read, a slice at a time.
struct OpenWindow {
    var queue: Int64
    /// In the configuration; `nil`: the rule is gone.
    var rule: Int?
    /// Exclusive, microseconds of the gateway's own time.
    var end: Int64
    /// The last frame that was read, and all that were.
    var lastFrame: Int64 = 0
    var totals = FrameTotals()
    /// Rows of the epochs of its frames.
    var epochs: [Epoch: Int64] = [:]
    var work: WindowWork
}

/// Windows end in the gateway's own time. What stands for their messages, the ledger lines that say so and the end of the
/// holding are one transaction; before it, all is computed again from the rows.
extension BufferStore {
    /// Microseconds.
    private static let retryIntervals: ClosedRange<Int64> = 1_000_000...60_000_000

    /// Seconds until `workLocally` has something to do; `nil`: never, as it stands.
    var timeToLocalWork: Double? {
        // A group in doubt has the next sequences and numbers, until it is given again.
        guard epochRow != 0, failure == nil, !isDoubtStored else { return nil }
        let pause = Double(local.nextAttempt - monotonicTime) / 1_000_000
        if local.window != nil || local.isSpentDue { return max(0, pause) }
        guard !drops.held.queues.isEmpty else { return nil }
        let now = gatewayNow()
        let wait = drops.held.queues.map { Double(due($0.key, $0.value, now: now) - now) / 1_000_000 }.min()
        return max(0, pause, wait ?? 0)
    }

    /// When the window of a queue's oldest frame ends. What seems to come from the future was stamped by a time that is
    /// lost; it is not waited for. A rule that is gone waits for nothing.
    private func due(_ queue: Int64, _ held: HeldState.Queue, now: Int64) -> Int64 {
        guard let index = rule(ofQueue: queue), let rule = configuration.localRules[index].aggregation,
            held.oldest <= now
        else { return now }
        return rule.windowEnd(of: held.oldest)
    }

    /// One slice of work.
    func workLocally() {
        guard let time = timeToLocalWork, time <= 0 else { return }
        guard var window = local.window ?? dueWindow() else {
            if local.isSpentDue { deleteSpent() }
            return
        }
        // Held once, so that what it has collected is not copied at each slice.
        local.window = nil
        switch attempt({ () throws(SQLiteError) in try readSlice(&window) }) {
        case .failure(let error): postpone(error)
        case .success(let isWhole):
            if isWhole || window.work.isFull { close(window) } else { local.window = window }
        }
    }

    private func postpone(_ error: BufferError) {
        let doubled = Self.retryIntervals.lowerBound << min(local.failures, 6)
        local.nextAttempt = monotonicTime + min(doubled, Self.retryIntervals.upperBound)
        local.failures += 1
        local.failure = error
    }

    private func succeeded() {
        local.failures = 0
        local.failure = nil
    }

    private func dueWindow() -> OpenWindow? {
        let now = gatewayNow()
        var first: (queue: Int64, oldest: Int64, due: Int64)?
        for (queue, held) in drops.held.queues {
            let time = due(queue, held, now: now)
            if time <= now, time < first?.due ?? .max { first = (queue, held.oldest, time) }
        }
        guard let first else { return nil }
        let index = rule(ofQueue: first.queue)
        let rule = index.flatMap { configuration.localRules[$0].aggregation }
        return OpenWindow(
            queue: first.queue, rule: index, end: rule?.windowEnd(of: first.oldest) ?? .max, work: WindowWork(rule))
    }

    /// - Returns: whether the window has no more frames. It has at least one.
    private func readSlice(_ window: inout OpenWindow) throws(SQLiteError) -> Bool {
        let statement = localStatements.window
        statement.bind(1, window.queue)
        statement.bind(2, window.lastFrame)
        defer { statement.reset() }
        var bytes = 0
        while bytes < configuration.readSlice, !window.work.isFull {
            guard try statement.step() else { return true }
            if window.totals.messages > 0, statement.integer(1) >= window.end { return true }
            let frame = try heldFrame(statement)
            window.work.add(frame)
            window.epochs[frame.epoch] = statement.integer(2)
            window.lastFrame = statement.integer(0)
            window.totals =
                window.totals + FrameTotals(messages: statement.integer(3), bytes: statement.integer(4))
            bytes += Int(statement.integer(4))
        }
        return false
    }

    private func heldFrame(_ row: SQLiteStatement) throws(SQLiteError) -> Frame {
        let id = row.integer(0)
        var header = row.blob(5)
        let records = row.blob(6)
        let checksum = FrameChecksum.of(id: id, totalMessages: row.integer(7), header: header, records: records)
        guard !row.isNull(8), checksum == row.integer(8) else {
            throw inconsistency("held frame \(id) is missing or has another checksum")
        }
        header.writeImmutableBuffer(records)
        var frame = try frame(header, id: id)
        frame.clock.asleepTime = row.integer(9)
        return frame
    }

    // MARK: Closing a window

    private func close(_ window: OpenWindow) {
        var numbered: [FrameDraft] = []
        var drafted: [FrameDraft] = []
        let result = attempt { () throws(SQLiteError) in
            for draft in numbered { takeBackNumbers(of: draft) }
            numbered = []
            let outcome = try window.work.finish(now: gatewayNow()) { device, topic throws(SQLiteError) in
                try lastSent(window.queue / 10, device, topic)
            }
            let standIns = StandInFrames(outcome.standIns, priority: Self.priority(ofQueue: window.queue))
            drafted = standIns.drafts
            try recallNumbers(of: drafted)
            var effect = (
                last: last, sequence: lastSequence, held: drops.held, outcome: outcome, stamp: WrittenStamp?.none
            )
            var watch = clockWatch
            var actions: [ClockWatch.Action] = []
            try transaction { () throws(SQLiteError) in
                for draft in standIns.drafts {
                    numbered.append(draft)
                    let first = effect.sequence + 1
                    try insert(
                        draft, firstSequence: first, after: &effect.last, by: statements.insertFrame,
                        rank: draft.priority.rank)
                    effect.sequence += UInt64(draft.count)
                    // A stand-in has the time of a message that it stands for, which may have to be corrected as well.
                    actions += watch.commit(
                        draft.clock, epoch: epoch, sequences: first...effect.sequence, isPast: true)
                }
                if !standIns.drafts.isEmpty {
                    try saveEpoch(lastSequence: effect.sequence, lastFrame: effect.last.frame)
                    effect.stamp = try writeStamp(clocks, watch, actions: actions)
                }
                try enter(outcome, of: window, sequences: standIns.positions.map { lastSequence + 1 + UInt64($0) })
                localStatements.spend.bind(1, window.queue)
                localStatements.spend.bind(2, window.lastFrame)
                try localStatements.spend.run()
                try forget(window.totals, of: window.queue, &effect.held)
            }
            return effect
        }
        switch result {
        case .failure(let error):
            for draft in numbered { takeBackNumbers(of: draft) }
            if case .failing = error { local.doubt = drafted }
            postpone(error)
        case .success(let effect):
            succeeded()
            (last, lastSequence, drops.held) = (effect.last, effect.sequence, effect.held)
            noteEnd()
            if let stamp = effect.stamp { stamped(stamp) }
            local.isSpentDue = true
            count(effect.outcome, of: window)
            _ = attempt { () throws(SQLiteError) in try refreshFill(committed: false) }
            shared.announce()
        }
    }

    private func count(_ outcome: WindowOutcome, of window: OpenWindow) {
        let index = window.rule ?? local.status.count - 1
        local.status[index].consumed += outcome.aggregated
        local.status[index].aggregates += outcome.standIns.count - outcome.released
        local.status[index].unsent += outcome.unsent
        local.status[index].released += outcome.released
    }

    /// The ledger lines, and what the dead band will compare with.
    ///
    /// - Parameter sequences: of the stand-ins.
    private func enter(
        _ outcome: WindowOutcome, of window: OpenWindow, sequences: [UInt64]
    ) throws(SQLiteError) {
        var standing: [String: ClosedRange<UInt64>] = [:]
        for (standIn, sequence) in zip(outcome.standIns, sequences) {
            let known = standing[standIn.device] ?? sequence...sequence
            standing[standIn.device] = min(known.lowerBound, sequence)...max(known.upperBound, sequence)
            if let sent = standIn.sent {
                try save(sent, of: standIn.device, rule: window.queue / 10, sequence: sequence)
            }
        }
        for run in outcome.runs {
            let aggregate =
                run.aggregate ?? standing[run.device].map { AggregateReference(epoch: epoch, sequences: $0) }
            guard let aggregate, let row = window.epochs[run.epoch] else {
                throw inconsistency("nothing stands for \(run.device)'s messages \(run.numbers)")
            }
            let line = LedgerLine(
                epoch: run.epoch, device: run.device, sequences: run.sequences, numbers: run.numbers,
                reason: .aggregated, aggregate: aggregate)
            try LedgerRow(line, epoch: row).insert(with: statements.insertLedger)
        }
    }

    // MARK: Dead band

    private func lastSent(_ rule: Int64, _ device: String, _ topic: ByteBuffer) throws(SQLiteError) -> LastSent? {
        let statement = localStatements.lastSent
        statement.bind(1, rule)
        statement.bind(2, device)
        statement.bind(3, topic)
        defer { statement.reset() }
        guard try statement.step(), let values = SentValues(encoded: statement.blob(0)),
            let epoch = Epoch(blob: statement.blob(1))
        else { return nil }
        return LastSent(
            values: values, epoch: epoch, sequence: UInt64(bitPattern: statement.integer(2)),
            time: statement.integer(3))
    }

    private func save(
        _ sent: SentSeries, of device: String, rule: Int64, sequence: UInt64
    ) throws(SQLiteError) {
        let save = localStatements.saveSent
        save.bind(1, rule)
        save.bind(2, device)
        save.bind(3, sent.topic)
        save.bind(4, sent.values.encoded)
        save.bind(5, epoch.blob)
        save.bind(6, Int64(sequence))
        save.bind(7, gatewayNow())
        try save.run()
    }

    // MARK: Deleting

    /// What is done with goes in slices, as answered frames do; aggregates that are too old to be compared with go too.
    private func deleteSpent() {
        let result = attempt { () throws(SQLiteError) in
            try transaction { () throws(SQLiteError) in
                let statement = localStatements.spent
                statement.bind(1, Int64(configuration.deletionSlice.frames))
                var found: [Int64] = []
                var bytes = 0
                do {
                    defer { statement.reset() }
                    while bytes < configuration.deletionSlice.bytes, try statement.step() {
                        found.append(statement.integer(0))
                        bytes += Int(statement.integer(1))
                    }
                }
                for id in found {
                    localStatements.deleteHeld.bind(1, id)
                    try localStatements.deleteHeld.run()
                }
                guard let end = found.last else {
                    try forgetQuietSeries()
                    return false
                }
                localStatements.deleteSpent.bind(1, end)
                try localStatements.deleteSpent.run()
                return true
            }
        }
        switch result {
        case .failure(let error): postpone(error)
        case .success(let isMoreDue):
            succeeded()
            local.isSpentDue = isMoreDue
            if !isMoreDue { _ = attempt { () throws(SQLiteError) in try lookAtPages() } }
        }
    }

    private func forgetQuietSeries() throws(SQLiteError) {
        let now = gatewayNow()
        for (row, rule) in zip(local.rows, configuration.localRules) {
            guard let row, let aggregation = rule.aggregation, aggregation.deadBand != nil else { continue }
            let silence = aggregation.maximumSilence
            try connection.execute(
                "DELETE FROM local_series WHERE rule = \(row) AND gateway_time <= \(now - silence)")
        }
    }
}

/// The frames in which stand-ins are committed: one run of them for each boot and setting of the clock, so that each has
/// the times of what it stands for.
private struct StandInFrames {
    private struct ClockKey: Hashable {
        var bootHigh: UInt64
        var bootLow: UInt64
        var isSynchronised: Bool
        /// Seconds.
        var asleep: Int64
        /// Seconds; a frame's times differ from its clock by less than a step.
        var lead: Int64
    }

    private(set) var drafts: [FrameDraft] = []
    /// Of each stand-in in the run of all drafts' messages.
    private(set) var positions: [Int]

    init(_ standIns: [StandIn], priority: MessagePriority) {
        positions = Array(repeating: 0, count: standIns.count)
        var keys: [ClockKey] = []
        var groups: [ClockKey: [Int]] = [:]
        for (index, standIn) in standIns.enumerated() {
            let clock = standIn.clock
            let key = ClockKey(
                bootHigh: clock.bootHigh, bootLow: clock.bootLow, isSynchronised: clock.isSynchronised,
                asleep: clock.asleepTime / 1_000_000, lead: (clock.wallTime &- clock.monotonicTime) / 1_000_000)
            if groups[key] == nil { keys.append(key) }
            groups[key, default: []].append(index)
        }
        var position = 0
        for key in keys {
            var builder = FrameBuilder()
            var handles: [String: DeviceHandle] = [:]
            for index in groups[key] ?? [] {
                let standIn = standIns[index]
                let handle = handles[standIn.device] ?? DeviceHandle(handles.count)
                handles[standIn.device] = handle
                builder.append(
                    device: handle, deviceID: standIn.device, qos: standIn.qos, retain: standIn.retain,
                    duplicate: standIn.duplicate, isWill: standIn.isWill, topic: standIn.topic,
                    payload: standIn.payload, properties: standIn.properties, clock: standIn.clock, priority: priority)
                positions[index] = position
                position += 1
            }
            drafts += builder.take().map { draft in
                var draft = draft
                for index in draft.devices.indices { draft.devices[index].handle = FrameDraft.Device.noHandle }
                return draft
            }
        }
    }
}
