import CSQLite
import NIOCore
import SyncModel

/// The file's tables, and what may be done with them; used on the writer's queue alone.
struct EmbeddedLogStore: Sendable {
    /// "SLLG": so that another program's file is refused instead of written to.
    private static let applicationID: Int64 = 0x534c_4c47
    private static let version: Int64 = 1

    let file: SQLiteFile
    let identity: String
    private let partitions: Int
    private let path: String

    init(path: String, options: EmbeddedEventLog.Options) throws(EventLogError) {
        self.path = path
        partitions = Int(options.partitions)
        do throws(SQLiteError) {
            try SQLiteFile.writeLogAgain(ofFile: path, vfs: options.vfs)
            file = try SQLiteFile(path: path, readOnly: false, vfs: options.vfs)
            try file.execute("PRAGMA page_size=8192")
            try file.execute("PRAGMA journal_mode=WAL")
            guard try file.text("PRAGMA journal_mode") == "wal" else {
                throw SQLiteError(
                    code: SQLITE_CANTOPEN, step: "journal_mode", message: "its file system allows no write-ahead log")
            }
            try file.execute("PRAGMA synchronous=FULL")
            try file.execute("PRAGMA wal_autocheckpoint=0")
            try file.execute("PRAGMA journal_size_limit=67108864")
            try file.execute("PRAGMA cache_size=-16384")
        } catch { throw .other("the event log \(path) cannot be opened: \(error)") }
        identity = try Self.identity(of: file, path: path, partitions: partitions)
    }

    /// Makes the tables in one transaction when the file is empty.
    private static func identity(
        of file: SQLiteFile, path: String, partitions: Int
    ) throws(EventLogError) -> String {
        let found: (application: Int64, version: Int64, tables: Int64)
        do throws(SQLiteError) {
            found = (
                try file.integer("PRAGMA application_id"), try file.integer("PRAGMA user_version"),
                try file.integer("SELECT count(*) FROM sqlite_schema")
            )
            if found.application == 0, found.tables == 0 { try create(file, partitions: partitions) }
        } catch { throw .other("the event log \(path) cannot be read: \(error)") }
        if found.application != 0 || found.tables != 0 {
            guard found.application == applicationID else {
                throw .other("\(path) is a SQLite file of another program: give the event log a path of its own")
            }
            guard found.version == version else {
                throw .other(
                    "\(path) has format \(found.version), this program reads \(version): use the newer program")
            }
        }
        return try readIdentity(file, path: path, partitions: partitions)
    }

    private static func readIdentity(
        _ file: SQLiteFile, path: String, partitions: Int
    ) throws(EventLogError) -> String {
        var identity: String?
        var count: Int64 = 0
        do throws(SQLiteError) {
            try file.run(
                "SELECT identity, partitions FROM log",
                row: { statement in
                    identity = sqlite3_column_text(statement, 0).map { String(cString: $0) }
                    count = sqlite3_column_int64(statement, 1)
                    return .stop
                })
        } catch { throw .other("the event log \(path) cannot be read: \(error)") }
        guard let identity else { throw .other("the event log \(path) is damaged: it has no identity") }
        guard count == Int64(partitions) else {
            throw .other(
                "the event log \(path) was made with \(count) partitions, and \(partitions) are asked for: the number cannot "
                    + "change, since a device would change its partition and lose its order; ask for \(count)")
        }
        return identity
    }

    private static func create(_ file: SQLiteFile, partitions: Int) throws(SQLiteError) {
        try file.execute(
            """
            BEGIN IMMEDIATE;
            CREATE TABLE log(identity TEXT NOT NULL, partitions INTEGER NOT NULL);
            CREATE TABLE segment(id INTEGER PRIMARY KEY, time INTEGER NOT NULL, places BLOB NOT NULL, data BLOB NOT NULL);
            INSERT INTO log VALUES('\(randomIdentity())', \(partitions));
            PRAGMA application_id=\(applicationID);
            PRAGMA user_version=\(version);
            COMMIT
            """)
    }

    private static func randomIdentity() -> String {
        var generator = SystemRandomNumberGenerator()
        let digits = (0..<2).map { _ in
            let half = String(generator.next(), radix: 16)
            return String(repeating: "0", count: 16 - half.count) + half
        }
        return digits.joined()
    }

    /// What the file holds. Everything in the WAL is first made durable, there and in the file: after a crash it may lie in
    /// the page cache alone, and a reader must not see what a loss of power could still take away.
    func recover() throws(EventLogError) -> EmbeddedLogState {
        var state = EmbeddedLogState(partitions: partitions)
        do throws(SQLiteError) {
            let (log, done) = try file.checkpoint(SQLITE_CHECKPOINT_TRUNCATE)
            guard log == done else {
                throw SQLiteError(code: SQLITE_BUSY, step: "checkpoint", message: "another program reads the file")
            }
            state.firstSegment = try file.integer("SELECT coalesce(min(id), 1) FROM segment")
            state.lastSegment = try file.integer("SELECT coalesce(max(id), 0) FROM segment")
        } catch { throw .other("the event log \(path) cannot be read: \(error)") }
        guard state.lastSegment >= state.firstSegment else { return state }
        state.first = try places(of: state.firstSegment).starts
        state.next = try places(of: state.lastSegment).ends
        do throws(SQLiteError) {
            state.appendTime = try file.integer("SELECT time FROM segment ORDER BY id DESC LIMIT 1")
        } catch { throw .other("the event log \(path) cannot be read: \(error)") }
        return state
    }

