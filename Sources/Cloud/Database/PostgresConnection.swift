import CPostgres
import Dispatch
import Glibc
import NIOCore

/// Runs an actor's jobs on a serial dispatch queue, so that blocking calls of libpq never hold a thread of Swift's
/// cooperative pool.
final class QueueExecutor: SerialExecutor {
    private let queue: DispatchQueue

    init(label: String) {
        queue = DispatchQueue(label: label)
    }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        queue.async { job.runSynchronously(on: self.asUnownedSerialExecutor()) }
    }
}

/// One connection of libpq on a queue of its own. Functions that take it as `isolated` run there as a whole, without
/// suspending: a transaction is ordinary sequential code.
///
/// A connection that was lost stays lost (`isUsable`); its owner makes another one.
package actor PostgresConnection {
    /// Closes the connection when the last reference goes.
    private final class Handle {
        let pointer: OpaquePointer
        let watch: AnswerWatch
        private let cut: SocketCut

        /// - Parameter limit: milliseconds for an answer; `nil`: no bound.
        init(_ pointer: OpaquePointer, answersWithin limit: Int?, cut: SocketCut) {
            self.pointer = pointer
            self.cut = cut
            watch = AnswerWatch(socket: PQsocket(pointer), limit: limit)
        }

        deinit {
            watch.forget()
            cut.forget()
            PQfinish(pointer)
        }
    }

    private static let copyChunk = 256 * 1024

    private let executor = QueueExecutor(label: "sluice.postgres")
    private let configuration: PostgresConfiguration
    private let cut = SocketCut()
    private var handle: Handle?

    package nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    private init(configuration: PostgresConfiguration) {
        self.configuration = configuration
    }

    /// Connects and sets the session's limits.
    package static func connect(
        _ configuration: PostgresConfiguration
    ) async throws(PostgresError) -> PostgresConnection {
        try configuration.validate()
        let connection = PostgresConnection(configuration: configuration)
        try await connection.open()
        return connection
    }

    package var isUsable: Bool {
        guard let handle else { return false }
        return PQstatus(handle.pointer) == CONNECTION_OK
    }

    /// The server process that serves this connection (`pg_stat_activity.pid`).
    package var backendPID: Int32 { handle.map { PQbackendPID($0.pointer) } ?? 0 }

    package func close() { handle = nil }

    /// Ends the connection at once, also while a call waits for its server: the call throws. For shutdowns, since nothing
    /// else reaches a call that waits in the connection's queue.
    package nonisolated func interrupt() { cut.cut() }

    /// From now on a server that says nothing for so many milliseconds counts as gone; `nil`: it is waited for without a
    /// bound. For statements that may take longer than the session's time-out lets them, or that have none.
    package func expectAnswers(within milliseconds: Int?) { handle?.watch.limit = milliseconds }

    /// The same for the server: from now on a statement may take so long.
    package func limitStatements(to milliseconds: Int) throws(PostgresError) {
        try run("SET statement_timeout = \(milliseconds)")
        expectAnswers(within: milliseconds > 0 ? milliseconds + configuration.answerGrace : nil)
    }

    private func open() throws(PostgresError) {
        let settings = [
            ("dbname", configuration.url),
            ("fallback_application_name", configuration.applicationName),
            ("connect_timeout", String(configuration.connectTimeout)),
            ("tcp_user_timeout", String(configuration.tcpUserTimeout)),
            ("keepalives_idle", "10"), ("keepalives_interval", "5"), ("keepalives_count", "3"),
            ("client_encoding", "UTF8"),
        ]
        let pointer = Self.withCStrings(settings.map(\.0)) { keywords in
            Self.withCStrings(settings.map(\.1)) { values in PQconnectdbParams(keywords, values, 1) }
        }
        guard let pointer else {
            throw PostgresError(sqlState: "53200", message: "out of memory", connectionLost: true)
        }
        let limit = configuration.statementTimeout
        let handle = Handle(pointer, answersWithin: limit > 0 ? limit + configuration.answerGrace : nil, cut: cut)
        guard PQstatus(pointer) == CONNECTION_OK else {
            throw PostgresError(
                sqlState: "08001", message: Self.oneLine(PQerrorMessage(pointer)), connectionLost: true)
        }
        if cut.opened(PQsocket(pointer)) { throw Self.interrupted }
        // The default processor writes notices to stderr, between our log lines.
        PQsetNoticeProcessor(pointer, { _, _ in }, nil)
        self.handle = handle
        try run(
            """
            SET lock_timeout = \(configuration.lockTimeout); SET statement_timeout = \(configuration.statementTimeout);
            SET idle_in_transaction_session_timeout = \(configuration.idleInTransactionTimeout);
            SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
            SET tcp_user_timeout = \(configuration.tcpUserTimeout);
            SET TimeZone = 'UTC'; SET standard_conforming_strings = on
            """)
    }

    // MARK: Statements

    /// Runs SQL text without parameters; several statements are one implicit transaction.
    package func run(_ sql: String) throws(PostgresError) {
        let pointer = try live()
        handle?.watch.begin()
        defer { handle?.watch.end() }
        _ = try check(PQexec(pointer, sql), pointer)
    }

    /// Runs one statement with parameters `$1`, `$2`, ….
    @discardableResult
    package func query(
        _ sql: String, _ parameters: [PostgresValue] = [], binary: Bool = false
    ) throws(PostgresError) -> PostgresResult {
        let pointer = try live()
        handle?.watch.begin()
        defer { handle?.watch.end() }
        let result = Self.withParameters(parameters) { count, types, values, lengths, formats in
            PQexecParams(pointer, sql, count, types, values, lengths, formats, binary ? 1 : 0)
        }
        return try check(result, pointer)
    }

    /// Gives each row to `body` as it arrives, in binary; memory does not grow with the number of rows.
    package func stream(
        _ sql: String, _ parameters: [PostgresValue] = [], _ body: (PostgresResult) throws(PostgresError) -> Void
    ) throws(PostgresError) {
        let pointer = try live()
        let watch = handle?.watch
        watch?.begin()
        defer { watch?.end() }
        let sent = Self.withParameters(parameters) { count, types, values, lengths, formats in
            PQsendQueryParams(pointer, sql, count, types, values, lengths, formats, 1)
        }
        guard sent == 1, PQsetSingleRowMode(pointer) == 1 else { throw connectionError(pointer) }
        var failure: PostgresError?
        // Every result has to be taken, or the connection stays busy.
        while let result = PQgetResult(pointer) {
            // The body takes its own time.
            watch?.end()
            defer { watch?.begin() }
            if failure != nil {
                PQclear(result)
                continue
            }
            do throws(PostgresError) {
                let checked = try check(result, pointer)
                if checked.rowCount > 0 { try body(checked) }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }

    /// Waits for a notification of a channel that this session listens to (`LISTEN`), and takes all that are there. Blocks
    /// the connection's queue, so for a connection that does nothing else.
    ///
    /// - Parameter milliseconds: how long at most.
    /// - Returns: whether there was one.
    package func waitForNotification(milliseconds: Int32) throws(PostgresError) -> Bool {
        let pointer = try live()
        var descriptor = pollfd(fd: PQsocket(pointer), events: Int16(POLLIN), revents: 0)
        // What came with an earlier answer is in libpq's memory, where poll does not see it.
        var isNotified = takeNotifications(pointer)
        if !isNotified {
            _ = poll(&descriptor, 1, milliseconds)
            guard PQconsumeInput(pointer) == 1 else { throw connectionError(pointer) }
            isNotified = takeNotifications(pointer)
        }
        return isNotified
    }

    private func takeNotifications(_ pointer: OpaquePointer) -> Bool {
        var isNotified = false
        while let notification = PQnotifies(pointer) {
            PQfreemem(notification)
            isNotified = true
        }
        return isNotified
    }

    package enum TransactionKind: String, Sendable {
        case readWrite = "BEGIN"
        /// All statements see the same moment.
        case readOnlySnapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    }

    /// `BEGIN`, the body, `COMMIT`; anything thrown rolls back. After a failed COMMIT the outcome is unknown.
    package func transaction<Value>(
        _ kind: TransactionKind = .readWrite, _ body: () throws(PostgresError) -> Value
    ) throws(PostgresError) -> Value {
        try run(kind.rawValue)
        do throws(PostgresError) {
            let value = try body()
            try run("COMMIT")
            return value
        } catch {
            rollBack()
            throw error
        }
    }

    /// Never fails: a connection that cannot roll back is dropped, and the server rolls back.
    package func rollBack() {
        do throws(PostgresError) {
            try run("ROLLBACK")
        } catch {
            handle = nil
        }
    }

    /// A transaction is open, so that a migration that ended it itself is noticed.
    package var isInTransaction: Bool { handle.map { PQtransactionStatus($0.pointer) == PQTRANS_INTRANS } ?? false }

    /// `COPY … FROM STDIN (FORMAT binary)` with header, the given slices of rows, and trailer; or lines of text as they are.
    ///
    /// - Parameter slices: byte ranges of `rows`, each a run of whole rows; `nil`: all.
    /// - Returns: the rows stored.
    package func copyIn(
        _ sql: String, rows: ByteBuffer, slices: [Range<Int>]? = nil, isText: Bool = false
    ) throws(PostgresError) -> Int {
        let pointer = try live()
        handle?.watch.begin()
        defer { handle?.watch.end() }
        let started = PQexec(pointer, sql)
        guard PQresultStatus(started) == PGRES_COPY_IN else {
            _ = try check(started, pointer)
            throw PostgresError(sqlState: "42601", message: "the statement is no COPY … FROM STDIN")
        }
        PQclear(started)
        let sent = rows.withUnsafeReadableBytes { bytes in
            let header = isText ? [] : BinaryCopy.header
            let headerSent = header.withUnsafeBytes { Self.putChunk(pointer, $0) }
            return Self.put(pointer, headerSent, bytes, slices, trailer: isText ? [] : BinaryCopy.trailer)
        }
        guard sent, PQputCopyEnd(pointer, nil) == 1 else { throw connectionError(pointer) }
        var stored = 0
        var failure: PostgresError?
        while let result = PQgetResult(pointer) {
            do throws(PostgresError) {
                stored += try check(result, pointer).affectedRows
            } catch {
                failure = failure ?? error
            }
        }
        if let failure { throw failure }
        return stored
    }

    private static func put(
        _ pointer: OpaquePointer, _ headerSent: Bool, _ bytes: UnsafeRawBufferPointer, _ slices: [Range<Int>]?,
        trailer: [UInt8]
    ) -> Bool {
        guard headerSent else { return false }
        for slice in slices ?? [0..<bytes.count] {
            var start = slice.lowerBound
            while start < slice.upperBound {
                let end = min(start + copyChunk, slice.upperBound)
                guard putChunk(pointer, UnsafeRawBufferPointer(rebasing: bytes[start..<end])) else { return false }
                start = end
            }
        }
        return trailer.withUnsafeBytes { putChunk(pointer, $0) }
    }

    /// Begins `COPY … TO STDOUT`; `readCopyOut` has to be called until the last chunk, or the connection closed.
    package func startCopyOut(_ sql: String) throws(PostgresError) {
        let pointer = try live()
        handle?.watch.begin()
        defer { handle?.watch.end() }
        let started = PQexec(pointer, sql)
        guard PQresultStatus(started) == PGRES_COPY_OUT else {
            _ = try check(started, pointer)
            throw PostgresError(sqlState: "42601", message: "the statement is no COPY … TO STDOUT")
        }
        PQclear(started)
    }

    package struct CopyChunk: Sendable {
        package var rows = ByteBuffer()
        package var isLast = false
    }

    /// The next whole rows, as many as begin within so many bytes; the server waits meanwhile. A server that sends no row for
    /// as long as an answer may take counts as gone.
    package func readCopyOut(maximumBytes: Int) throws(PostgresError) -> CopyChunk {
        let pointer = try live()
        let watch = handle?.watch
        defer { watch?.end() }
        var chunk = CopyChunk()
        while chunk.rows.readableBytes < maximumBytes {
            var row: UnsafeMutablePointer<CChar>?
            // What is there needs no watch.
            var count = PQgetCopyData(pointer, &row, 1)
            if count == 0 {
                watch?.begin()
                count = PQgetCopyData(pointer, &row, 0)
                watch?.end()
            }
            if let row, count > 0 {
                chunk.rows.writeBytes(UnsafeRawBufferPointer(start: row, count: Int(count)))
                PQfreemem(row)
                continue
            }
            guard count == -1 else { throw connectionError(pointer) }
            watch?.begin()
            while let result = PQgetResult(pointer) { _ = try check(result, pointer) }
            chunk.isLast = true
            break
        }
        return chunk
    }

    private static func putChunk(_ pointer: OpaquePointer, _ bytes: UnsafeRawBufferPointer) -> Bool {
        bytes.isEmpty
            || PQputCopyData(pointer, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(bytes.count)) == 1
    }

    // MARK: libpq

    private func live() throws(PostgresError) -> OpaquePointer {
        guard let handle else {
            throw PostgresError(sqlState: "08003", message: "the connection is closed", connectionLost: true)
        }
        return handle.pointer
    }

    private func check(_ result: OpaquePointer?, _ pointer: OpaquePointer) throws(PostgresError) -> PostgresResult {
        guard let result else { throw connectionError(pointer) }
        let owned = PostgresResult(owning: result)
        switch PQresultStatus(result) {
        case PGRES_COMMAND_OK, PGRES_TUPLES_OK, PGRES_SINGLE_TUPLE, PGRES_EMPTY_QUERY: return owned
        default: break
        }
        // Field codes of libpq-fe.h's PG_DIAG_ macros: C SQLSTATE, M primary message, D detail, t table, n
        // constraint.
        let field = { (code: Character) -> String in
            guard let value = PQresultErrorField(result, Int32(code.asciiValue ?? 0)) else { return "" }
            return Self.oneLine(value)
        }
        let lost = PQstatus(pointer) != CONNECTION_OK
        if lost, let silence { throw silence }
        let state = field("C")
        let message = field("M")
        // A detail repeats whole rows, and rows are customers' data: only what names an object is kept.
        let detail = state.hasPrefix("42") ? field("D") : ""
        throw PostgresError(
            sqlState: state.isEmpty ? "08006" : state,
            message: message.isEmpty ? Self.oneLine(PQerrorMessage(pointer)) : message, detail: detail,
            table: field("t"), constraint: field("n"), connectionLost: lost)
    }

    private func connectionError(_ pointer: OpaquePointer) -> PostgresError {
        silence
            ?? PostgresError(
                sqlState: "08006", message: Self.oneLine(PQerrorMessage(pointer)),
                connectionLost: PQstatus(pointer) != CONNECTION_OK)
    }

    /// The error of a connection that this program has ended.
    private var silence: PostgresError? {
        if cut.hasCut { return Self.interrupted }
        guard let watch = handle?.watch, watch.hasCut, let limit = watch.limit else { return nil }
        return PostgresError(
            sqlState: "08006", message: "the server did not answer within \(limit) ms: the connection is given up",
            connectionLost: true)
    }

    private static var interrupted: PostgresError {
        PostgresError(sqlState: "08006", message: "the connection was ended from here", connectionLost: true)
    }

    private static func oneLine(_ text: UnsafePointer<CChar>?) -> String {
        guard let text else { return "" }
        var line = ""
        for character in String(cString: text) { line.append(character.isNewline ? " " : character) }
        while line.last == " " { line.removeLast() }
        return line
    }

    private static func withCStrings<Value>(
        _ strings: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>) -> Value
    ) -> Value {
        var storage: [CChar] = []
        var starts: [Int] = []
        for string in strings {
            starts.append(storage.count)
            storage.append(contentsOf: string.utf8CString)
        }
        return storage.withUnsafeBufferPointer { bytes in
            var pointers = starts.map { start in bytes.baseAddress.map { $0 + start } }
            pointers.append(nil)
            // Not empty: the terminating nil is in it.
            return pointers.withUnsafeBufferPointer { body($0.baseAddress!) }
        }
    }

    private static func withParameters<Value>(
        _ parameters: [PostgresValue],
        _ body: (
            Int32, UnsafePointer<UInt32>?, UnsafePointer<UnsafePointer<CChar>?>?, UnsafePointer<Int32>?,
            UnsafePointer<Int32>?
        ) -> Value
    ) -> Value {
        var storage = ByteBuffer()
        var starts: [Int?] = []
        var lengths: [Int32] = []
        for parameter in parameters {
            guard let encoded = parameter.encoded else {
                starts.append(nil)
                lengths.append(0)
                continue
            }
            starts.append(storage.writerIndex)
            lengths.append(Int32(encoded.readableBytes))
            storage.writeImmutableBuffer(encoded)
        }
        // An empty value needs an address too, or it would be NULL.
        storage.writeInteger(UInt8(0))
        return storage.withUnsafeReadableBytes { bytes in
            let base = bytes.bindMemory(to: CChar.self).baseAddress
            let values = starts.map { start -> UnsafePointer<CChar>? in
                guard let start, let base else { return nil }
                return base + start
            }
            return body(Int32(parameters.count), parameters.map(\.typeID), values, lengths, parameters.map(\.format))
        }
    }
}
