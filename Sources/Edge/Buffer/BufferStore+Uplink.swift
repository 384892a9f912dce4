import NIOCore
import SyncModel

/// A cut that waits for its answer, its place in the run of all frames, and the last ledger line and correction of the clock that it
/// carries (0: none).
struct OpenCut: Equatable {
    var cut: Cut
    var run: AnsweredFrames.Run
    var lastLedger: Int64
    /// Not stored: after a restart it carries what waits then, for a correction may be sent twice.
    var lastCorrection: Int64 = 0
}

extension BufferStore {
    /// Closed epochs that one batch reports.
    static let maximumAccounts = 1_000
    /// Ledger lines that one batch carries.
    static let maximumLedgerLines = 10_000

    // MARK: Loading

    func loadAnswered(prefix: FramePosition) throws(SQLiteError) -> AnsweredFrames {
        let statement = try connection.prepare("SELECT * FROM answered_run ORDER BY start_frame")
        defer { statement.finalize() }
        var runs: [AnsweredFrames.Run] = []
        while try statement.step() {
            let run = AnsweredFrames.Run(start: statement.framePosition(0), end: statement.framePosition(3))
            guard (runs.last?.end ?? prefix).frame < run.start.frame, run.start.frame < run.end.frame else {
                throw inconsistency("answered frames overlap at \(run.start.frame)")
            }
            runs.append(run)
        }
        return AnsweredFrames(prefix: prefix, runs: runs)
    }

    func loadLiveStart() throws(SQLiteError) -> FramePosition {
        let statement = try connection.prepare("SELECT frame, messages, bytes FROM live_start")
        defer { statement.finalize() }
        return try statement.step() ? statement.framePosition(0) : FramePosition()
    }

    func loadCuts() throws(SQLiteError) -> [Lane: OpenCut] {
        let statement = try connection.prepare(
            """
            SELECT id, first_frame, last_frame, messages, bytes, last_ledger, lane, start_messages, start_bytes,
                end_messages, end_bytes FROM cut
            """)
        defer { statement.finalize() }
        var cuts: [Lane: OpenCut] = [:]
        while try statement.step() {
            guard let lane = UInt8(exactly: statement.integer(6)).flatMap(Lane.init(rawValue:)), cuts[lane] == nil
            else {
                throw inconsistency("cut \(statement.integer(0)) is of no lane of its own")
            }
            let cut = Cut(
                id: statement.integer(0), firstFrame: statement.integer(1), lastFrame: statement.integer(2),
                messageCount: Int(statement.integer(3)), byteCount: Int(statement.integer(4)), lane: lane)
            let run = AnsweredFrames.Run(
                start: FramePosition(
                    frame: cut.firstFrame - 1, messages: statement.integer(7), bytes: statement.integer(8)),
                end: FramePosition(
                    frame: cut.lastFrame, messages: statement.integer(9), bytes: statement.integer(10)))
            cuts[lane] = OpenCut(
                cut: cut, run: run, lastLedger: statement.integer(5),
                lastCorrection: lane == .live ? try lastCorrection() : 0)
        }
        return cuts
    }

    // MARK: Lanes

    /// What waits for the cloud, by lane. All sums over frames that are not answered come from here.
    var waiting: WaitingData {
        let all = answered.unanswered(through: last) - drops.all
        let old = answered.unanswered(through: liveStart) - (drops.all - drops.live)
        return WaitingData(
            live: LaneFill(messages: Int(all.messages - old.messages), bytes: Int(all.bytes - old.bytes)),
            backlog: LaneFill(messages: Int(old.messages), bytes: Int(old.bytes)))
    }

    /// From now on what is committed is live, and everything older that is not answered is backlog; a cut that waits
    /// keeps its lane. Within one backlog this can be done so many times; then the lane live goes on where it is, which
    /// keeps every order and bounds the table.
    ///
    /// - Returns: whether there is a backlog now.
    func startLive() throws(SQLiteError) -> Bool {
        // A start adds a run, and the answer to a cut that waits another.
        if last.frame > liveStart.frame, last.frame > answered.prefix.frame,
            answered.runs.count + 2 <= AnsweredFrames.maximumRuns
        {
            let start = last
            var drops = drops
            drops.live = FrameTotals()
            try transaction { () throws(SQLiteError) in
                if drops.live != self.drops.live { try saveDrops(drops) }
                let save = statements.saveLiveStart
                save.bind(1, start.frame)
                save.bind(2, start.messages)
                save.bind(3, start.bytes)
                try save.run()
            }
            liveStart = start
            self.drops = drops
            try refreshFill(committed: false)
        }
        return waiting.backlog.messages > 0
    }

    // MARK: Cuts

