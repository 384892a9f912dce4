import CSQLite
import NIOCore
import Operations
import SyncModel

/// The tables of a buffer file, and how a file is opened.
enum Schema {
    static var version: Int64 { Int64(layouts.count) }

    /// What each layout adds to the one before it; a new file gets all of them.
    static let layouts = [tables, wills, additionsOfVersion3, additionsOfVersion4]

    /// `frame` rows are immutable. Their ids ascend, with gaps where frames were dropped; a row carries the totals of messages
    /// and bytes up to and with itself over the life of the file, so that sums over runs of frames are differences of two
    /// rows.
    ///
    /// `progress` has one row: up to where frames are answered (they are deleted later, in slices), and the last cut.
    /// `cut` has the cuts that wait for an answer.
    ///
    /// The session tables have no foreign keys: changes are applied as they are told, and what belongs to no session is
    /// removed at the next start.
    private static let tables = """
        CREATE TABLE progress (
            id INTEGER PRIMARY KEY CHECK (id = 1), gateway TEXT NOT NULL,
            answered_frame INTEGER NOT NULL, answered_messages INTEGER NOT NULL, answered_bytes INTEGER NOT NULL,
            last_cut INTEGER NOT NULL);
        CREATE TABLE epoch (
            id INTEGER PRIMARY KEY, epoch BLOB NOT NULL UNIQUE, last_sequence INTEGER NOT NULL,
            first_frame INTEGER NOT NULL, last_frame INTEGER NOT NULL,
            closed INTEGER NOT NULL, reported INTEGER NOT NULL);
        CREATE TABLE frame (
            id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, first_sequence INTEGER NOT NULL, count INTEGER NOT NULL,
            bytes INTEGER NOT NULL, total_messages INTEGER NOT NULL, total_bytes INTEGER NOT NULL,
            wall_time INTEGER NOT NULL, header BLOB NOT NULL, records BLOB NOT NULL);
        CREATE TABLE cut (
            id INTEGER PRIMARY KEY, first_frame INTEGER NOT NULL, last_frame INTEGER NOT NULL,
            messages INTEGER NOT NULL, bytes INTEGER NOT NULL, last_ledger INTEGER NOT NULL);
        CREATE TABLE ledger (
            id INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL, device TEXT NOT NULL,
            first_sequence INTEGER NOT NULL, last_sequence INTEGER NOT NULL,
            first_number INTEGER NOT NULL, last_number INTEGER NOT NULL, reason INTEGER NOT NULL);
        CREATE TABLE session (
            id INTEGER PRIMARY KEY, device TEXT NOT NULL, client TEXT NOT NULL, version INTEGER NOT NULL,
            expiry INTEGER NOT NULL, disconnected_at INTEGER, local INTEGER NOT NULL);
        CREATE TABLE subscription (
            session INTEGER NOT NULL, filter TEXT NOT NULL, qos INTEGER NOT NULL, no_local INTEGER NOT NULL,
            retain_as_published INTEGER NOT NULL, retain_handling INTEGER NOT NULL, identifier INTEGER,
            PRIMARY KEY (session, filter)) WITHOUT ROWID;
        CREATE TABLE queue (
            session INTEGER NOT NULL, position INTEGER NOT NULL, stage INTEGER NOT NULL, packet_id INTEGER NOT NULL,
            qos INTEGER NOT NULL, retain INTEGER NOT NULL, expires_at INTEGER, identifiers BLOB NOT NULL,
            topic BLOB NOT NULL, payload BLOB NOT NULL, properties BLOB NOT NULL,
            PRIMARY KEY (session, position)) WITHOUT ROWID;
        CREATE TABLE packet_id (
            session INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (session, id)) WITHOUT ROWID;
        CREATE TABLE retained (
            topic BLOB PRIMARY KEY, qos INTEGER NOT NULL, retain INTEGER NOT NULL, expires_at INTEGER,
            identifiers BLOB NOT NULL, payload BLOB NOT NULL, properties BLOB NOT NULL) WITHOUT ROWID;
        """

    /// Of stored sessions that are connected, or whose will waits for its delay. `delay` and `message_expiry` are seconds.
    private static let wills = """
        CREATE TABLE will (
            session INTEGER PRIMARY KEY, qos INTEGER NOT NULL, retain INTEGER NOT NULL, delay INTEGER NOT NULL,
            message_expiry INTEGER, topic TEXT NOT NULL, payload BLOB NOT NULL, properties BLOB NOT NULL);
        """

