import CSQLite
import Foundation
import NIOCore

/// SQLite's pages have no checksums of their own. Each row on which the accounting rests has one of all its columns, in a
/// last column that SQLite computes whenever it writes the row.
enum RowChecksum {
    static let tables = [
        "progress", "epoch", "cut", "ledger", "answered_run", "live_start", "held_mark", "held_end", "absent", "buried",
    ]
    private static let function = "sluice_checksum"

    /// Whether the rows of a table end with it.
    ///
    /// - Parameter sql: that made the table.
    static func isPart(of sql: String) -> Bool { sql.contains(function) }

    /// - Parameter rowID: what the record does not have of an INTEGER PRIMARY KEY.
    static func isRight(_ values: [StoredValue], rowID: Int64) -> Bool {
        guard let stored = values.last?.integer else { return false }
        var hash = WordHash()
        for (index, value) in values.dropLast().enumerated() {
            switch value {
            case .null where index == 0: hash.add(rowID)
            case .null: hash.addNull()
            case .integer(let value): hash.add(value)
            case .real(let value): hash.add(Int64(bitPattern: value.bitPattern))
            case .text(let bytes), .blob(let bytes): bytes.withUnsafeReadableBytes { hash.add($0) }
            }
        }
        return stored == hash.value
    }

    /// So that a connection may read and write such tables.
    static func register(on handle: OpaquePointer) -> Int32 {
        sqlite3_create_function_v2(
            handle, function, -1, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS, nil,
            { context, count, values in
                var hash = WordHash()
                for index in 0..<Int(count) {
                    let value = values?[index]
                    switch sqlite3_value_type(value) {
                    case SQLITE_NULL: hash.addNull()
                    case SQLITE_INTEGER: hash.add(sqlite3_value_int64(value))
                    case SQLITE_FLOAT: hash.add(Int64(bitPattern: sqlite3_value_double(value).bitPattern))
                    default:
                        // The pointer first: asking for the length first could convert the value.
                        let start = sqlite3_value_blob(value)
                        hash.add(UnsafeRawBufferPointer(start: start, count: Int(sqlite3_value_bytes(value))))
                    }
                }
                sqlite3_result_int64(context, hash.value)
            }, nil, nil, nil)
    }

    /// Makes the tables anew, with their rows. Inside the caller's transaction.
    static func add(to connection: SQLiteConnection) throws(SQLiteError) {
        for table in tables {
            let name = "type = 'table' AND name = '\(table)'"
            guard let sql = try connection.text("SELECT sql FROM sqlite_schema WHERE \(name)") else {
                throw SQLiteError(code: SQLiteError.corrupt, message: "no table \(table)", operation: "row checksums")
            }
            let columns = try names(of: table, in: connection)
            let sequence = try connection.integer("SELECT seq FROM sqlite_sequence WHERE name = '\(table)'")
            try connection.execute(
                """
                ALTER TABLE \(table) RENAME TO former;
                \(adding("checksum INTEGER NOT NULL GENERATED ALWAYS AS (\(function)(\(columns))) STORED", to: sql));
                INSERT INTO \(table) (\(columns)) SELECT \(columns) FROM former;
                DROP TABLE former;
                """)
            guard let sequence else { continue }
            try connection.execute(
                """
                DELETE FROM sqlite_sequence WHERE name = '\(table)';
                INSERT INTO sqlite_sequence VALUES ('\(table)', \(sequence));
                """)
        }
    }

    /// Columns come before what is said of the table as a whole.
    private static func adding(_ column: String, to sql: String) -> String {
        var sql = sql
        if let key = sql.range(of: "PRIMARY KEY (") {
            sql.insert(contentsOf: "\(column), ", at: key.lowerBound)
        } else if let end = sql.lastIndex(of: ")") {
            sql.insert(contentsOf: ", \(column)", at: end)
        }
        return sql
    }

    private static func names(of table: String, in connection: SQLiteConnection) throws(SQLiteError) -> String {
        try connection.text("SELECT group_concat(name, ', ') FROM pragma_table_info('\(table)')") ?? ""
    }

    /// - Parameter hasFrames: frames are looked at as well, which are most of a file.
    /// - Returns: a table with a row that is not as it was written.
    static func damagedTable(in connection: SQLiteConnection, hasFrames: Bool) throws(SQLiteError) -> String? {
        for table in tables {
            let columns = try names(of: table, in: connection)
            if try isWrong(table, columns, in: connection) { return table }
        }
        // As `FrameChecksum` has it; there is none in frames of older layouts.
        for table in hasFrames ? ["frame", "held"] : [] {
            if try isWrong(table, "id, total_messages, header, records", in: connection) { return table }
        }
        return nil
    }

    private static func isWrong(
        _ table: String, _ columns: String, in connection: SQLiteConnection
    ) throws(SQLiteError) -> Bool {
        let condition = "checksum IS NOT NULL AND checksum <> \(function)(\(columns))"
        return try connection.integer("SELECT 1 FROM \(table) WHERE \(condition) LIMIT 1") != nil
    }
}
