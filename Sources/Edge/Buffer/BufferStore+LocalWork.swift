import LocalWork
import NIOConcurrencyHelpers
import NIOCore
import SyncModel

/// What waits for the end of a window; changes only after the transaction that says so is committed.
struct HeldState: Equatable {
    struct Queue: Equatable {
        var totals = FrameTotals()
        /// Microseconds of the gateway's own time, of its oldest frame.
        var oldest: Int64 = 0
    }

    /// Those that hold something.
    var queues: [Int64: Queue] = [:]

    var totals: FrameTotals { queues.values.reduce(FrameTotals()) { $0 + $1.totals } }
}

/// What one rule of local work does, for metrics and the status page.
package struct LocalRuleStatus: Sendable, Equatable {
    package var name: String
    /// Messages that wait for the end of a window now.
    package var held = 0
    /// Messages since the start that ended as ledger lines: aggregated or discarded.
    package var consumed = 0
    /// Aggregates that were committed, and those that were not because of the dead band.
    package var aggregates = 0
    package var unsent = 0
    /// Messages that were held and went up as they were.
    package var released = 0
}

/// What is remembered of local work.
struct LocalWorkState {
    /// Rows of `local_rule`, of the configuration's rules in their order; `nil` for those that hold nothing.
    var rows: [Int64?] = []
    /// The window that is being read.
    var window: OpenWindow?
    /// Held frames that are done with may be left.
    var isSpentDue = false
    /// Microseconds on the monotonic clock: not before, because the last attempt failed.
    var nextAttempt: Int64 = 0
    /// Attempts that failed since the last that did not, and the last one's error.
    var failures = 0
    var failure: BufferError?
    /// What was to be committed when the file failed, and it is not known whether it is.
    var doubt: [FrameDraft] = []
    /// By the configuration's rules, and one more for rules that are gone.
    var status: [LocalRuleStatus] = []
}

extension BufferStore {
    // MARK: Opening

    /// The end of the run of all frames, whatever of it is there.
    func loadLast(written: Int64) throws(SQLiteError) -> FramePosition {
        let present = try lastPosition(through: .max, after: answered.end.frame)
        var last = present ?? answered.end
        let statement = try connection.prepare("SELECT frame, messages, bytes FROM held_end")
        defer { statement.finalize() }
        if try statement.step(), statement.integer(0) > last.frame {
            last = FramePosition(
                frame: statement.integer(0), messages: statement.integer(1), bytes: statement.integer(2))
        }
        // All that is not answered may be dropped, the newest too.
        guard last.frame < written, present == nil, drops.all.messages > 0 else { return last }
        return answered.position(after: drops.all, frame: written)
    }

    func loadHeld() throws(SQLiteError) -> HeldState {
        let statement = try connection.prepare(
            "SELECT queue, sum(count), sum(bytes) FROM held_mark WHERE queue > 0 GROUP BY queue")
        defer { statement.finalize() }
        var held = HeldState()
        while try statement.step() {
            let queue = statement.integer(0)
            held.queues[queue] = .init(
                totals: FrameTotals(messages: statement.integer(1), bytes: statement.integer(2)),
                oldest: try oldest(of: queue)?.time ?? 0)
        }
        local.isSpentDue = try connection.integer("SELECT 1 FROM held_mark WHERE queue = 0 LIMIT 1") != nil
        return held
    }

    /// The configuration's rules get their rows; those that are gone keep theirs as long as they hold something. Inside the
    /// caller's transaction.
    func prepareRules() throws(SQLiteError) {
        let add = try connection.prepare("INSERT OR IGNORE INTO local_rule (name) VALUES (?)")
        defer { add.finalize() }
        for rule in configuration.localRules where rule.aggregation != nil {
            add.bind(1, rule.name)
            try add.run()
        }
        try loadRules()
        let kept = local.rows.compactMap { $0.map(String.init) }.joined(separator: ", ")
        try connection.execute(
            """
            DELETE FROM local_rule WHERE id NOT IN (\(kept)) AND id NOT IN (SELECT queue / 10 FROM held_mark);
            DELETE FROM local_series WHERE rule NOT IN (\(kept));
            """)
    }

    private func loadRules() throws(SQLiteError) {
        let find = try connection.prepare("SELECT id FROM local_rule WHERE name = ?")
        defer { find.finalize() }
        var rows: [Int64?] = []
        for rule in configuration.localRules {
            find.bind(1, rule.name)
            rows.append(rule.aggregation != nil ? try find.value() : nil)
            find.reset()
        }
        local.rows = rows
        if local.status.isEmpty {
            local.status = (configuration.localRules.map(\.name) + ["(gone)"]).map { LocalRuleStatus(name: $0) }
        }
    }

