import NIOCore
import SyncModel

/// A cut that waits for its answer, its place in the run of all frames, and the last ledger line that it carries (0: none).
struct OpenCut: Equatable {
    var cut: Cut
    var run: AnsweredFrames.Run
    var lastLedger: Int64
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
            "SELECT id, first_frame, last_frame, messages, bytes, last_ledger, lane FROM cut")
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
            cuts[lane] = OpenCut(cut: cut, run: try run(of: cut), lastLedger: statement.integer(5))
        }
        return cuts
    }

    private func run(of cut: Cut) throws(SQLiteError) -> AnsweredFrames.Run {
        guard cut.lastFrame >= cut.firstFrame else { return .init(start: answered.prefix, end: answered.prefix) }
        let end = try position(of: cut.lastFrame).position
        let start = FramePosition(
            frame: cut.firstFrame - 1, messages: end.messages - Int64(cut.messageCount),
            bytes: end.bytes - Int64(cut.byteCount))
        return .init(start: start, end: end)
    }

    // MARK: Lanes

    /// What waits for the cloud, by lane. All sums over frames that are not answered come from here.
    var waiting: WaitingData {
        let all = answered.unanswered(through: last)
        let old = answered.unanswered(through: liveStart)
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
            try transaction { () throws(SQLiteError) in
                let save = statements.saveLiveStart
                save.bind(1, start.frame)
                save.bind(2, start.messages)
                save.bind(3, start.bytes)
                try save.run()
            }
            liveStart = start
            try refreshFill(committed: false)
        }
        return waiting.backlog.messages > 0
    }

    // MARK: Cuts

    func nextCut(in lane: Lane, maximumBytes: Int64, maximumMessages: Int64) throws(SQLiteError) -> Cut? {
        if let open = openCuts[lane] { return open.cut }
        // However much is asked for, a batch keeps to what its receiver takes.
        let limits = SyncLimits()
        var taken = answered
        for other in openCuts.values { taken.insert(other.run) }
        let gap = taken.gap(after: lane == .live ? liveStart : FramePosition())
        let start = gap.start
        let end = try endOfRun(
            after: start,
            through: min(
                lane == .live ? last.frame : min(liveStart.frame, last.frame), gap.last ?? .max,
                start.frame + Int64(limits.maximumFrames)),
            maximumBytes: maximumBytes, maximumMessages: min(maximumMessages, Int64(limits.maximumRecords)))
        // Accounts and ledger lines are not old: they travel in the lane live alone, so that no two cuts carry the same.
        let lastLedger = lane == .live ? try statements.lastLedger.value() : 0
        let hasAccounts = lane == .live ? try hasUnreportedAccounts() : false
        guard end.frame > start.frame || lastLedger > 0 || hasAccounts else { return nil }
        let cut = Cut(
            id: lastCut + 1, firstFrame: start.frame + 1, lastFrame: end.frame,
            messageCount: Int(end.messages - start.messages), byteCount: Int(end.bytes - start.bytes), lane: lane)
        try transaction { () throws(SQLiteError) in
            let insert = statements.insertCut
            for (index, value) in [
                cut.id, cut.firstFrame, cut.lastFrame, Int64(cut.messageCount), Int64(cut.byteCount), lastLedger,
                Int64(lane.rawValue),
            ].enumerated() {
                insert.bind(Int32(index + 1), value)
            }
            try insert.run()
            statements.saveLastCut.bind(1, cut.id)
            try statements.saveLastCut.run()
        }
        lastCut = cut.id
        openCuts[lane] = OpenCut(cut: cut, run: .init(start: start, end: end), lastLedger: lastLedger)
        return cut
    }

    /// An epoch that ended is reported even when no message follows, so that the audit can close it.
    private func hasUnreportedAccounts() throws(SQLiteError) -> Bool {
        try connection.integer("SELECT 1 FROM epoch WHERE closed = 1 AND reported = 0 LIMIT 1") != nil
    }

    /// False for a cut that was never made. The frames are deleted later, in slices: from this commit on they are not
    /// counted and in no cut.
    func acknowledge(_ cut: Cut) throws(SQLiteError) -> Bool {
        guard let open = openCuts.values.first(where: { $0.cut.id == cut.id }) else {
            return cut.id <= lastCut && cut.id > 0
        }
        var answered = answered
        answered.insert(open.run)
        try transaction { () throws(SQLiteError) in
            statements.deleteCut.bind(1, cut.id)
            try statements.deleteCut.run()
            try save(answered)
            statements.forgetBuried.bind(1, cut.firstFrame)
            statements.forgetBuried.bind(2, cut.lastFrame)
            try statements.forgetBuried.run()
            guard open.cut.lane == .live else { return }
            statements.deleteLedger.bind(1, open.lastLedger)
            try statements.deleteLedger.run()
            // The same epochs that every sending of this cut reported: none is closed while the process lives.
            try statements.reportAccounts.run()
        }
        openCuts[open.cut.lane] = nil
        self.answered = answered
        isDeletionDue = true
        try refreshFill(committed: false)
        return true
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

    /// Frames from `first` on, of so many bytes together unless the first alone is larger, without those that were dropped
    /// since: they have an empty header.
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
        var last = first - 1
        while bytes < maximumBytes, try statement.step() {
            let frame = StoredFrame(
                id: statement.integer(0), header: statement.blob(1), records: statement.blob(2),
                count: Int(statement.integer(3)))
            guard frame.id == last + 1 else { throw inconsistency("frame \(last + 1) is missing") }
            last = frame.id
            guard frame.header.readableBytes > 0 else { continue }
            bytes += frame.header.readableBytes + frame.records.readableBytes
            found.append(frame)
        }
        guard last >= first else { throw inconsistency("frame \(first) is missing") }
        return (found, last)
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
        statements.ledger.bind(1, open.lastLedger)
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
            numbers: UInt64(numbers.first)...UInt64(numbers.last), reason: reason)
    }

    // MARK: Positions

    func position(of frame: Int64) throws(SQLiteError) -> (position: FramePosition, count: Int64, size: Int64) {
        let statement = statements.position
        defer { statement.reset() }
        statement.bind(1, frame)
        guard try statement.step() else { throw inconsistency("frame \(frame) is missing") }
        return (
            FramePosition(frame: frame, messages: statement.integer(0), bytes: statement.integer(1)),
            statement.integer(2), statement.integer(3)
        )
    }

    /// The last frame of the longest run after `start` that keeps to the limits, or of one frame if that alone exceeds
    /// them; `start` when no frame follows. By halving: ids are dense and the totals ascend.
    func endOfRun(
        after start: FramePosition, through end: Int64, maximumBytes: Int64, maximumMessages: Int64
    ) throws(SQLiteError) -> FramePosition {
        guard end > start.frame else { return start }
        var best = try position(of: start.frame + 1).position
        var low = best.frame
        var high = end
        while low < high {
            let middle = low + (high - low + 1) / 2
            let found = try position(of: middle).position
            if found.bytes - start.bytes <= maximumBytes && found.messages - start.messages <= maximumMessages {
                best = found
                low = middle
            } else {
                high = middle - 1
            }
        }
        return best
    }

    // MARK: Accounting

    /// Frames of an epoch follow each other; what is left of it are the runs that are not answered.
    func accounting() throws(SQLiteError) -> GatewayAccounting {
        var entries: [GatewayAccounting.EpochEntry] = []
        let statement = statements.epochs
        defer { statement.reset() }
        while try statement.step() {
            guard let epoch = Epoch(blob: statement.blob(0)) else {
                throw inconsistency("an epoch is not 16 bytes long")
            }
            let lastSequence = UInt64(bitPattern: statement.integer(1))
            let frames = (first: statement.integer(2), last: statement.integer(3))
            var buffered: [[UInt64]] = []
            for gap in frames.first <= frames.last ? answered.gaps(in: frames.first...frames.last) : [] {
                let first = try sequences(of: gap.lowerBound).first
                buffered.append([first, try sequences(of: gap.upperBound).last])
            }
            entries.append(.init(epoch: epoch.hexadecimal, lastSequence: lastSequence, buffered: buffered))
        }
        let waiting = waiting
        return GatewayAccounting(
            gateway: gateway, epochs: entries,
            bufferedMessages: UInt64(waiting.live.messages + waiting.backlog.messages),
            bufferedBytes: UInt64(waiting.live.bytes + waiting.backlog.bytes))
    }

    private func sequences(of frame: Int64) throws(SQLiteError) -> (first: UInt64, last: UInt64) {
        let statement = statements.sequences
        defer { statement.reset() }
        statement.bind(1, frame)
        guard try statement.step() else { throw inconsistency("frame \(frame) is missing") }
        return (UInt64(bitPattern: statement.integer(0)), UInt64(bitPattern: statement.integer(1)))
    }
}

extension SQLiteStatement {
    /// Frame, messages and bytes in three columns.
    fileprivate func framePosition(_ column: Int32) -> FramePosition {
        FramePosition(frame: integer(column), messages: integer(column + 1), bytes: integer(column + 2))
    }
}
