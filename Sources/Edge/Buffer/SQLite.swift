import CSQLite
import NIOCore

/// What SQLite answered, and to what.
struct SQLiteError: Error, Sendable, Equatable {
    /// SQLite's extended result code; its low byte is the primary one.
    var code: Int32
    var message: String
    /// The statement or the call.
    var operation: String

    var primaryCode: Int32 { code & 0xff }

    static let corrupt = SQLITE_CORRUPT
    /// SQLITE_IOERR_CORRUPTFS, which is a macro that Swift does not see: SQLite's word for EIO on reading.
    static let unreadable = SQLITE_IOERR | 33 << 8
    /// SQLITE_IOERR_READ: other errors of it.
    private static let notRead = SQLITE_IOERR | 1 << 8

    var isUnreadable: Bool { code == Self.unreadable || code == Self.notRead }
}

/// One connection without SQLite's own mutexes: it belongs to one thread at a time. It may be opened on one thread and
/// handed over to another as a whole.
final class SQLiteConnection {
    private let handle: OpaquePointer
    /// Pages in the write-ahead log after the last commit; on the heap because SQLite's hook keeps a pointer to it.
    private let walPageCount: UnsafeMutablePointer<Int32>
    private var isOpen = true

    /// - Parameter vfs: SQLite's name for the way to the disk; `nil`: the system's calls.
    init(path: String, vfs: String? = nil) throws(SQLiteError) {
        var opened: OpaquePointer?
        let code = sqlite3_open_v2(path, &opened, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, vfs)
        guard let opened, code == SQLITE_OK else {
            let message = opened.map { String(cString: sqlite3_errmsg($0)) } ?? "out of memory"
            let extended = opened.map { sqlite3_extended_errcode($0) } ?? code
            sqlite3_close_v2(opened)
            throw SQLiteError(code: extended, message: message, operation: "open \(path)")
        }
        handle = opened
        walPageCount = .allocate(capacity: 1)
        walPageCount.initialize(to: 0)
        sqlite3_extended_result_codes(handle, 1)
        // Fails only without memory; then the first statement that needs it does.
        _ = RowChecksum.register(on: handle)
        sqlite3_wal_autocheckpoint(handle, 0)
        // After wal_autocheckpoint, which uses the same hook: called later, it would take this one away.
        sqlite3_wal_hook(
            handle,
            { context, _, _, pages in
                context?.assumingMemoryBound(to: Int32.self).pointee = pages
                return SQLITE_OK
            }, walPageCount)
    }

    /// For a log of another process, or of before the disk failed: it is not known what the disk has of it. See the function in
    /// C.
    static func writeLogAgain(ofFile path: String, vfs: String?) throws(SQLiteError) {
        let code = sluice_write_log_again(vfs, path + "-wal")
        guard code == SQLITE_OK else {
            throw SQLiteError(
                code: code, message: String(cString: sqlite3_errstr(code)), operation: "write the log of \(path) again")
        }
    }

    /// What nobody closed was never whole: its log stays as it is.
    deinit {
        close(checkpointing: false)
        walPageCount.deallocate()
    }

    /// Pages that were in the write-ahead log after the last commit or checkpoint.
    var walPages: Int { Int(walPageCount.pointee) }

    var isInTransaction: Bool { sqlite3_get_autocommit(handle) == 0 }

    func prepare(_ sql: String) throws(SQLiteError) -> SQLiteStatement {
        var statement: OpaquePointer?
        let code = sqlite3_prepare_v3(handle, sql, -1, UInt32(SQLITE_PREPARE_PERSISTENT), &statement, nil)
        guard let statement, code == SQLITE_OK else { throw error(code, sql) }
        return SQLiteStatement(statement, of: handle, sql: sql)
    }

    /// Runs statements that bind nothing and whose rows do not matter.
    func execute(_ sql: String) throws(SQLiteError) {
        let code = sqlite3_exec(handle, sql, nil, nil, nil)
        guard code == SQLITE_OK else { throw error(code, sql) }
    }

    /// The first column of the first row; `nil` when there is no row or it is NULL.
    func integer(_ sql: String) throws(SQLiteError) -> Int64? {
        try first(sql) { $0.optionalInteger(0) }
    }

    func text(_ sql: String) throws(SQLiteError) -> String? {
        try first(sql) { $0.text(0) }
    }

    /// A statement that writes is committed when it ends, after its row: only then is it known whether it went well.
    private func first<Value>(
        _ sql: String, _ value: (SQLiteStatement) -> Value?
    ) throws(SQLiteError) -> Value? {
        let statement = try prepare(sql)
        defer { statement.finalize() }
        let found = try statement.step() ? value(statement) : nil
        try statement.end()
        return found
    }

    /// Copies the log's pages into the database file and fsyncs it. The log is written from its start again afterwards.
    func checkpoint(truncate: Bool = false) throws(SQLiteError) {
        let mode = truncate ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE
        var logged: Int32 = 0
        var copied: Int32 = 0
        let code = sqlite3_wal_checkpoint_v2(handle, nil, mode, &logged, &copied)
        guard code == SQLITE_OK else { throw error(code, "checkpoint") }
        walPageCount.pointee = max(0, logged - copied)
    }

    /// All statements must be finalized; one that is not keeps the connection alive until it is.
    ///
    /// - Parameter checkpointing: whether SQLite may copy the log into the file, and remove it.
    func close(checkpointing: Bool = true) {
        guard isOpen else { return }
        isOpen = false
        if !checkpointing { sluice_no_checkpoint_on_close(handle) }
        sqlite3_wal_hook(handle, nil, nil)
        sqlite3_close_v2(handle)
        walPageCount.pointee = 0
    }

