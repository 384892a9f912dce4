import CSQLite
import Glibc

/// An error of SQLite with the step that met it.
struct SQLiteError: Error, Sendable, CustomStringConvertible {
    /// Extended result code.
    var code: Int32
    var step: String
    var message: String

    var description: String { "\(step): \(message) (SQLite \(code))" }

    var primaryCode: Int32 { code & 0xff }
    /// No space: what was begun is rolled back, the file is whole.
    var isFull: Bool { primaryCode == SQLITE_FULL }
    var isBusy: Bool { primaryCode == SQLITE_BUSY || primaryCode == SQLITE_LOCKED }
}

enum RowStep {
    case goOn
    case stop
}

/// One connection to SQLite, opened without SQLite's own mutexes.
///
/// `@unchecked Sendable`: it belongs to one serial queue, and nothing outside that queue touches it; the owner creates it
/// before the queue has work and closes it on the queue.
final class SQLiteFile: @unchecked Sendable {
    private let handle: OpaquePointer
    private var statements: [String: OpaquePointer] = [:]

    init(path: String, readOnly: Bool, vfs: String? = nil) throws(SQLiteError) {
        var opened: OpaquePointer?
        // What devices say is nobody else's, whatever the umask; the log beside it gets the same mode. Only where there is no
        // file yet: closing a descriptor ends this process's locks on its file.
        if !readOnly, case let made = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600), made >= 0 {
            Glibc.close(made)
        }
        let flags =
            (readOnly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE) | SQLITE_OPEN_NOMUTEX
        let code = sqlite3_open_v2(path, &opened, flags, vfs)
        guard code == SQLITE_OK, let opened else {
            let message = opened.map { String(cString: sqlite3_errmsg($0)) } ?? String(cString: sqlite3_errstr(code))
            sqlite3_close_v2(opened)
            throw SQLiteError(code: code, step: "open \(path)", message: message)
        }
        handle = opened
        sqlite3_extended_result_codes(handle, 1)
        sqlite3_busy_timeout(handle, 5000)
    }

    /// Before a file is opened whose log another process has left; see the function in C.
    static func writeLogAgain(ofFile path: String, vfs: String?) throws(SQLiteError) {
        let code = sluice_write_log_again(vfs, path + "-wal")
        guard code == SQLITE_OK else {
            throw SQLiteError(code: code, step: "write the log again", message: String(cString: sqlite3_errstr(code)))
        }
    }

    deinit { close() }

    private var isClosed = false

    func close() {
        guard !isClosed else { return }
        isClosed = true
        for statement in statements.values { sqlite3_finalize(statement) }
        statements = [:]
        sqlite3_close_v2(handle)
    }

    func execute(_ sql: String) throws(SQLiteError) {
        let code = sqlite3_exec(handle, sql, nil, nil, nil)
        guard code == SQLITE_OK else { throw error(code, sql) }
    }

    /// Runs a cached statement. `row` is called for each row with the statement and returns whether to go on.
    func run(
        _ sql: String, bind: (OpaquePointer) -> Int32 = { _ in SQLITE_OK },
        row: (OpaquePointer) -> RowStep = { _ in .goOn }
    ) throws(SQLiteError) {
        let statement = try prepared(sql)
        defer {
            sqlite3_reset(statement)
            sqlite3_clear_bindings(statement)
        }
        let bound = bind(statement)
        guard bound == SQLITE_OK else { throw error(bound, sql) }
        while true {
            let code = sqlite3_step(statement)
            if code == SQLITE_DONE { return }
            guard code == SQLITE_ROW else { throw error(code, sql) }
            if row(statement) == .stop { return }
        }
    }

    func integer(_ sql: String) throws(SQLiteError) -> Int64 {
        var value: Int64 = 0
        try run(
            sql,
            row: { statement in
                value = sqlite3_column_int64(statement, 0)
                return .stop
            })
        return value
    }

    func text(_ sql: String) throws(SQLiteError) -> String {
        var text = ""
        try run(
            sql,
            row: { statement in
                text = sqlite3_column_text(statement, 0).map { String(cString: $0) } ?? ""
                return .stop
            })
        return text
    }

    /// Frames in the WAL and frames written back; a reader can hold some of them up.
    func checkpoint(_ mode: Int32) throws(SQLiteError) -> (log: Int32, done: Int32) {
        var log: Int32 = 0
        var done: Int32 = 0
        let code = sqlite3_wal_checkpoint_v2(handle, nil, mode, &log, &done)
        guard code == SQLITE_OK || code == SQLITE_BUSY else { throw error(code, "checkpoint") }
        return (log, done)
    }

    /// No transaction is open.
    var isAutocommit: Bool { sqlite3_get_autocommit(handle) != 0 }

    private func prepared(_ sql: String) throws(SQLiteError) -> OpaquePointer {
        if let statement = statements[sql] { return statement }
        var statement: OpaquePointer?
        let code = sqlite3_prepare_v3(handle, sql, -1, UInt32(SQLITE_PREPARE_PERSISTENT), &statement, nil)
        guard code == SQLITE_OK, let statement else { throw error(code, sql) }
        statements[sql] = statement
        return statement
    }

    private func error(_ code: Int32, _ step: String) -> SQLiteError {
        SQLiteError(
            code: sqlite3_extended_errcode(handle) & 0xff == code & 0xff ? sqlite3_extended_errcode(handle) : code,
            step: step, message: String(cString: sqlite3_errmsg(handle)))
    }
}

/// The bytes of a BLOB column, valid until the statement moves on.
func columnBytes(_ statement: OpaquePointer, _ column: Int32) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(
        start: sqlite3_column_blob(statement, column), count: Int(sqlite3_column_bytes(statement, column)))
}