    func age(newest segment: Int64, monotonic: Int64) throws(EventLogError) -> LogAge {
        do throws(SQLiteError) {
            return LogAge(after: try lastMark(), newest: segment, monotonic: monotonic)
        } catch { throw .other("the event log \(path) cannot be read: \(error)") }
    }

    func places(of segment: Int64) throws(EventLogError) -> SegmentIndex {
        var index: SegmentIndex?
        do throws(SQLiteError) {
            try file.run("SELECT places FROM segment WHERE id = ?1") {
                sqlite3_bind_int64($0, 1, segment)
            } row: { statement in
                index = SegmentIndex(columnBytes(statement, 0), partitions: partitions)
                return .stop
            }
        } catch { throw .other("the event log \(path) cannot be read: \(error)") }
        guard let index else { throw .other("the event log \(path) is damaged at segment \(segment)") }
        return index
    }

    func insert(_ id: Int64, time: Int64, index: SegmentIndex, data: ByteBuffer) throws(SQLiteError) {
        let places = index.encoded()
        // The buffers outlive the statement's step, so SQLite need not copy them (a nil destructor is SQLITE_STATIC).
        let step: Result<Void, SQLiteError> = data.withUnsafeReadableBytes { bytes in
            places.withUnsafeBytes { places in
                Result { () throws(SQLiteError) in
                    try file.run("INSERT INTO segment VALUES(?1, ?2, ?3, ?4)") { statement in
                        let codes = [
                            sqlite3_bind_int64(statement, 1, id), sqlite3_bind_int64(statement, 2, time),
                            sqlite3_bind_blob64(statement, 3, places.baseAddress, UInt64(places.count), nil),
                            sqlite3_bind_blob64(statement, 4, bytes.baseAddress, UInt64(bytes.count), nil),
                        ]
                        return codes.first { $0 != SQLITE_OK } ?? SQLITE_OK
                    }
                }
            }
        }
        try step.get()
    }

    /// In one transaction with the marks of what goes; the newest mark, which says how long the log has run, stays.
    func delete(through last: Int64) throws(SQLiteError) {
        let hasMarks = try hasMarks()
        try file.execute("BEGIN IMMEDIATE")
        try file.run("DELETE FROM segment WHERE id <= ?1") { sqlite3_bind_int64($0, 1, last) }
        if hasMarks {
            try file.run(
                "DELETE FROM age WHERE time < (SELECT time FROM age WHERE segment > ?1 ORDER BY time LIMIT 1)"
            ) { sqlite3_bind_int64($0, 1, last) }
        }
        try file.execute("COMMIT")
    }

    // MARK: - Age

    /// A table of its own, made by the first mark: a program of before it goes on with the file, in both directions.
    func insert(_ marks: [LogAge.Mark]) throws(SQLiteError) {
        guard !marks.isEmpty else { return }
        try file.execute("CREATE TABLE IF NOT EXISTS age(time INTEGER PRIMARY KEY, segment INTEGER NOT NULL)")
        for mark in marks {
            try file.run("INSERT OR REPLACE INTO age VALUES(?1, ?2)") {
                sqlite3_bind_int64($0, 1, mark.time) | sqlite3_bind_int64($0, 2, mark.segment)
            }
        }
    }

    func lastMark(notAfter limit: Int64 = .max) throws(SQLiteError) -> LogAge.Mark? {
        guard try hasMarks() else { return nil }
        var found: LogAge.Mark?
        try file.run("SELECT time, segment FROM age WHERE time <= ?1 ORDER BY time DESC LIMIT 1") {
            sqlite3_bind_int64($0, 1, limit)
        } row: { statement in
            found = LogAge.Mark(time: sqlite3_column_int64(statement, 0), segment: sqlite3_column_int64(statement, 1))
            return .stop
        }
        return found
    }

    private func hasMarks() throws(SQLiteError) -> Bool {
        try file.integer("SELECT count(*) FROM sqlite_schema WHERE name = 'age'") > 0
    }

    /// Pages that hold data, in bytes; free pages are used again before the file grows.
    func sizes() throws(SQLiteError) -> (file: Int64, used: Int64) {
        let page = try file.integer("PRAGMA page_size")
        let count = try file.integer("PRAGMA page_count")
        return (count * page, (count - (try file.integer("PRAGMA freelist_count"))) * page)
    }
}
