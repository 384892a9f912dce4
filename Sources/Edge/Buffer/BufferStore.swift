import CSQLite
import MQTTSession
import NIOConcurrencyHelpers
import NIOCore
import Operations
import SyncModel

/// A place in the run of all frames: a frame, and the totals over the file's life up to and with it.
struct FramePosition: Equatable {
    var frame: Int64 = 0
    var messages: Int64 = 0
    var bytes: Int64 = 0
}

/// Messages and bytes of frames.
struct FrameTotals: Equatable {
    var messages: Int64 = 0
    var bytes: Int64 = 0

    static func + (a: Self, b: Self) -> Self { Self(messages: a.messages + b.messages, bytes: a.bytes + b.bytes) }
    static func - (a: Self, b: Self) -> Self { Self(messages: a.messages - b.messages, bytes: a.bytes - b.bytes) }
}

/// The buffer's file and what is remembered of it. Used by one thread alone; what is remembered changes only after the
/// transaction that says so is committed.
final class BufferStore {
    let configuration: Buffer.Configuration
    let connection: SQLiteConnection
    let statements: StoreStatements
    let sessions: SessionTables
    let shared: BufferShared

    /// The epoch that this process writes, and its row.
    private(set) var epoch = Epoch(high: 0, low: 0)
    private(set) var epochRow: Int64 = 0
    /// Since `begin`; as of the last stamp.
    var clocks: GatewayClock
    /// Microseconds on the monotonic clock: without messages, no stamp of the gateway's time is written before.
    var nextStamp: Int64 = 0
    private(set) var lastSequence: UInt64 = 0
    /// The last dense number of each device in this epoch, by handle.
    private var numbers: [UInt64] = []
    private(set) var last = FramePosition()
    var answered = AnsweredFrames()
    /// Rows of answered frames may be left.
    var isDeletionDue = false
    /// Frames up to here that are not answered are backlog.
    var liveStart = FramePosition()
    var lastCut: Int64 = 0
    /// Ledger lines up to here are or were in a cut, and do not change any more.
    var lastLedgerCut: Int64 = 0
    var openCuts: [Lane: OpenCut] = [:]
    /// Set for good when the file is not trusted any more; another store takes over.
    private(set) var failure: BufferError?
    /// Messages of the group whose commit failed without telling whether it is stored.
    private var doubtful = 0
    /// It is.
    private var isDoubtStored = false
    var drops = DropState()
    var disk = DiskView()
    var reserve: Reserve
    var isGivingSpaceBack = false
    /// Microseconds on the monotonic clock: age is looked at then.
    var nextAge: Int64 = 0
    /// There are marks of age.
    var isAgeMarked = true
    /// Microseconds on the monotonic clock: not before, while commits come.
    var nextReturn: Int64 = 0
    /// Not before this time, because the last checkpoint found no room.
    var nextCheckpoint: Int64 = 0
    private var isClosed = false

    init(_ configuration: Buffer.Configuration, connection: SQLiteConnection, shared: BufferShared) throws(BufferError)
    {
        self.configuration = configuration
        self.connection = connection
        self.shared = shared
        reserve = Reserve(ofBuffer: configuration.path, bytes: configuration.reserveBytes)
        clocks = GatewayClock(after: nil, good: nil, at: configuration.clock.now())
        do throws(SQLiteError) {
            statements = try StoreStatements(connection)
            sessions = try SessionTables(connection)
            try loadProgress()
        } catch {
            // A statement that the file's tables do not allow: they are not what their version says.
            guard error.code != SQLITE_ERROR else {
                throw .corrupt("\(configuration.path): \(error.message) (\(error.operation))")
            }
            throw BufferError(error, path: configuration.path)
        }
    }

    // MARK: Opening

    private func loadProgress() throws(SQLiteError) {
        let progress = try connection.prepare(
            """
            SELECT answered_frame, answered_messages, answered_bytes, last_cut, gateway, dropped_messages, dropped_bytes,
                dropped_live_messages, dropped_live_bytes
            FROM progress
            """)
        defer { progress.finalize() }
        guard try progress.step() else { throw inconsistency("the table progress is empty") }
        answered = try loadAnswered(
            prefix: FramePosition(
                frame: progress.integer(0), messages: progress.integer(1), bytes: progress.integer(2)))
        lastCut = progress.integer(3)
        gateway = progress.text(4)
        drops.all = FrameTotals(messages: progress.integer(5), bytes: progress.integer(6))
        drops.live = FrameTotals(messages: progress.integer(7), bytes: progress.integer(8))
        let first = try firstPosition(after: 0)?.position.frame ?? .max
        let written = try connection.integer("SELECT max(last_frame) FROM epoch") ?? 0
        // All that is not answered may be dropped, the newest too.
        last =
            try lastPosition(through: .max, after: answered.end.frame)
            ?? (drops.all.messages == 0 ? answered.end : answered.position(after: drops.all, frame: written))
        guard last.frame == max(written, answered.prefix.frame) else {
            throw inconsistency(
                "frames end at \(last.frame), epochs at \(written), answers at \(answered.prefix.frame)")
        }
        isDeletionDue = first <= answered.prefix.frame || !answered.runs.isEmpty
        liveStart = try loadLiveStart()
        openCuts = try loadCuts()
        lastLedgerCut = openCuts.values.map(\.lastLedger).max() ?? 0
        try refreshFill(committed: false)
    }

