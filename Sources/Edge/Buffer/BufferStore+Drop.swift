import NIOConcurrencyHelpers
import NIOCore
import Operations
import SyncModel

/// What is remembered of dropping; changes only after the transaction that says so is committed.
struct DropState {
    /// Of frames that are gone and not within what is answered, and those of them that were live.
    var all = FrameTotals()
    var live = FrameTotals()
    /// What waits for the end of a window.
    var held = HeldState()
    /// Bytes by which the file is larger than it may be, or the disk fuller.
    var excess: Int64 = 0
    /// At the last look there was nothing that may be dropped.
    var isExhausted = false
    /// By priority: up to this frame there is nothing left to drop.
    fileprivate var cursors = [Int64](repeating: 0, count: Int(MessagePriority.range.upperBound) + 1)
    /// Messages that this transaction dropped for want of room or because of their age.
    fileprivate(set) var counts: [LedgerReason: Int] = [:]
    /// Lines that this transaction has begun or extended.
    fileprivate(set) var lines: [OpenLines.Key: OpenLines.Line] = [:]
}

/// The last ledger line of each kind, which a following run of the same device extends. With more devices in turn than it
/// knows, each run has a line of its own, until the ledger has no room.
struct OpenLines {
    struct Key: Hashable {
        var epoch: Int64
        var device: String
        var reason: LedgerReason
    }

    struct Line {
        var id: Int64
        var lastSequence: UInt64
        var lastNumber: UInt64
    }

    static let maximum = 65_536
    private var lines: [Key: Line] = [:]

    fileprivate subscript(key: Key) -> Line? { lines[key] }

    fileprivate mutating func adopt(_ changed: [Key: Line]) {
        if lines.count + changed.count > Self.maximum { lines.removeAll() }
        for (key, line) in changed { lines[key] = line }
    }
}

/// Room is made by dropping what is worth least, the oldest of it first. Each drop is a ledger line in the transaction
/// that deletes the frame.
extension BufferStore {
    /// Bytes and frames that one transaction drops at most beyond what it brings: others wait for it.
    private static let dropSlice = (bytes: Int64(4 * 1024 * 1024), frames: 4_096)
    /// Lines in the ledger with which dropping ends: a buffer full of them is no buffer.
    private static let maximumLedgerRows: Int64 = 1_000_000

    /// Inside the caller's transaction; `state` is the caller's to keep when that is committed.
    func makeRoom(for incoming: Int64, _ state: inout DropState) throws(SQLiteError) {
        guard configuration.dropsOldest else { return }
        let over =
            answered.unanswered(through: last).bytes - state.all.bytes + state.held.totals.bytes + incoming
            - Int64(configuration.maximumBytes)
        let needed = min(max(over, state.excess), incoming + Self.dropSlice.bytes)
        guard needed > 0 else {
            state.isExhausted = false
            return
        }
        var freed: Int64 = 0
        var frames = 0
        while freed < needed, frames < Self.dropSlice.frames {
            guard try hasLedgerRoom(), let bytes = try dropOldest(&state) else {
                state.isExhausted = true
                return
            }
            freed += bytes
            frames += 1
        }
        state.isExhausted = false
        state.excess = max(0, state.excess - freed)
    }

    /// What is held goes when nothing else is left: its aggregates are worth more than as many bytes of others.
    ///
    /// - Returns: the bytes that it was; `nil` when there is nothing.
    private func dropOldest(_ state: inout DropState) throws(SQLiteError) -> Int64? {
        if let victim = try nextVictim(&state) { return try drop(victim, reason: .bufferFull, &state) }
        return try dropOldestHeld(reason: .bufferFull, &state)
    }

    func hasLedgerRoom(share: Int64 = 1) throws(SQLiteError) -> Bool {
        try statements.ledgerSpan.value() < Self.maximumLedgerRows / share
    }

    /// The oldest frame of the lowest priority that has one. What a cut holds may be on its way or stored already, so it
    /// comes last; the newest frame stays, because the run of all frames ends with it.
    private func nextVictim(_ state: inout DropState) throws(SQLiteError) -> Int64? {
        for priority in MessagePriority.range {
            let begin = max(state.cursors[Int(priority)], answered.prefix.frame)
            if let frame = try oldest(MessagePriority(priority), after: begin, sparingCuts: true) {
                state.cursors[Int(priority)] = frame
                return frame
            }
        }
        for priority in MessagePriority.range {
            let frame = try oldest(MessagePriority(priority), after: answered.prefix.frame, sparingCuts: false)
            if let frame { return frame }
        }
        return nil
    }

