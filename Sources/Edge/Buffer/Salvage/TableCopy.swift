import NIOCore
import SyncModel

/// Carries rows over into a new file as they are, whatever columns the old layout had.
struct TableCopy {
    /// Session state; what belongs to frames or cuts is made anew instead, since frames get other ids.
    static let sessionTables = ["session", "subscription", "queue", "packet_id", "retained", "will"]

    /// What is kept for people, and about messages that stay as they are.
    static let recordTables = ["refusal", "dead_letter", "clock_stretch", "clock_correction"]

    /// What a wrong bit may have made of a row, and `SessionTables` would not read.
    static let sanitation = """
        DELETE FROM session WHERE version NOT IN (4, 5);
        DELETE FROM subscription WHERE qos NOT IN (0, 1, 2) OR retain_handling NOT IN (0, 1, 2);
        DELETE FROM queue WHERE qos NOT IN (0, 1, 2);
        DELETE FROM retained WHERE qos NOT IN (0, 1, 2);
        DELETE FROM will WHERE qos NOT IN (0, 1, 2);
        DELETE FROM clock_stretch WHERE length(boot) <> 16 OR length(epoch) <> 16 OR first_sequence <= 0
            OR last_sequence < first_sequence OR abs(wall_offset) > 1 << 60 OR abs(since) > 1 << 60;
        DELETE FROM clock_correction WHERE length(epoch) <> 16 OR first_sequence <= 0 OR last_sequence < first_sequence
            OR abs(wall_offset) > \(SyncLimits.clockOffsets.upperBound);
        """

    private let connection: SQLiteConnection

    init(into connection: SQLiteConnection) { self.connection = connection }

    /// - Returns: how many rows were carried over.
    func copy(_ table: String, from source: inout TableReader) throws(SQLiteError) -> Int {
        let columns = try Self.storedColumns(of: table, in: connection)
        var count = 0
        var failure: SQLiteError?
        var statements: [Int: SQLiteStatement] = [:]
        defer { for statement in statements.values { statement.finalize() } }
        source.rows(of: table) { rowID, values in
            guard failure == nil, !values.isEmpty else { return }
            do throws(SQLiteError) {
                // A row of an older layout has fewer columns: the rest have their defaults.
                let used = min(values.count, columns.names.count)
                let statement: SQLiteStatement
                if let known = statements[used] {
                    statement = known
                } else {
                    statement = try connection.prepare(Self.insertion(into: table, columns.names.prefix(used)))
                    statements[used] = statement
                }
                for (index, value) in values.prefix(used).enumerated() {
                    statement.bind(Int32(index + 1), index == columns.rowID ? .integer(rowID) : value)
                }
                try statement.run()
                count += 1
            } catch { failure = error }
        }
        if let failure { throw failure }
        return count
    }

    private static func insertion(into table: String, _ columns: ArraySlice<String>) -> String {
        """
        INSERT OR IGNORE INTO "\(table)" (\(columns.map { "\"\($0)\"" }.joined(separator: ", ")))
        VALUES (\(columns.map { _ in "?" }.joined(separator: ", ")))
        """
    }

    /// The columns in the order in which a row stores them, and the one that stands for the row's id.
    static func storedColumns(
        of table: String, in connection: SQLiteConnection
    ) throws(SQLiteError) -> (names: [String], rowID: Int?) {
        let isWithoutRowID =
            try connection.integer("SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = '\(table)'") == 1
        if isWithoutRowID {
            // The key comes first (SQLite file format, section 2.4).
            return (try names("SELECT name FROM pragma_index_xinfo('sqlite_autoindex_\(table)_1')", connection), nil)
        }
        let names = try names("SELECT name FROM pragma_table_info('\(table)')", connection)
        let rowID = try connection.integer(
            "SELECT cid FROM pragma_table_info('\(table)') WHERE pk = 1 AND upper(type) = 'INTEGER'")
        return (names, rowID.map(Int.init))
    }

    private static func names(_ sql: String, _ connection: SQLiteConnection) throws(SQLiteError) -> [String] {
        let statement = try connection.prepare(sql)
        defer { statement.finalize() }
        var names: [String] = []
        while try statement.step() { names.append(statement.text(0)) }
        return names
    }
}

extension SQLiteStatement {
    func bind(_ index: Int32, _ value: StoredValue) {
        switch value {
        case .null: bind(index, Int64?.none)
        case .integer(let value): bind(index, value)
        case .real(let value): bind(index, real: value)
        case .text(let bytes): bind(index, String(buffer: bytes))
        case .blob(let bytes): bind(index, bytes)
        }
    }
}