    private(set) var gateway = ""

    /// Closes what earlier processes wrote and starts this one's epoch.
    func begin(_ epoch: Epoch) throws(BufferError) {
        guard gateway == configuration.gatewayID else {
            throw .unusable(
                "\(configuration.path) belongs to the gateway \(gateway), gateway.id says \(configuration.gatewayID); "
                    + "start under the old id until all is synced, or name another file in buffer.path")
        }
        let result = attempt { () throws(SQLiteError) in
            let stored = try lastStamp()
            let clocks = GatewayClock(after: stored?.stamp, good: stored?.good, at: configuration.clock.now())
            return try transaction { () throws(SQLiteError) in
                try connection.execute(
                    """
                    UPDATE epoch SET closed = 1 WHERE closed = 0;
                    DELETE FROM epoch WHERE last_sequence = 0;
                    DELETE FROM epoch WHERE reported = 1 AND last_frame <= \(answered.prefix.frame)
                        AND id <= (SELECT max(id) FROM epoch) - \(configuration.keptEpochs)
                        AND id NOT IN (SELECT epoch FROM ledger);
                    """)
                let statement = try connection.prepare(
                    """
                    INSERT INTO epoch (epoch, last_sequence, first_frame, last_frame, closed, reported)
                    VALUES (?1, 0, ?2, ?2 - 1, 0, 0) RETURNING id
                    """)
                defer { statement.finalize() }
                statement.bind(1, epoch.blob)
                statement.bind(2, last.frame + 1)
                guard try statement.step() else { throw inconsistency("no row for the new epoch") }
                let row = statement.integer(0)
                statement.reset()
                epochRow = row
                return try writeStamp(clocks)
            }
        }
        stamped(try result.get())
        self.epoch = epoch
    }

    /// Goes on with the epoch of a store whose file could not be written, over the same file opened anew.
    ///
    /// SQLite's recovery may have found the group whose fsync failed, or not; the epoch's last sequence tells. What lies in
    /// the log is written into the database file and fsynced before anything is built on it: a page whose fsync failed
    /// counts as clean for the kernel and would never be written again.
    func resume(_ former: BufferStore) throws(BufferError) {
        epoch = former.epoch
        numbers = former.numbers
        lastSequence = former.lastSequence
        clocks = former.clocks
        nextStamp = former.nextStamp
        doubtful = former.doubtful
        let stored = try attempt { () throws(SQLiteError) in
            try connection.checkpoint(truncate: true)
            let statement = try connection.prepare("SELECT id, last_sequence FROM epoch WHERE epoch = ? AND closed = 0")
            defer { statement.finalize() }
            statement.bind(1, epoch.blob)
            guard try statement.step() else { throw inconsistency("the running epoch is missing") }
            epochRow = statement.integer(0)
            return UInt64(bitPattern: statement.integer(1))
        }.get()
        isDoubtStored = doubtful > 0 && stored == lastSequence + UInt64(doubtful)
        guard stored == lastSequence || isDoubtStored else {
            throw .corrupt(
                "\(configuration.path): opened anew, it ends at message \(stored) and \(lastSequence) were stored; "
                    + "restart the daemon so that the file is salvaged")
        }
    }

    func restoreSessions() throws(BufferError) -> RestoredState {
        try attempt { () throws(SQLiteError) in try sessions.restore() }.get()
    }

    // MARK: Transactions

    /// Runs a body that touches the file; twice where the disk was full, and there is the reserve or dropping makes room.
    /// After an answer that the
    /// file cannot be trusted nothing runs any more.
    func attempt<Value>(
        mayUseReserve: Bool = true, _ body: () throws(SQLiteError) -> Value
    ) -> Result<Value, BufferError> {
        let result = attemptOnce(body)
        guard case .failure(.full) = result, mayUseReserve, reserve.isHeld || configuration.dropsOldest else {
            return result
        }
        reserve.release()
        // So that the log is written from its start again, into space that it has.
        _ = attemptOnce { () throws(SQLiteError) in try connection.checkpoint() }
        return attemptOnce(body)
    }

