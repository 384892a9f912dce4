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
    let localStatements: LocalStatements
    let sessions: SessionTables
    let shared: BufferShared

    /// The epoch that this process writes, and its row.
    private(set) var epoch = Epoch(high: 0, low: 0)
    private(set) var epochRow: Int64 = 0
    /// Since `begin`; as of the last stamp.
    var clocks: GatewayClock
    var clockWatch: ClockWatch
    /// Microseconds on the monotonic clock: without messages, no stamp of the gateway's time is written before.
    var nextStamp: Int64 = 0
    var lastSequence: UInt64 = 0
    var numbers = DeviceNumbers()
    var last = FramePosition()
    var answered = AnsweredFrames()
    /// Rows of answered frames may be left.
    var isDeletionDue = false
    /// Frames up to here that are not answered are backlog.
    var liveStart = FramePosition()
    var lastCut: Int64 = 0
    /// Ledger lines up to here are or were in a cut, and do not change any more.
    var lastLedgerCut: Int64 = 0
    /// Ledger lines up to here are in the cloud.
    var reportedLedger: Int64 = 0
    /// Some of them may still be there.
    var isLedgerKept = false
    var openCuts: [Lane: OpenCut] = [:]
    /// Set for good when the file is not trusted any more; another store takes over.
    private(set) var failure: BufferError?
    /// It failed because a page could not be read.
    private(set) var cannotRead = false
    /// Messages of the group whose commit failed without telling whether it is stored.
    var doubtful = 0
    /// It is.
    var isDoubtStored = false
    var drops = DropState()
    var openLines = OpenLines()
    var local = LocalWorkState()
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
    /// A file that has given pages back shrinks with the next checkpoint.
    var isCheckpointDue = false
    /// The same for what else is done between commits.
    var nextMaintenance: Int64 = 0
    /// Of the file that the connection has.
    let fileIdentity: FileSystem.Identity?
    private var isClosed = false

    init(_ configuration: Buffer.Configuration, connection: SQLiteConnection, shared: BufferShared) throws(BufferError)
    {
        self.configuration = configuration
        self.connection = connection
        self.shared = shared
        fileIdentity = FileSystem.identity(of: configuration.path)
        reserve = Reserve(
            ofBuffer: configuration.path, bytes: configuration.reserveBytes, on: configuration.space)
        let now = configuration.clock.now()
        clocks = GatewayClock(after: nil, good: nil, at: now)
        clockWatch = ClockWatch(at: now)
        do throws(SQLiteError) {
            statements = try StoreStatements(connection)
            localStatements = try LocalStatements(connection)
            sessions = try SessionTables(connection)
            try loadProgress()
        } catch {
            throw BufferError(error, path: configuration.path)
        }
    }

    // MARK: Opening

    private func loadProgress() throws(SQLiteError) {
        let progress = try connection.prepare(
            """
            SELECT answered_frame, answered_messages, answered_bytes, last_cut, gateway, dropped_messages, dropped_bytes,
                dropped_live_messages, dropped_live_bytes, reported_ledger
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
        reportedLedger = progress.integer(9)
        isLedgerKept = reportedLedger > 0
        let first = try firstPosition(after: 0)?.position.frame ?? .max
        let written = try connection.integer("SELECT max(last_frame) FROM epoch") ?? 0
        drops.held = try loadHeld()
        last = try loadLast(written: written)
        guard last.frame == max(written, answered.prefix.frame) else {
            throw inconsistency(
                "frames end at \(last.frame), epochs at \(written), answers at \(answered.prefix.frame)")
        }
        isDeletionDue = first <= answered.prefix.frame || !answered.runs.isEmpty
        liveStart = try loadLiveStart()
        openCuts = try loadCuts()
        lastLedgerCut = openCuts.values.map(\.lastLedger).max() ?? reportedLedger
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
            let now = configuration.clock.now()
            let clocks = GatewayClock(after: stored?.stamp, good: stored?.good, at: now)
            return try transaction { () throws(SQLiteError) in
                let watch = try inheritClockWatch(at: now, stamp: stored?.stamp)
                try connection.execute(
                    """
                    UPDATE epoch SET closed = 1 WHERE closed = 0;
                    DELETE FROM epoch WHERE last_sequence = 0;
                    DELETE FROM device_number;
                    DELETE FROM epoch WHERE reported = 1 AND last_frame <= \(answered.prefix.frame)
                        AND id <= (SELECT max(id) FROM epoch) - \(configuration.keptEpochs)
                        AND id NOT IN (SELECT epoch FROM ledger) AND id NOT IN (SELECT epoch FROM held_mark);
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
                try prepareRules()
                return try writeStamp(clocks, watch)
            }
        }
        stamped(try result.get())
        self.epoch = epoch
    }

    /// Goes on with the epoch of a store whose file could not be written, over the same file opened anew.
    ///
    /// SQLite's recovery may have found the group whose fsync failed, or not; the epoch's last sequence tells. What lies in
    /// the log is made durable, there and in the database file, before anything is built on it.
    func resume(_ former: BufferStore) throws(BufferError) {
        epoch = former.epoch
        numbers = former.numbers
        lastSequence = former.lastSequence
        clocks = former.clocks
        nextStamp = former.nextStamp
        doubtful = former.doubtful
        let stored = try attempt { () throws(SQLiteError) in
            let statement = try connection.prepare("SELECT id, last_sequence FROM epoch WHERE epoch = ? AND closed = 0")
            defer { statement.finalize() }
            statement.bind(1, epoch.blob)
            guard try statement.step() else { throw inconsistency("the running epoch is missing") }
            epochRow = statement.integer(0)
            clockWatch = try loadClockWatch(at: configuration.clock.now(), anchor: former.clockWatch.anchor)
            return UInt64(bitPattern: statement.integer(1))
        }.get()
        // A batch that is on its way has what it had: later corrections are not answered with it.
        for (lane, open) in former.openCuts where openCuts[lane]?.cut == open.cut {
            openCuts[lane]?.lastCorrection = open.lastCorrection
        }
        try adoptLocalWork(of: former, stored: stored)
        isDoubtStored = doubtful > 0 && stored == lastSequence + UInt64(doubtful)
        guard stored == lastSequence || isDoubtStored else {
            throw .corrupt(
                "\(configuration.path): opened anew, it ends at message \(stored) and \(lastSequence) were stored; "
                    + "restart the daemon so that the file is salvaged")
        }
        try attempt { () throws(SQLiteError) in try connection.checkpoint(truncate: true) }.get()
    }

    func restoreSessions() throws(BufferError) -> RestoredState {
        try attempt { () throws(SQLiteError) in try sessions.restore() }.get()
    }

    // MARK: Transactions

    /// Runs a body that touches the file; twice where the disk was full, and there is the reserve or dropping makes room.
    /// After an answer that the file cannot be trusted nothing runs any more.
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
            case .failing:
                self.failure = failure
                cannotRead = error.isUnreadable
            case .corrupt: distrust(failure)
            default: break
            }
            return .failure(failure)
        }
    }

    /// No other store may take over: the file itself is at fault.
    func distrust(_ failure: BufferError) {
        self.failure = failure
        // Best effort: without the mark the next start finds out by itself, or goes on with what is there.
        let end = lastSequence == 0 ? nil : KnownEnd(epoch: epoch, lastSequence: lastSequence)
        try? SalvageFiles(configuration).write(.suspect("\(failure)", end))
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

    // MARK: Closing

    func close() {
        guard !isClosed else { return }
        if failure == nil {
            stamp()
            // Best effort: the log holds everything that is not copied, and the next start reads it. The reserve stays for
            // that start.
            _ = attempt(mayUseReserve: false) { () throws(SQLiteError) in try connection.checkpoint(truncate: true) }
        }
        letGo(checkpointing: failure == nil)
    }

    /// Lets go of the file as it is.
    func abandon() { letGo(checkpointing: false) }

    private func letGo(checkpointing: Bool) {
        guard !isClosed else { return }
        isClosed = true
        statements.finalize()
        localStatements.finalize()
        sessions.finalize()
        connection.close(checkpointing: checkpointing)
    }
}