    func nextCut(in lane: Lane, maximumBytes: Int64, maximumMessages: Int64) throws(SQLiteError) -> Cut? {
        if let open = openCuts[lane] { return open.cut }
        // However much is asked for, a batch keeps to what its receiver takes.
        let limits = SyncLimits()
        let run = try nextRun(
            in: lane, maximumFrames: Int64(limits.maximumFrames), maximumBytes: maximumBytes,
            maximumMessages: min(maximumMessages, Int64(limits.maximumRecords)))
        let gone = try dropped(in: run)
        // Accounts, ledger lines and corrections are not old: they travel in the lane live alone, so that no two cuts
        // carry the same.
        let lastLedger = lane == .live ? try lastUnreportedLedger() : 0
        let lastCorrection = lane == .live ? try lastCorrection() : 0
        let hasAccounts = lane == .live ? try unreportedAccount() > 0 : false
        let totals =
            FrameTotals(
                messages: run.end.messages - run.start.messages, bytes: run.end.bytes - run.start.bytes) - gone
        guard totals.messages > 0 || lastLedger > 0 || lastCorrection > 0 || hasAccounts else { return nil }
        let cut = Cut(
            id: lastCut + 1, firstFrame: run.start.frame + 1, lastFrame: run.end.frame,
            messageCount: Int(totals.messages), byteCount: Int(totals.bytes), lane: lane)
        try transaction { () throws(SQLiteError) in
            let insert = statements.insertCut
            for (index, value) in [
                cut.id, cut.firstFrame, cut.lastFrame, Int64(cut.messageCount), Int64(cut.byteCount), lastLedger,
                Int64(lane.rawValue), run.start.messages, run.start.bytes, run.end.messages, run.end.bytes,
            ].enumerated() {
                insert.bind(Int32(index + 1), value)
            }
            try insert.run()
            statements.saveLastCut.bind(1, cut.id)
            try statements.saveLastCut.run()
        }
        lastCut = cut.id
        lastLedgerCut = max(lastLedgerCut, lastLedger)
        openCuts[lane] = OpenCut(cut: cut, run: run, lastLedger: lastLedger, lastCorrection: lastCorrection)
        return cut
    }

    func lastUnreportedLedger() throws(SQLiteError) -> Int64 {
        statements.lastLedger.bind(1, reportedLedger)
        return try statements.lastLedger.value()
    }

    private func nextRun(
        in lane: Lane, maximumFrames: Int64, maximumBytes: Int64, maximumMessages: Int64
    ) throws(SQLiteError) -> AnsweredFrames.Run {
        var taken = answered
        for other in openCuts.values { taken.insert(other.run) }
        let gap = taken.gap(after: lane == .live ? liveStart : FramePosition())
        let limit = lane == .live ? last.frame : min(liveStart.frame, last.frame)
        let end = try endOfRun(
            after: gap.start, through: min(limit, gap.end?.frame ?? .max), maximumFrames: maximumFrames,
            maximumBytes: maximumBytes, maximumMessages: maximumMessages)
        return .init(start: gap.start, end: end)
    }

    /// An epoch that ended is reported even when no message follows, so that the audit can close it.
    ///
    /// - Returns: 0: none is left.
    private func unreportedAccount() throws(SQLiteError) -> Int64 {
        try statements.unreportedEpoch.value()
    }

    /// False for a cut that was never made. The frames are deleted later, in slices: from this commit on they are not
    /// counted and in no cut.
    func acknowledge(_ cut: Cut) throws(SQLiteError) -> Bool {
        guard let open = openCuts.values.first(where: { $0.cut.id == cut.id }) else {
            return cut.id <= lastCut && cut.id > 0
        }
        var answered = answered
        var drops = drops
        try answer(open.run, &answered, &drops)
        // Nothing may be left of what lies before the next answered run: then they are one.
        while drops.all.messages > 0, let next = answered.runs.first?.start,
            !openCuts.values.contains(where: {
                $0.cut.id != cut.id && $0.cut.firstFrame <= next.frame && $0.cut.lastFrame > answered.prefix.frame
            }),
            try firstPosition(after: answered.prefix.frame)?.position.frame ?? .max > next.frame
        {
            try answer(.init(start: answered.prefix, end: next), &answered, &drops)
        }
        let reported = max(reportedLedger, open.lastLedger)
        var isLedgerKept = isLedgerKept
        try transaction { () throws(SQLiteError) in
            statements.deleteCut.bind(1, cut.id)
            try statements.deleteCut.run()
            try save(answered)
            if drops.all != self.drops.all { try saveDrops(drops) }
            statements.forgetBuried.bind(1, cut.firstFrame)
            statements.forgetBuried.bind(2, cut.lastFrame)
            try statements.forgetBuried.run()
            isLedgerKept = try report(through: reported, mayForget: drops.all.messages == 0)
            guard open.cut.lane == .live else { return }
            try deleteCorrections(through: open.lastCorrection)
            // The same epochs that every sending of this cut reported: none is closed while the process lives.
            try statements.reportAccounts.run()
        }
        openCuts[open.cut.lane] = nil
        self.answered = answered
        self.drops = drops
        reportedLedger = reported
        self.isLedgerKept = isLedgerKept
        isDeletionDue = true
        // One batch carries so many lines, corrections and accounts; the rest does not wait for the next message.
        let left = cut.lane == .live ? try max(lastUnreportedLedger(), lastCorrection(), unreportedAccount()) : 0
        if left > 0 { shared.announce() }
        try refreshFill(committed: false)
        return true
    }