    private func oldest(
        _ priority: MessagePriority, after begin: Int64, sparingCuts: Bool
    ) throws(SQLiteError) -> Int64? {
        let statement = priority == .standard ? statements.oldestStandard : statements.oldestOfRank
        var begin = begin
        while true {
            statement.bind(1, begin)
            if priority != .standard { statement.bind(2, priority.rank) }
            let found = try statement.step() ? statement.integer(0) : nil
            statement.reset()
            guard let found, found < last.frame else { return nil }
            let answeredRun = answered.runs.first { $0.start.frame < found && found <= $0.end.frame }
            let cut =
                sparingCuts
                ? openCuts.values.first { $0.cut.firstFrame <= found && found <= $0.cut.lastFrame }?.cut : nil
            guard let end = answeredRun?.end.frame ?? cut?.lastFrame else { return found }
            begin = end
        }
    }

    /// - Returns: the frame's bytes.
    func drop(_ frame: Int64, reason: LedgerReason, _ state: inout DropState) throws(SQLiteError) -> Int64 {
        let row = statements.wholeFrame
        row.bind(1, frame)
        guard try row.step() else { throw inconsistency("frame \(frame) is missing") }
        let (epoch, count, bytes) = (row.integer(0), row.integer(1), row.integer(2))
        let stored = StoredFrame(id: frame, header: row.blob(3), records: row.blob(4), count: Int(count))
        let (totalMessages, checksum) = (row.integer(5), row.optionalInteger(6))
        row.reset()
        try prove(stored, totalMessages: totalMessages, checksum: checksum)
        // What is buried has its line.
        let buried = try buried(from: frame, through: frame)[frame] ?? []
        var encoded = stored.header
        encoded.writeImmutableBuffer(stored.records)
        for run in try self.frame(encoded, id: frame).deviceRuns(without: buried) {
            try enter(run, epoch: epoch, reason: reason, &state)
        }
        statements.deleteFrames.bind(1, frame)
        statements.deleteFrames.bind(2, frame)
        try statements.deleteFrames.run()
        statements.forgetBuried.bind(1, frame)
        statements.forgetBuried.bind(2, frame)
        try statements.forgetBuried.run()
        let totals = FrameTotals(messages: count, bytes: bytes)
        state.all = state.all + totals
        if frame > liveStart.frame { state.live = state.live + totals }
        return bytes
    }

    /// Numbers are dense, so a device's drops of one epoch are one line as long as nothing of it was kept in between.
    func enter(
        _ run: DeviceRun, epoch: Int64, reason: LedgerReason, _ state: inout DropState
    ) throws(SQLiteError) {
        if reason == .bufferFull || reason == .expiredByAge { state.counts[reason, default: 0] += run.numbers.count }
        let key = OpenLines.Key(epoch: epoch, device: run.device, reason: reason)
        if var line = state.lines[key] ?? openLines[key], line.id > lastLedgerCut,
            line.lastNumber + 1 == run.numbers.lowerBound, line.lastSequence < run.sequences.lowerBound
        {
            line.lastNumber = run.numbers.upperBound
            line.lastSequence = run.sequences.upperBound
            statements.extendLedger.bind(1, Int64(line.lastSequence))
            statements.extendLedger.bind(2, Int64(line.lastNumber))
            statements.extendLedger.bind(3, line.id)
            try statements.extendLedger.run()
            state.lines[key] = line
            return
        }
        let id = try LedgerRow(run, epoch: epoch, reason: reason).insert(with: statements.insertLedger)
        state.lines[key] = .init(
            id: id, lastSequence: run.sequences.upperBound, lastNumber: run.numbers.upperBound)
    }

    /// The transaction is committed that dropped so.
    func adopt(_ state: DropState) {
        openLines.adopt(state.lines)
        drops = state
        drops.lines = [:]
        drops.counts = [:]
        guard !state.counts.isEmpty else { return }
        shared.activity.concerns.withLockedValue { $0.drop(state.counts, at: SystemClock.monotonicMicroseconds()) }
    }

    func saveDrops(_ state: DropState) throws(SQLiteError) {
        let values = [state.all.messages, state.all.bytes, state.live.messages, state.live.bytes]
        for (index, value) in values.enumerated() { statements.saveDrops.bind(Int32(index + 1), value) }
        try statements.saveDrops.run()
    }

    /// How much of a run is gone.
    func dropped(in run: AnsweredFrames.Run) throws(SQLiteError) -> FrameTotals {
        guard drops.all.messages > 0, run.end.frame > run.start.frame else { return FrameTotals() }
        return try FrameTotals(
            messages: run.end.messages - run.start.messages, bytes: run.end.bytes - run.start.bytes)
            - present(after: run.start.frame, through: run.end.frame)
    }

    /// What frames have that are there.
    func present(after first: Int64, through last: Int64) throws(SQLiteError) -> FrameTotals {
        let statement = statements.present
        statement.bind(1, first)
        statement.bind(2, last)
        defer { statement.reset() }
        _ = try statement.step()
        return FrameTotals(messages: statement.integer(0), bytes: statement.integer(1))
    }
}

extension MessagePriority {
    /// As it is stored: 0 for the standard one.
    var rank: Int64 { Int64(value) - Int64(Self.standard.value) }
}