    private func attemptOnce<Value>(_ body: () throws(SQLiteError) -> Value) -> Result<Value, BufferError> {
        if let failure { return .failure(failure) }
        do throws(SQLiteError) {
            return .success(try body())
        } catch {
            let failure = BufferError(error, path: configuration.path)
            switch failure {
            case .failing: self.failure = failure
            case .corrupt(let cause):
                self.failure = failure
                // Best effort: what is damaged will most likely be found again.
                try? SalvageFiles(path: configuration.path).write(.suspect(cause))
            default: break
            }
            return .failure(failure)
        }
    }

    /// No other store may take over: the file itself is at fault.
    func distrust(_ failure: BufferError) {
        self.failure = failure
        // Best effort: without the mark the next start finds out by itself, or goes on with what is there.
        try? SalvageFiles(path: configuration.path).write(.suspect("\(failure)"))
    }

    func transaction<Value>(_ body: () throws(SQLiteError) -> Value) throws(SQLiteError) -> Value {
        try statements.begin.run()
        do throws(SQLiteError) {
            let value = try body()
            try statements.commit.run()
            return value
        } catch {
            // SQLite has rolled back by itself after some errors (SQLITE_FULL, SQLITE_IOERR among them).
            // A rollback that fails as well adds nothing: the first error decides what becomes of the file.
            if connection.isInTransaction { try? statements.rollback.run() }
            throw error
        }
    }

    func inconsistency(_ what: String) -> SQLiteError {
        SQLiteError(code: SQLiteError.corrupt, message: what, operation: "consistency check")
    }

    // MARK: Committing

    func commit(_ drafts: [FrameDraft], changes: [DurableChange]) -> Result<CommitReceipt, BufferError> {
        let start = Clock.monotonic()
        let drafts = drafts.filter { $0.count > 0 }
        let messages = drafts.reduce(0) { $0 + $1.count }
        let first = messages == 0 ? 0 : lastSequence + 1
        if messages == 0 && changes.isEmpty {
            if let failure { return .failure(failure) }
            return .success(receipt(first: first, messages: messages, duration: 0))
        }
        if let receipt = receiptOfDoubt(drafts, messages: messages) { return .success(receipt) }
        let size = drafts.reduce(0) { $0 + Int64($1.records.readableBytes) }
        if messages > 0, let refusal = refusalToUseReserve(for: size) { return .failure(refusal) }
        var numbered = 0
        var isRepeated = false
        var stamp: GatewayClock?
        let stamps = messages > 0 || isStampDue
        let result = attempt(mayUseReserve: messages == 0 || configuration.dropsOldest) { () throws(SQLiteError) in
            for draft in drafts.prefix(numbered) { takeBackNumbers(of: draft) }
            numbered = 0
            var effect = CommitEffectOnStore(self)
            // The disk is full: pages for it have to come from the file, which must not grow in its log either.
            let mustDrop = isRepeated ? true : try lacksPages(for: size)
            if mustDrop { effect.drops.excess = max(effect.drops.excess, Self.reuseReserve) }
            isRepeated = true
            try transaction { () throws(SQLiteError) in
                try makeRoom(for: size, &effect.drops)
                if effect.drops.all != drops.all { try saveDrops(effect.drops) }
                for draft in drafts {
                    numbered += 1
                    try insert(draft, firstSequence: effect.sequence + 1, after: &effect.last)
                    effect.sequence += UInt64(draft.count)
                }
                for change in changes { try sessions.apply(change) }
                if messages > 0 { try saveEpoch(lastSequence: effect.sequence, lastFrame: effect.last.frame) }
                if stamps { stamp = try writeStamp(clocks) }
                // Under load a slice of answered frames goes with the commit and costs no fsync of its own.
                effect.isDeletionDue = try deleteSlice(share: 4)
            }
            return effect
        }
        switch result {
        case .failure(let error):
            for draft in drafts.prefix(numbered) { takeBackNumbers(of: draft) }
            if case .failing = error { doubtful = messages }
            return .failure(error)
        case .success(let effect):
            lastSequence = effect.sequence
            last = effect.last
            isDeletionDue = effect.isDeletionDue
            drops = effect.drops
        }
        if let stamp { stamped(stamp) }
        // The commit stands whatever the look at the disk says; a damage found there is told to the next caller.
        _ = attempt { () throws(SQLiteError) in try refreshFill(committed: true) }
        if messages > 0 { shared.announce() }
        return .success(receipt(first: first, messages: messages, duration: Clock.monotonic() - start))
    }

    /// What a commit changes of what is remembered.
    private struct CommitEffectOnStore {
        var last: FramePosition
        var sequence: UInt64
        var isDeletionDue: Bool
        var drops: DropState