    /// Goes on with the local work of a store whose file could not be written. What it was to commit may be in the file, as
    /// the epoch's last sequence tells; then its numbers are given away.
    func adoptLocalWork(of former: BufferStore, stored: UInt64) throws(BufferError) {
        local.status = former.local.status
        // What the disk had failed at may go well now; anything else is still to be tried again, and was told.
        if case .failing? = former.local.failure {
        } else {
            local.failures = former.local.failures
            local.failure = former.local.failure
            local.nextAttempt = former.local.nextAttempt
        }
        try attempt { () throws(SQLiteError) in try loadRules() }.get()
        let count = former.local.doubt.reduce(0) { $0 + UInt64($1.count) }
        guard count > 0, stored == lastSequence + count else { return }
        for draft in former.local.doubt { _ = giveNumbers(to: draft) }
        lastSequence = stored
        noteEnd()
    }

    // MARK: Committing

    /// Puts a draft where its handling says, inside the caller's transaction.
    func place(
        _ draft: FrameDraft, firstSequence: UInt64, after end: inout FramePosition, _ drops: inout DropState,
        mayDiscard: Bool
    ) throws(SQLiteError) {
        switch draft.handling {
        case .held(let rule):
            guard Int(rule) < local.rows.count, let row = local.rows[Int(rule)] else { break }
            try hold(draft, of: row, firstSequence: firstSequence, after: &end, &drops)
            return
        // A ledger without room takes no more lines: the messages go up as they are.
        case .discarded where mayDiscard:
            try discard(draft, firstSequence: firstSequence, after: &end, &drops)
            return
        case .direct, .discarded: break
        }
        try insert(
            draft, firstSequence: firstSequence, after: &end, by: statements.insertFrame, rank: draft.priority.rank)
    }

    private func hold(
        _ draft: FrameDraft, of rule: Int64, firstSequence: UInt64, after end: inout FramePosition,
        _ drops: inout DropState
    ) throws(SQLiteError) {
        let start = end
        try insert(
            draft, firstSequence: firstSequence, after: &end, by: localStatements.insertHeld,
            rank: draft.priority.rank + Schema.heldRank)
        let totals = FrameTotals(messages: end.messages - start.messages, bytes: end.bytes - start.bytes)
        let queue = Self.queue(ofRule: rule, draft.priority)
        let time = gatewayNow()
        let mark = localStatements.insertMark
        for (index, value) in [
            queue, end.frame, time, epochRow, Int64(firstSequence), totals.messages, totals.bytes,
            draft.clock.asleepTime,
        ].enumerated() {
            mark.bind(Int32(index + 1), value)
        }
        try mark.run()
        try saveGone(totals, at: end, &drops)
        let held = drops.held.queues[queue] ?? .init(oldest: time)
        drops.held.queues[queue] = .init(totals: held.totals + totals, oldest: held.oldest)
    }

    /// The messages have their sequences and numbers, and are ledger lines from the start. Their frame has a place like
    /// others', so that sequences and totals go together; it counts a byte a message.
    private func discard(
        _ draft: FrameDraft, firstSequence: UInt64, after end: inout FramePosition, _ drops: inout DropState
    ) throws(SQLiteError) {
        var encoded = draft.header(epoch: epoch, firstSequence: firstSequence, firstNumbers: giveNumbers(to: draft))
        encoded.writeImmutableBuffer(draft.records)
        for run in try frame(encoded, id: end.frame + 1).deviceRuns {
            try enter(run, epoch: epochRow, reason: .filtered, &drops)
        }
        let totals = FrameTotals(messages: Int64(draft.count), bytes: Int64(draft.count))
        end.frame += 1
        end.messages += totals.messages
        end.bytes += totals.bytes
        try saveGone(totals, at: end, &drops)
    }

    /// What the commit of these drafts has ended.
    func countDiscarded(in drafts: [FrameDraft]) {
        for draft in drafts {
            guard case .discarded(let rule) = draft.handling, Int(rule) < local.rows.count else { continue }
            local.status[Int(rule)].consumed += draft.count
        }
    }

    /// To the uplink a frame that never was in `frame` is one that is gone; it is newer than everything answered or old.
    private func saveGone(
        _ totals: FrameTotals, at end: FramePosition, _ drops: inout DropState
    ) throws(SQLiteError) {
        drops.all = drops.all + totals
        drops.live = drops.live + totals
        try saveEnd(end)
    }

    /// The newest frame has no row: this is where the run of all frames ends.
    func saveEnd(_ end: FramePosition) throws(SQLiteError) {
        let save = localStatements.saveEnd
        save.bind(1, end.frame)
        save.bind(2, end.messages)
        save.bind(3, end.bytes)
        try save.run()
    }

    func frame(_ encoded: ByteBuffer, id: Int64) throws(SQLiteError) -> Frame {
        do throws(SyncDecodingError) {
            return try Frame.decode(encoded)
        } catch {
            throw inconsistency("frame \(id) cannot be read: \(error)")
        }
    }

    // MARK: Queues

    /// Frames of a rule and a priority, which are worked on together.
    private static func queue(ofRule rule: Int64, _ priority: MessagePriority) -> Int64 {
        rule * 10 + Int64(priority.value)
    }