    /// Lines up to this one are in the cloud.
    ///
    /// - Returns: whether some of them are kept; see `Schema.reportedLines`.
    private func report(through line: Int64, mayForget: Bool) throws(SQLiteError) -> Bool {
        if line > reportedLedger {
            statements.saveReported.bind(1, line)
            try statements.saveReported.run()
        }
        guard isLedgerKept || line > reportedLedger else { return false }
        // Held frames are gone to the answers as well, and the salvage knows of them by their marks; lines of them come and
        // go all the time.
        if !mayForget, try hasLedgerRoom(share: configuration.localRules.isEmpty ? 2 : 100) { return true }
        statements.deleteLedger.bind(1, line)
        try statements.deleteLedger.run()
        return false
    }

    private func answer(
        _ run: AnsweredFrames.Run, _ answered: inout AnsweredFrames, _ drops: inout DropState
    ) throws(SQLiteError) {
        answered.insert(run)
        let gone = try dropped(in: run)
        drops.all = drops.all - gone
        guard drops.all.messages >= 0 else {
            throw inconsistency(
                "frames \(run.start.frame + 1) to \(run.end.frame) lack \(gone.messages) messages, and fewer were dropped"
            )
        }
        if run.end.frame > liveStart.frame { drops.live = drops.live - gone }
    }

    private func save(_ answered: AnsweredFrames) throws(SQLiteError) {
        if answered.prefix != self.answered.prefix {
            statements.saveAnswer.bind(1, answered.prefix.frame)
            statements.saveAnswer.bind(2, answered.prefix.messages)
            statements.saveAnswer.bind(3, answered.prefix.bytes)
            try statements.saveAnswer.run()
        }
        guard answered.runs != self.answered.runs else { return }
        try statements.forgetRuns.run()
        for run in answered.runs {
            let save = statements.saveRun
            for (index, value) in [
                run.start.frame, run.start.messages, run.start.bytes, run.end.frame, run.end.messages, run.end.bytes,
            ].enumerated() {
                save.bind(Int32(index + 1), value)
            }
            try save.run()
        }
    }

    // MARK: Contents

    /// Frames from `first` on, of so many bytes together unless the first alone is larger, without those that were dropped.
    ///
    /// - Returns: the frames, and the last one that was looked at.
    func frames(
        from first: Int64, through end: Int64, maximumBytes: Int
    ) throws(SQLiteError) -> (frames: [StoredFrame], last: Int64) {
        let statement = statements.frames
        defer { statement.reset() }
        statement.bind(1, first)
        statement.bind(2, end)
        var found: [StoredFrame] = []
        var bytes = 0
        while bytes < maximumBytes {
            guard try statement.step() else { return (found, end) }
            let frame = StoredFrame(
                id: statement.integer(0), header: statement.blob(1), records: statement.blob(2),
                count: Int(statement.integer(3)))
            try prove(frame, totalMessages: statement.integer(4), checksum: statement.optionalInteger(5))
            bytes += frame.header.readableBytes + frame.records.readableBytes
            found.append(frame)
        }
        return (found, found.last?.id ?? end)
    }

    /// Frames of older layouts have no checksum, dropped ones have nothing to prove.
    func prove(_ frame: StoredFrame, totalMessages: Int64, checksum: Int64?) throws(SQLiteError) {
        guard let checksum, frame.records.readableBytes > 0 else { return }
        let computed = FrameChecksum.of(
            id: frame.id, totalMessages: totalMessages, header: frame.header, records: frame.records)
        guard computed == checksum else { throw inconsistency("frame \(frame.id) has another checksum") }
    }