    func error(_ code: Int32, _ operation: String) -> SQLiteError {
        let extended = sqlite3_extended_errcode(handle)
        return SQLiteError(
            code: extended & 0xff == code & 0xff ? extended : code, message: String(cString: sqlite3_errmsg(handle)),
            operation: operation)
    }
}

/// A prepared statement. Parameters count from 1, columns from 0, as in SQLite.
final class SQLiteStatement {
    private let statement: OpaquePointer
    private let connection: OpaquePointer
    private let sql: String
    private var isFinalized = false

    fileprivate init(_ statement: OpaquePointer, of connection: OpaquePointer, sql: String) {
        self.statement = statement
        self.connection = connection
        self.sql = sql
    }

    deinit { finalize() }

    /// Ends what the last step began.
    func end() throws(SQLiteError) {
        let code = sqlite3_reset(statement)
        guard code == SQLITE_OK else { throw error(code) }
    }

    func finalize() {
        guard !isFinalized else { return }
        isFinalized = true
        sqlite3_finalize(statement)
    }

    /// Binding fails only for an index that the statement does not have, which the first run of any test shows.
    func bind(_ index: Int32, _ value: Int64) { sqlite3_bind_int64(statement, index, value) }

    func bind(_ index: Int32, real value: Double) { sqlite3_bind_double(statement, index, value) }

    func bind(_ index: Int32, _ value: Int64?) {
        if let value { bind(index, value) } else { sqlite3_bind_null(statement, index) }
    }

    func bind(_ index: Int32, _ value: String) {
        var value = value
        value.withUTF8 { bytes in
            _ = bytes.withMemoryRebound(to: CChar.self) {
                sqlite3_bind_text64(
                    statement, index, $0.baseAddress, UInt64($0.count), Self.transient, UInt8(SQLITE_UTF8))
            }
        }
    }

    /// SQLite copies the bytes.
    func bind(_ index: Int32, _ value: ByteBuffer) {
        value.withUnsafeReadableBytes { bind(index, bytes: $0, destructor: Self.transient) }
    }

    /// Runs the statement with two blobs that SQLite reads where they are: they are valid until the step is done.
    func run(
        blob first: (index: Int32, bytes: ByteBuffer), blob second: (index: Int32, bytes: ByteBuffer)
    ) throws(SQLiteError) {
        let code = first.bytes.withUnsafeReadableBytes { firstBytes in
            second.bytes.withUnsafeReadableBytes { secondBytes in
                bind(first.index, bytes: firstBytes, destructor: nil)
                bind(second.index, bytes: secondBytes, destructor: nil)
                let code = sqlite3_step(statement)
                sqlite3_reset(statement)
                sqlite3_clear_bindings(statement)
                return code
            }
        }
        guard code == SQLITE_DONE || code == SQLITE_ROW else { throw error(code) }
    }

    /// True when there is a row.
    func step() throws(SQLiteError) -> Bool {
        switch sqlite3_step(statement) {
        case SQLITE_ROW: return true
        case SQLITE_DONE: return false
        case let code:
            let error = error(code)
            reset()
            throw error
        }
    }

    /// Runs a statement whose rows do not matter, and makes it ready for the next run.
    func run() throws(SQLiteError) {
        _ = try step()
        reset()
    }

    func reset() {
        sqlite3_reset(statement)
        sqlite3_clear_bindings(statement)
    }

    func integer(_ column: Int32) -> Int64 { sqlite3_column_int64(statement, column) }

    func isNull(_ column: Int32) -> Bool { sqlite3_column_type(statement, column) == SQLITE_NULL }

    func optionalInteger(_ column: Int32) -> Int64? { isNull(column) ? nil : integer(column) }

    func text(_ column: Int32) -> String {
        guard let start = sqlite3_column_text(statement, column) else { return "" }
        let count = Int(sqlite3_column_bytes(statement, column))
        return String(decoding: UnsafeBufferPointer(start: start, count: count), as: UTF8.self)
    }

    func blob(_ column: Int32) -> ByteBuffer {
        // The pointer first: asking for the length first could convert the value (sqlite3_column_bytes).
        let start = sqlite3_column_blob(statement, column)
        let count = Int(sqlite3_column_bytes(statement, column))
        guard let start, count > 0 else { return ByteBuffer() }
        return ByteBuffer(bytes: UnsafeRawBufferPointer(start: start, count: count))
    }

    /// SQLITE_TRANSIENT: a macro that Swift does not import.
    private static let transient = unsafeBitCast(-1, to: sqlite3_destructor_type.self)

    private func bind(_ index: Int32, bytes: UnsafeRawBufferPointer, destructor: sqlite3_destructor_type?) {
        // A null pointer would bind NULL instead of an empty blob.
        if bytes.isEmpty {
            sqlite3_bind_zeroblob(statement, index, 0)
        } else {
            sqlite3_bind_blob64(statement, index, bytes.baseAddress, UInt64(bytes.count), destructor)
        }
    }

    private func error(_ code: Int32) -> SQLiteError {
        let extended = sqlite3_extended_errcode(connection)
        return SQLiteError(
            code: extended & 0xff == code & 0xff ? extended : code,
            message: String(cString: sqlite3_errmsg(connection)), operation: sql)
    }
}