    private static let additionsOfVersion3 = [
        priorities, drops, lanes, gatewayTime, ages, refusals, checksums, absences, deadLetters,
    ].joined(separator: "\n")

    private static let additionsOfVersion4 = [reportedLines, corrections, localWork, deviceNumbers].joined(
        separator: "\n")

    /// A frame's priority as its distance from the standard one. 0 is stored without a byte, so that reading it never walks
    /// through the blobs before it; the index has the others.
    private static let priorities = """
        ALTER TABLE frame ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX frame_rank ON frame (rank) WHERE rank <> 0;
        """

    /// Of frames that are gone and not within what is answered: all of them, and those of the lane live.
    private static let drops = """
        ALTER TABLE progress ADD COLUMN dropped_messages INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE progress ADD COLUMN dropped_bytes INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE progress ADD COLUMN dropped_live_messages INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE progress ADD COLUMN dropped_live_bytes INTEGER NOT NULL DEFAULT 0;
        """

    enum Use {
        /// A daemon's start: makes the tables of a new file, and brings an older one up to date.
        case start
        /// The same daemon's, after the disk has failed.
        case goingOn
        /// Somebody looks while no daemon runs: nothing is written.
        case inspection
    }

    /// Opens the file, which exists, and makes its tables when it has none. The caller holds the lock.
    ///
    /// EXCLUSIVE locking keeps the index of the write-ahead log in memory instead of a shared file, and keeps every
    /// other connection out: see `docs/decisions/0004-the-buffers-file.md`. Pages are written with their commit alone, so
    /// that the log has each transaction in one piece: `LogScan` counts on it.
    static func open(
        _ configuration: Buffer.Configuration, for use: Use
    ) throws(BufferError) -> SQLiteConnection {
        let path = configuration.path
        do throws(SQLiteError) {
            if use != .inspection { try writeLogAgain(of: configuration) }
            let connection = try SQLiteConnection(path: path, vfs: configuration.vfs)
            try connection.execute(
                """
                PRAGMA page_size = \(configuration.pageSize);
                PRAGMA locking_mode = EXCLUSIVE;
                PRAGMA secure_delete = OFF;
                PRAGMA trusted_schema = OFF;
                PRAGMA cell_size_check = ON;
                PRAGMA cache_spill = OFF;
                PRAGMA temp_store = MEMORY;
                PRAGMA mmap_size = 0;
                PRAGMA cache_size = -\(configuration.cacheBytes / 1024);
                """)
            let version = try connection.integer("PRAGMA user_version") ?? 0
            let isEmpty = try connection.integer("SELECT count(*) FROM sqlite_schema") == 0
            if !isEmpty, try !isBuffer(connection) {
                throw SQLiteError(code: otherProgram, message: "", operation: "sqlite_schema")
            }
            guard
                1...Schema.version ~= version || (version == 0 && isEmpty && use == .start)
            else {
                throw SQLiteError(code: wrongVersion, message: "\(version)", operation: "user_version")
            }
            guard version == Schema.version || use == .start else {
                throw SQLiteError(code: olderVersion, message: "\(version)", operation: "user_version")
            }
            // What a crash has left of the same writes in the log must not lie behind these: see `LogScan`.
            if version < Schema.version { try connection.checkpoint(truncate: true) }
            // On a file that has it already this would write.
            if isEmpty { try connection.execute("PRAGMA auto_vacuum = INCREMENTAL") }
            let mode = try connection.text("PRAGMA journal_mode = WAL")
            guard mode == "wal" else {
                throw SQLiteError(code: SQLITE_IOERR, message: "no write-ahead log", operation: "journal_mode")
            }
            try connection.execute(
                """
                PRAGMA synchronous = FULL;
                PRAGMA journal_size_limit = \(configuration.checkpointPages * configuration.pageSize * 2);
                """)
            if isEmpty {
                try create(in: connection, gateway: configuration.gatewayID)
            } else {
                try upgrade(connection, from: version, at: configuration.clock.now())
            }
            let pageSize = try connection.integer("PRAGMA page_size") ?? 4096
            try connection.execute("PRAGMA max_page_count = \(configuration.maximumPages(ofSize: Int(pageSize)))")
            return connection
        } catch {
            throw openingError(error, path: path)
        }
    }

