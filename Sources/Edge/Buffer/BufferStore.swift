import CSQLite
import MQTTSession
import NIOConcurrencyHelpers
import NIOCore
import SyncModel

/// A place in the run of all frames: a frame, and the totals over the file's life up to and with it.
struct FramePosition: Equatable {
    var frame: Int64 = 0
    var messages: Int64 = 0
    var bytes: Int64 = 0
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
    private(set) var lastSequence: UInt64 = 0
    /// The last dense number of each device in this epoch, by handle.
    private var numbers: [UInt64] = []
    private(set) var last = FramePosition()
    /// Up to here the cloud has answered for.
    var answered = FramePosition()
    /// Up to here answered frames are deleted.
    var deleted = FramePosition()
    var lastCut: Int64 = 0
    var openCut: OpenCut?
    /// Set for good when the file is not trusted any more.
    private(set) var failure: BufferError?
    /// Microseconds on the monotonic clock when the disk was last asked.
    private var diskLookedAt: Int64?
    private var isDiskLow = false
    private var usedBytes: Int64 = 0
    /// Not before this time, because the last checkpoint found no room.
    var nextCheckpoint: Int64 = 0
    private var isClosed = false

    init(_ configuration: Buffer.Configuration, connection: SQLiteConnection, shared: BufferShared) throws(BufferError)
    {
        self.configuration = configuration
        self.connection = connection
        self.shared = shared
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
            "SELECT answered_frame, answered_messages, answered_bytes, last_cut, gateway FROM progress")
        defer { progress.finalize() }
        guard try progress.step() else { throw inconsistency("the table progress is empty") }
        answered = FramePosition(
            frame: progress.integer(0), messages: progress.integer(1), bytes: progress.integer(2))
        lastCut = progress.integer(3)
        gateway = progress.text(4)
        last = answered
        deleted = answered
        if let first = try connection.integer("SELECT min(id) FROM frame") {
            let firstPosition = try position(of: first)
            deleted = FramePosition(
                frame: first - 1, messages: firstPosition.position.messages - firstPosition.count,
                bytes: firstPosition.position.bytes - firstPosition.size)
            let newest = try connection.integer("SELECT max(id) FROM frame") ?? first
            if newest > answered.frame { last = try position(of: newest).position }
        }
        let written = try connection.integer("SELECT max(last_frame) FROM epoch") ?? 0
        guard last.frame == max(written, answered.frame), deleted.frame <= answered.frame else {
            throw inconsistency("frames end at \(last.frame), epochs at \(written), answers at \(answered.frame)")
        }
        openCut = try loadCut()
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
            try transaction { () throws(SQLiteError) in
                try connection.execute(
                    """
                    UPDATE epoch SET closed = 1 WHERE closed = 0;
                    DELETE FROM epoch WHERE last_sequence = 0;
                    DELETE FROM epoch WHERE reported = 1 AND last_frame <= \(answered.frame)
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
                return row
            }
        }
        epochRow = try result.get()
        self.epoch = epoch
    }

    func restoreSessions() throws(BufferError) -> RestoredState {
        try attempt { () throws(SQLiteError) in try sessions.restore() }.get()
    }

    // MARK: Transactions

    /// Runs a body that touches the file. After an answer that the file cannot be trusted nothing runs any more.
    func attempt<Value>(_ body: () throws(SQLiteError) -> Value) -> Result<Value, BufferError> {
        if let failure { return .failure(failure) }
        do throws(SQLiteError) {
            return .success(try body())
        } catch {
            let failure = BufferError(error, path: configuration.path)
            if case .damaged = failure { self.failure = failure }
            if case .corrupt(let cause) = failure {
                self.failure = failure
                // Best effort: what is damaged will most likely be found again.
                try? SalvageFiles(path: configuration.path).write(.suspect(cause))
            }
            return .failure(failure)
        }
    }

    func transaction<Value>(_ body: () throws(SQLiteError) -> Value) throws(SQLiteError) -> Value {
        try statements.begin.run()
        do throws(SQLiteError) {
            let value = try body()
            try statements.commit.run()
            return value
        } catch {
            // SQLite has rolled back by itself after some errors (SQLITE_FULL, SQLITE_IOERR among them).
            if connection.isInTransaction { try statements.rollback.run() }
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
        var end = last
        var sequence = lastSequence
        var deletion = deleted
        var numbered = 0
        let result = attempt { () throws(SQLiteError) in
            try transaction { () throws(SQLiteError) in
                for draft in drafts {
                    numbered += 1
                    try insert(draft, firstSequence: sequence + 1, after: &end)
                    sequence += UInt64(draft.count)
                }
                for change in changes { try sessions.apply(change) }
                if messages > 0 { try saveEpoch(lastSequence: sequence, lastFrame: end.frame) }
                // Under load a slice of answered frames goes with the commit and costs no fsync of its own.
                deletion = try deleteSlice(share: 4)
            }
        }
        if case .failure(let error) = result {
            for draft in drafts.prefix(numbered) { takeBackNumbers(of: draft) }
            return .failure(error)
        }
        lastSequence = sequence
        last = end
        deleted = deletion
        // The commit stands whatever the look at the disk says; a damage found there is told to the next caller.
        _ = attempt { () throws(SQLiteError) in try refreshFill(committed: true) }
        if messages > 0 { shared.announce() }
        return .success(receipt(first: first, messages: messages, duration: Clock.monotonic() - start))
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
        statement.bind(
            11,
            FrameChecksum.of(
                id: end.frame, totalMessages: end.messages, header: header, records: draft.records))
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

    // MARK: Fill

    /// Also looks at the disk, once a second at most.
    func refreshFill(committed: Bool) throws(SQLiteError) {
        let now = Clock.monotonic()
        if now - (diskLookedAt ?? .min / 2) >= Self.diskInterval {
            diskLookedAt = now
            try lookAtDisk()
        }
        let oldest = last.frame > answered.frame ? try wallTime(of: answered.frame + 1) : nil
        let bytes = last.bytes - answered.bytes
        let maximum = Int64(configuration.maximumBytes)
        shared.fill.withLockedValue { fill in
            fill.bytes = Int(bytes)
            fill.messages = Int(last.messages - answered.messages)
            fill.maximumBytes = configuration.maximumBytes
            fill.isFull = bytes >= maximum || usedBytes >= maximum + Self.tableReserve || isDiskLow
            if committed { fill.lastCommit = Clock.wall() }
            fill.oldestFrame = oldest
        }
    }

    /// Microseconds.
    private static let diskInterval: Int64 = 1_000_000
    /// What empty tables and a little session state take, beside the frames.
    private static let tableReserve: Int64 = 1024 * 1024
    /// Free pages inside the file of so many bytes count as room, however full the disk is.
    private static let reuseReserve: Int64 = 4 * 1024 * 1024

    private func lookAtDisk() throws(SQLiteError) {
        let pageSize = try statements.pageSize.value()
        let free = try statements.freePages.value() * pageSize
        usedBytes = try statements.pages.value() * pageSize - free
        let percent = FileSystem.freePercent(at: configuration.path) ?? 100
        isDiskLow = percent < configuration.freeDiskFloor && free < Self.reuseReserve
    }

    private func wallTime(of frame: Int64) throws(SQLiteError) -> Int64? {
        if let oldest, oldest.frame == frame { return oldest.time }
        let statement = statements.wallTime
        defer { statement.reset() }
        statement.bind(1, frame)
        guard try statement.step() else { throw inconsistency("frame \(frame) is missing") }
        oldest = (frame, statement.integer(0))
        return oldest?.time
    }

    private var oldest: (frame: Int64, time: Int64)?

    // MARK: Closing

    func close() {
        guard !isClosed else { return }
        isClosed = true
        if failure == nil {
            // Best effort: the log holds everything that is not copied, and the next start reads it.
            _ = attempt { () throws(SQLiteError) in try connection.checkpoint(truncate: true) }
        }
        statements.finalize()
        sessions.finalize()
        connection.close()
    }
}