    /// `nil` for a cut that is not the open one.
    func accountsAndLedger(of cut: Cut) throws(SQLiteError) -> (accounts: [EpochAccount]?, ledger: [LedgerLine]?) {
        guard let open = openCuts[cut.lane], open.cut == cut else { return (nil, nil) }
        guard cut.lane == .live else { return ([], []) }
        var accounts: [EpochAccount] = []
        defer {
            statements.accounts.reset()
            statements.ledger.reset()
        }
        while try statements.accounts.step() {
            guard let epoch = Epoch(blob: statements.accounts.blob(0)) else {
                throw inconsistency("an epoch is not 16 bytes long")
            }
            accounts.append(
                EpochAccount(
                    epoch: epoch, lastSequence: UInt64(bitPattern: statements.accounts.integer(1)),
                    isClosed: statements.accounts.integer(2) == 1))
        }
        var ledger: [LedgerLine] = []
        statements.ledger.bind(1, reportedLedger)
        statements.ledger.bind(2, open.lastLedger)
        while try statements.ledger.step() { ledger.append(try ledgerLine(statements.ledger)) }
        return (accounts, ledger)
    }

    private func ledgerLine(_ row: SQLiteStatement) throws(SQLiteError) -> LedgerLine {
        let sequences = (first: row.integer(2), last: row.integer(3))
        let numbers = (first: row.integer(4), last: row.integer(5))
        guard let epoch = Epoch(blob: row.blob(0)), let reason = LedgerReason(rawValue: UInt32(row.integer(6))),
            0 < sequences.first, sequences.first <= sequences.last, 0 < numbers.first, numbers.first <= numbers.last
        else { throw inconsistency("a ledger line of \(row.text(1)) makes no sense") }
        return LedgerLine(
            epoch: epoch, device: row.text(1), sequences: UInt64(sequences.first)...UInt64(sequences.last),
            numbers: UInt64(numbers.first)...UInt64(numbers.last), reason: reason,
            aggregate: reason == .aggregated ? try aggregate(row) : nil)
    }

    private func aggregate(_ row: SQLiteStatement) throws(SQLiteError) -> AggregateReference {
        let (first, last) = (row.integer(8), row.integer(9))
        guard let epoch = Epoch(blob: row.blob(7)), 0 < first, first <= last else {
            throw inconsistency("an aggregated line of \(row.text(1)) does not say what stands for it")
        }
        return AggregateReference(epoch: epoch, sequences: UInt64(first)...UInt64(last))
    }

    // MARK: Positions

    /// The first frame after another, and the position before it: what was dropped in between counts as passed.
    func firstPosition(after frame: Int64) throws(SQLiteError) -> (start: FramePosition, position: FramePosition)? {
        let statement = statements.firstPosition
        defer { statement.reset() }
        statement.bind(1, frame)
        guard try statement.step() else { return nil }
        let position = FramePosition(
            frame: statement.integer(0), messages: statement.integer(1), bytes: statement.integer(2))
        return (
            FramePosition(
                frame: position.frame - 1, messages: position.messages - statement.integer(3),
                bytes: position.bytes - statement.integer(4)), position
        )
    }

    /// The last frame of a range that is there.
    func lastPosition(through end: Int64, after start: Int64) throws(SQLiteError) -> FramePosition? {
        let statement = statements.lastPosition
        defer { statement.reset() }
        statement.bind(1, end)
        statement.bind(2, start)
        guard try statement.step() else { return nil }
        return FramePosition(
            frame: statement.integer(0), messages: statement.integer(1), bytes: statement.integer(2))
    }

    /// The last frame of the longest run after `start` that keeps to the limits, or of one frame if that alone exceeds
    /// them; `start` when no frame follows. By halving: the totals ascend. What was dropped inside the run counts, so a
    /// run may be shorter than it could be.
    func endOfRun(
        after start: FramePosition, through end: Int64, maximumFrames: Int64, maximumBytes: Int64,
        maximumMessages: Int64 = .max
    ) throws(SQLiteError) -> FramePosition {
        guard let (begin, first) = try firstPosition(after: start.frame), first.frame <= end else { return start }
        var best = first
        var low = first.frame
        var high = min(end, first.frame + maximumFrames - 1)
        while low < high {
            let middle = low + (high - low + 1) / 2
            guard let found = try lastPosition(through: middle, after: begin.frame) else { break }
            if found.bytes - begin.bytes <= maximumBytes && found.messages - begin.messages <= maximumMessages {
                best = found
                low = middle
            } else {
                high = found.frame - 1
            }
        }
        return best
    }
}

extension SQLiteStatement {
    /// Frame, messages and bytes in three columns.
    fileprivate func framePosition(_ column: Int32) -> FramePosition {
        FramePosition(frame: integer(column), messages: integer(column + 1), bytes: integer(column + 2))
    }
}
