import NIOCore
import SyncModel

/// A cut that waits for its answer, and the last ledger line that it carries (0: none).
struct OpenCut: Equatable {
    var cut: Cut
    var lastLedger: Int64
}

extension BufferStore {
    /// Closed epochs that one batch reports.
    static let maximumAccounts = 1_000
    /// Ledger lines that one batch carries.
    static let maximumLedgerLines = 10_000

    // MARK: Cuts

    func loadCut() throws(SQLiteError) -> OpenCut? {
        let statement = try connection.prepare("SELECT * FROM cut")
        defer { statement.finalize() }
        guard try statement.step() else { return nil }
        return OpenCut(
            cut: Cut(
                id: statement.integer(0), firstFrame: statement.integer(1), lastFrame: statement.integer(2),
                messageCount: Int(statement.integer(3)), byteCount: Int(statement.integer(4))),
            lastLedger: statement.integer(5))
    }

    func nextCut(maximumBytes: Int64, maximumMessages: Int64) throws(SQLiteError) -> Cut? {
        if let openCut { return openCut.cut }
        // However much is asked for, a batch keeps to what its receiver takes.
        let limits = SyncLimits()
        let end = try endOfRun(
            after: answered, through: min(last.frame, answered.frame + Int64(limits.maximumFrames)),
            maximumBytes: maximumBytes, maximumMessages: min(maximumMessages, Int64(limits.maximumRecords)))
        let lastLedger = try statements.lastLedger.value()
        let hasAccounts = try hasUnreportedAccounts()
        guard end.frame > answered.frame || lastLedger > 0 || hasAccounts else { return nil }
        let cut = Cut(
            id: lastCut + 1, firstFrame: answered.frame + 1, lastFrame: end.frame,
            messageCount: Int(end.messages - answered.messages), byteCount: Int(end.bytes - answered.bytes))
        try transaction { () throws(SQLiteError) in
            let insert = statements.insertCut
            for (index, value) in [
                cut.id, cut.firstFrame, cut.lastFrame, Int64(cut.messageCount), Int64(cut.byteCount), lastLedger,
            ].enumerated() {
                insert.bind(Int32(index + 1), value)
            }
            try insert.run()
            statements.saveLastCut.bind(1, cut.id)
            try statements.saveLastCut.run()
        }
        lastCut = cut.id
        openCut = OpenCut(cut: cut, lastLedger: lastLedger)
        return cut
    }

    /// An epoch that ended is reported even when no message follows, so that the audit can close it.
    private func hasUnreportedAccounts() throws(SQLiteError) -> Bool {
        try connection.integer("SELECT 1 FROM epoch WHERE closed = 1 AND reported = 0 LIMIT 1") != nil
    }

    /// False for a cut that was never made. The frames are deleted later, in slices: from this commit on they are not
    /// counted and in no cut.
    func acknowledge(_ cut: Cut) throws(SQLiteError) -> Bool {
        guard let openCut, openCut.cut.id == cut.id else { return cut.id <= lastCut && cut.id > 0 }
        let answered =
            openCut.cut.lastFrame > self.answered.frame
            ? try position(of: openCut.cut.lastFrame).position : self.answered
        try transaction { () throws(SQLiteError) in
            statements.deleteCut.bind(1, cut.id)
            try statements.deleteCut.run()
            statements.saveAnswer.bind(1, answered.frame)
            statements.saveAnswer.bind(2, answered.messages)
            statements.saveAnswer.bind(3, answered.bytes)
            try statements.saveAnswer.run()
            statements.deleteLedger.bind(1, openCut.lastLedger)
            try statements.deleteLedger.run()
            // The same epochs that every sending of this cut reported: none is closed while the process lives.
            try statements.reportAccounts.run()
        }
        self.openCut = nil
        self.answered = answered
        try refreshFill(committed: false)
        return true
    }

    // MARK: Contents

    /// Frames from `first` on, of so many bytes together unless the first alone is larger.
    func frames(from first: Int64, through end: Int64, maximumBytes: Int) throws(SQLiteError) -> [StoredFrame] {
        let statement = statements.frames
        defer { statement.reset() }
        statement.bind(1, first)
        statement.bind(2, end)
        var found: [StoredFrame] = []
        var bytes = 0
        while bytes < maximumBytes, try statement.step() {
            let frame = StoredFrame(
                id: statement.integer(0), header: statement.blob(1), records: statement.blob(2),
                count: Int(statement.integer(3)))
            guard frame.id == first + Int64(found.count) else { throw inconsistency("frame \(first) is missing") }
            try prove(frame, totalMessages: statement.integer(4), checksum: statement.optionalInteger(5))
            bytes += frame.header.readableBytes + frame.records.readableBytes
            found.append(frame)
        }
        guard !found.isEmpty else { throw inconsistency("frame \(first) is missing") }
        return found
    }

    /// Frames of older layouts have no checksum, dropped ones have nothing to prove.
    private func prove(_ frame: StoredFrame, totalMessages: Int64, checksum: Int64?) throws(SQLiteError) {
        guard let checksum, frame.records.readableBytes > 0 else { return }
        let computed = FrameChecksum.of(
            id: frame.id, totalMessages: totalMessages, header: frame.header, records: frame.records)
        guard computed == checksum else { throw inconsistency("frame \(frame.id) has another checksum") }
    }

    /// `nil` for a cut that is not the open one.
    func accountsAndLedger(of cut: Cut) throws(SQLiteError) -> (accounts: [EpochAccount]?, ledger: [LedgerLine]?) {
        guard let openCut, openCut.cut == cut else { return (nil, nil) }
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
        statements.ledger.bind(1, openCut.lastLedger)
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

    /// Frames of an epoch follow each other and are answered from the oldest on, so what is left of it is one run.
    func accounting() throws(SQLiteError) -> GatewayAccounting {
        var entries: [GatewayAccounting.EpochEntry] = []
        let statement = statements.epochs
        defer { statement.reset() }
        while try statement.step() {
            guard let epoch = Epoch(blob: statement.blob(0)) else {
                throw inconsistency("an epoch is not 16 bytes long")
            }
            let lastSequence = UInt64(bitPattern: statement.integer(1))
            let first = max(statement.integer(2), answered.frame + 1)
            var buffered: [[UInt64]] = []
            if first <= statement.integer(3) {
                statements.firstSequence.bind(1, first)
                let sequence = try statements.firstSequence.value()
                buffered = [[UInt64(bitPattern: sequence), lastSequence]]
            }
            entries.append(.init(epoch: epoch.hexadecimal, lastSequence: lastSequence, buffered: buffered))
        }
        return GatewayAccounting(
            gateway: gateway, epochs: entries, bufferedMessages: UInt64(last.messages - answered.messages),
            bufferedBytes: UInt64(last.bytes - answered.bytes))
    }
}
