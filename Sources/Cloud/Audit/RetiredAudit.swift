import Database
import SyncModel

/// What an audit needs to know of days that have left the tables, or are leaving them.
enum RetiredAudit {
    /// Partitions of `parent` that are taken out of it and not dropped yet: their rows are there, and the parent does not
    /// show them. As the transaction's snapshot has it.
    static func detached(
        _ parent: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [String] {
        let rows = try connection.query(
            """
            SELECT c.relname FROM pg_class c
            LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND NOT i.inhdetachpending
            WHERE c.relkind = 'r' AND i.inhrelid IS NULL AND c.relname ~ ('^' || $1 || '_[0-9]{8}(_[0-9]+)?$')
                AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = $1::regclass)
            ORDER BY 1
            """, [.text(parent)])
        return (0..<rows.rowCount).map { rows.string($0, 0) }
    }

    /// The parent and its detached partitions, as what follows FROM.
    static func all(
        _ parent: String, columns: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> String {
        let tables = [parent] + (try detached(parent, on: connection))
        return "(" + tables.map { "SELECT \(columns) FROM \($0)" }.joined(separator: " UNION ALL ") + ") AS r"
    }

    static func read(
        _ sources: [Int32: AuditTally.Source], _ tally: inout AuditTally, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        guard try connection.query("SELECT to_regclass('retired_messages') IS NOT NULL").bool(0, 0) else { return }
        try connection.stream(
            """
            SELECT source, lower(s), upper(s) - 1 FROM retired_messages, unnest(sequences) AS s
            """
        ) { (row) throws(PostgresError) in
            guard let source = sources[Int32(row.integer(0, 0))] else { return }
            tally.add(
                retired: source, sequences: UInt64(clamping: row.integer(0, 1))...UInt64(clamping: row.integer(0, 2)))
        }
        try connection.stream(
            """
            SELECT source, least(sum(messages), \(Int64.max))::int8, least(sum(row_count), \(Int64.max))::int8,
                least(sum(dead_letters), \(Int64.max))::int8
            FROM retired_messages GROUP BY source
            """
        ) { (row) throws(PostgresError) in
            guard let source = sources[Int32(row.integer(0, 0))] else { return }
            tally.add(
                retired: source, messages: UInt64(clamping: row.integer(0, 1)),
                rows: UInt64(clamping: row.integer(0, 2)),
                deadLetters: UInt64(clamping: row.integer(0, 3)))
        }
        try connection.stream("SELECT source, sequence, part, parts FROM retired_row") { (row) throws(PostgresError) in
            guard let source = sources[Int32(row.integer(0, 0))] else { return }
            tally.add(
                retiredRow: source, sequence: UInt64(clamping: row.integer(0, 1)),
                part: UInt16(clamping: row.integer(0, 2)),
                parts: UInt16(clamping: row.integer(0, 3)))
        }
    }
}