        init(_ store: BufferStore) {
            (last, sequence) = (store.last, store.lastSequence)
            (isDeletionDue, drops) = (store.isDeletionDue, store.drops)
        }
    }

    /// The commit of a group failed and its fate was unknown. The file, opened anew, has it: what comes now is the same
    /// group again, and it is not stored twice.
    private func receiptOfDoubt(_ drafts: [FrameDraft], messages: Int) -> CommitReceipt? {
        defer { isDoubtStored = false }
        guard failure == nil, isDoubtStored, messages == doubtful else { return nil }
        for draft in drafts { _ = giveNumbers(to: draft) }
        let first = lastSequence + 1
        lastSequence += UInt64(messages)
        shared.announce()
        return receipt(first: first, messages: messages, duration: 0)
    }

    /// While the reserve is given up, messages go only where the file itself has room: what is left of the disk is for
    /// answers and deletions.
    private func refusalToUseReserve(for size: Int64) -> BufferError? {
        guard configuration.reserveBytes > 0, !reserve.isHeld, !configuration.dropsOldest else { return nil }
        let result = attempt(mayUseReserve: false) { () throws(SQLiteError) in
            try refreshFill(committed: false)
            return try lacksPages(for: size)
        }
        switch result {
        case .failure(let error): return error
        case .success(let lacksPages): return lacksPages ? .full : nil
        }
    }

    /// The reserve is given up, or there never was room for it, and neither the file nor the disk has room for messages of
    /// so many bytes and for what must go on beside them.
    private func lacksPages(for size: Int64) throws(SQLiteError) -> Bool {
        guard configuration.reserveBytes > 0, !reserve.isHeld else { return false }
        try lookAtPages()
        let needed = 2 * size + Self.reuseReserve / 16
        guard disk.freeBytes < needed else { return false }
        return FileSystem.freeBytes(at: configuration.path).map { $0 < needed + Self.reuseReserve / 4 } ?? true
    }

    private func receipt(first: UInt64, messages: Int, duration: Int64) -> CommitReceipt {
        CommitReceipt(
            epoch: epoch, firstSequence: first, lastSequence: lastSequence, messageCount: messages, duration: duration)
    }

    private func insert(
        _ draft: FrameDraft, firstSequence: UInt64, after end: inout FramePosition
    ) throws(SQLiteError) {
        let header = draft.header(epoch: epoch, firstSequence: firstSequence, firstNumbers: giveNumbers(to: draft))
        let bytes = Int64(header.readableBytes + draft.records.readableBytes)
        end.frame += 1
        end.messages += Int64(draft.count)
        end.bytes += bytes
        let statement = statements.insertFrame
        statement.bind(1, end.frame)
        statement.bind(2, epochRow)
        statement.bind(3, Int64(firstSequence))
        statement.bind(4, Int64(draft.count))
        statement.bind(5, bytes)
        statement.bind(6, end.messages)
        statement.bind(7, end.bytes)
        statement.bind(8, draft.clock.wallTime)
        statement.bind(11, draft.priority.rank)
        statement.bind(
            12,
            FrameChecksum.of(id: end.frame, totalMessages: end.messages, header: header, records: draft.records))
        try statement.run(blob: (9, header), blob: (10, draft.records))
    }

    private func giveNumbers(to draft: FrameDraft) -> [UInt64] {
        draft.devices.map { device in
            let index = Int(device.handle)
            if index >= numbers.count {
                numbers.append(contentsOf: repeatElement(0, count: index + 1 - numbers.count))
            }
            let first = numbers[index] + 1
            numbers[index] += device.count
            return first
        }
    }

    private func takeBackNumbers(of draft: FrameDraft) {
        for device in draft.devices { numbers[Int(device.handle)] -= device.count }
    }

    private func saveEpoch(lastSequence: UInt64, lastFrame: Int64) throws(SQLiteError) {
        let statement = statements.saveEpoch
        statement.bind(1, Int64(lastSequence))
        statement.bind(2, lastFrame)
        statement.bind(3, epochRow)
        try statement.run()
    }

    // MARK: Closing

    func close() {
        guard !isClosed else { return }
        if failure == nil {
            stamp()
            // Best effort: the log holds everything that is not copied, and the next start reads it. The reserve stays for
            // that start.
            _ = attempt(mayUseReserve: false) { () throws(SQLiteError) in try connection.checkpoint(truncate: true) }
        }
        abandon()
    }

    /// Lets go of the file as it is.
    func abandon() {
        guard !isClosed else { return }
        isClosed = true
        statements.finalize()
        sessions.finalize()
        connection.close(checkpointing: failure == nil)
    }
}