    static func priority(ofQueue queue: Int64) -> MessagePriority { MessagePriority(UInt8(queue % 10)) }

    /// In the configuration; `nil` for a rule that is gone.
    func rule(ofQueue queue: Int64) -> Int? { local.rows.firstIndex(of: queue / 10) }

    func oldest(of queue: Int64) throws(SQLiteError) -> (id: Int64, time: Int64)? {
        let statement = localStatements.oldest
        statement.bind(1, queue)
        defer { statement.reset() }
        return try statement.step() ? (statement.integer(0), statement.integer(1)) : nil
    }

    /// Sequences of what is held, by epoch.
    func heldSequences() throws(SQLiteError) -> [Epoch: IntervalSet] {
        let statement = try connection.prepare(
            """
            SELECT epoch.epoch, first_sequence, count FROM held_mark JOIN epoch ON epoch.id = held_mark.epoch
            WHERE queue > 0
            """)
        defer { statement.finalize() }
        var held: [Epoch: IntervalSet] = [:]
        while try statement.step() {
            guard let epoch = Epoch(blob: statement.blob(0)) else {
                throw inconsistency("an epoch is not 16 bytes long")
            }
            let first = UInt64(bitPattern: statement.integer(1))
            // Cannot throw: sequences fit, and the number of ranges is not bounded.
            _ = try? held[epoch, default: IntervalSet(maximumRanges: .max)].insert(
                first...(first + UInt64(statement.integer(2)) - 1))
        }
        return held
    }

    // MARK: Dropping

    /// The first of the lowest priority, the oldest of those.
    func dropOldestHeld(reason: LedgerReason, _ state: inout DropState) throws(SQLiteError) -> Int64? {
        let first = state.held.queues.min { a, b in
            (Self.priority(ofQueue: a.key).value, a.value.oldest) < (
                Self.priority(ofQueue: b.key).value, b.value.oldest
            )
        }
        guard let queue = first?.key, let frame = try oldest(of: queue)?.id else { return nil }
        return try dropHeld(frame, of: queue, reason: reason, &state)
    }

    func oldestHeld(through limit: Int64, _ state: DropState) throws(SQLiteError) -> (id: Int64, queue: Int64)? {
        for queue in state.held.queues.keys {
            if let frame = try oldest(of: queue)?.id, frame <= limit { return (frame, queue) }
        }
        return nil
    }

    /// - Returns: the frame's bytes.
    func dropHeld(
        _ id: Int64, of queue: Int64, reason: LedgerReason, _ state: inout DropState
    ) throws(SQLiteError) -> Int64 {
        // It may have been read for the window: that begins anew.
        if local.window?.queue == queue { local.window = nil }
        let row = localStatements.heldFrame
        row.bind(1, id)
        guard try row.step() else { throw inconsistency("held frame \(id) is missing") }
        let (epoch, count, bytes) = (row.integer(0), row.integer(1), row.integer(2))
        let stored = StoredFrame(id: id, header: row.blob(3), records: row.blob(4), count: Int(count))
        let (totalMessages, checksum) = (row.integer(5), row.integer(6))
        row.reset()
        try prove(stored, totalMessages: totalMessages, checksum: checksum)
        var encoded = stored.header
        encoded.writeImmutableBuffer(stored.records)
        for run in try frame(encoded, id: id).deviceRuns { try enter(run, epoch: epoch, reason: reason, &state) }
        localStatements.deleteHeld.bind(1, id)
        try localStatements.deleteHeld.run()
        localStatements.deleteMark.bind(1, queue)
        localStatements.deleteMark.bind(2, id)
        try localStatements.deleteMark.run()
        try forget(FrameTotals(messages: count, bytes: bytes), of: queue, &state.held)
        return bytes
    }

    /// Frames of a queue are held no more.
    func forget(_ totals: FrameTotals, of queue: Int64, _ held: inout HeldState) throws(SQLiteError) {
        let left = (held.queues[queue] ?? .init()).totals - totals
        held.queues[queue] = try oldest(of: queue).map { .init(totals: left, oldest: $0.time) }
    }

    func publishLocalWork() {
        guard !configuration.localRules.isEmpty || !drops.held.queues.isEmpty, !local.status.isEmpty else { return }
        var status = local.status
        for (queue, held) in drops.held.queues {
            status[rule(ofQueue: queue) ?? status.count - 1].held += Int(held.totals.messages)
        }
        // The last is there for what is left of rules that are gone.
        if let gone = status.last, gone.held == 0, gone.released == 0 { status.removeLast() }
        shared.local.withLockedValue { $0 = status }
    }
}

extension FrameDraft {
    var isDiscarded: Bool {
        if case .discarded = handling { true } else { false }
    }
}

extension LocalRule {
    /// `nil` for a rule that holds nothing.
    var aggregation: AggregationRule? {
        if case .aggregate(let rule) = action { rule } else { nil }
    }
}