    /// A full disk that cannot write a log over itself, since it writes copies, has lost nothing that it had.
    private static func writeLogAgain(of configuration: Buffer.Configuration) throws(SQLiteError) {
        do throws(SQLiteError) {
            try SQLiteConnection.writeLogAgain(ofFile: configuration.path, vfs: configuration.vfs)
        } catch {
            guard error.primaryCode == SQLITE_FULL else { throw error }
        }
    }

    private static func upgrade(
        _ connection: SQLiteConnection, from version: Int64, at clock: FrameClock
    ) throws(SQLiteError) {
        guard version < Schema.version else { return }
        let missing = layouts[Int(version)...].joined()
        try connection.execute("BEGIN IMMEDIATE; \(missing) PRAGMA user_version = \(Schema.version);")
        if version < 3 { try expireInGatewayTime(connection, at: clock) }
        if version < 4 { try RowChecksum.add(to: connection) }
        try connection.execute("COMMIT")
    }

    private static func create(in connection: SQLiteConnection, gateway: String) throws(SQLiteError) {
        try connection.execute("BEGIN IMMEDIATE; \(layouts.joined()) PRAGMA user_version = \(version);")
        try RowChecksum.add(to: connection)
        let statement = try connection.prepare(
            "INSERT INTO progress (id, gateway, answered_frame, answered_messages, answered_bytes, last_cut) VALUES (1, ?, 0, 0, 0, 0)"
        )
        defer { statement.finalize() }
        statement.bind(1, gateway)
        try statement.run()
        try connection.execute("COMMIT")
    }

    /// No code of SQLite's: its own are positive.
    private static let wrongVersion: Int32 = -1
    private static let olderVersion: Int32 = -3
    private static let otherProgram: Int32 = -5

    /// One of them is enough: an upgrade that a crash has cut off leaves them.
    private static func isBuffer(_ connection: SQLiteConnection) throws(SQLiteError) -> Bool {
        let tables = "('progress', 'epoch', 'frame', 'cut', 'ledger')"
        return try connection.integer("SELECT count(*) FROM sqlite_schema WHERE name IN \(tables)") ?? 0 > 0
    }

    private static func openingError(_ error: SQLiteError, path: String) -> BufferError {
        switch error.primaryCode {
        case _ where error.code == otherProgram:
            return .unusable(
                "\(path) is a SQLite file of another program: name a file of its own in buffer.path; nothing was changed"
            )
        case _ where error.code == wrongVersion:
            return .unusable(
                "\(path) has the layout \(error.message), this program knows \(version); start the version of "
                    + "sluice-edge that wrote it, or name another file in buffer.path")
        case _ where error.code == olderVersion:
            return .unusable(
                "\(path) has the layout \(error.message), which the daemon of this version brings up to date when it starts: "
                    + "start it first")
        case SQLITE_NOTADB, SQLITE_CORRUPT:
            return .corrupt(
                "\(path) cannot be read as a buffer: \(error.message); start the daemon: it moves the file aside and "
                    + "salvages what is readable")
        case SQLITE_CANTOPEN, SQLITE_PERM, SQLITE_READONLY:
            return .unusable(
                "\(path) cannot be opened: \(error.message); the file and its directory must belong to the daemon's "
                    + "user and be writable")
        default:
            return BufferError(error, path: path)
        }
    }
}

extension Epoch {
    /// 16 bytes, as in the sync protocol.
    var blob: ByteBuffer {
        var bytes = ByteBuffer()
        bytes.writeMultipleIntegers(high, low)
        return bytes
    }

    init?(blob: ByteBuffer) {
        var blob = blob
        guard blob.readableBytes == 16, let (high, low) = blob.readMultipleIntegers(as: (UInt64, UInt64).self) else {
            return nil
        }
        self.init(high: high, low: low)
    }

    init?(hexadecimal digits: some StringProtocol) {
        guard digits.utf8.count == 32, let high = UInt64(digits.prefix(16), radix: 16),
            let low = UInt64(digits.suffix(16), radix: 16)
        else { return nil }
        self.init(high: high, low: low)
    }

    /// 32 hexadecimal digits.
    package var hexadecimal: String {
        func digits(_ value: UInt64) -> String {
            let text = String(value, radix: 16)
            return String(repeating: "0", count: 16 - text.count) + text
        }
        return digits(high) + digits(low)
    }
}
