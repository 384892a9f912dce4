import Database

/// The partitions of a day, or what is left of them.
struct DayTable: Sendable, Equatable {
    enum State: Sendable { case attached, detachPending, detached }

    /// `measurement` or `event`.
    var parent: String
    var name: String
    /// Since 1970, UTC.
    var day: Int32
    var state: State
}

/// Statements that take days of rows away. On plain PostgreSQL a partition is detached while others write, and dropped when
/// nobody can reach it any more; TimescaleDB drops a chunk within a transaction.
enum RetirementStore {
    /// Of this session, so that it ends with the connection.
    ///
    /// - Returns: whether nobody else has it.
    static func lock(_ key: Int64, on connection: isolated PostgresConnection) throws(PostgresError) -> Bool {
        try connection.query("SELECT pg_try_advisory_lock($1)", [.int8(key)]).bool(0, 0)
    }

    static func isHypertable(on connection: isolated PostgresConnection) throws(PostgresError) -> Bool {
        try connection.query("SELECT relkind <> 'p' FROM pg_class WHERE oid = 'measurement'::regclass").bool(0, 0)
    }

    static func makePartitions(
        from day: Int32, count: Int32, on connection: isolated PostgresConnection
    ) throws(PostgresError) {
        // A statement a day: each commits, so that no lock is kept while the next is made.
        for day in day..<day + count { try connection.query("SELECT ensure_partitions(\(date("$1")))", [.int4(day)]) }
    }

    /// By day. Names are matched as `ensure_partitions` gives them.
    static func tables(on connection: isolated PostgresConnection) throws(PostgresError) -> [DayTable] {
        let rows = try connection.query(
            """
            SELECT parts[1], relname, to_date(parts[2], 'YYYYMMDD') - date '1970-01-01',
                CASE WHEN i.inhrelid IS NULL THEN 2 WHEN i.inhdetachpending THEN 1 ELSE 0 END
            FROM pg_class c
            CROSS JOIN LATERAL regexp_match(c.relname, '^(measurement|event)_([0-9]{8})(?:_[0-9]+)?$') AS parts
            LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
            WHERE parts IS NOT NULL AND c.relkind = 'r'
                AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'measurement'::regclass)
            ORDER BY 3, 1, 2
            """)
        return (0..<rows.rowCount).map { row in
            DayTable(
                parent: rows.string(row, 0), name: rows.string(row, 1), day: Int32(rows.integer(row, 2)),
                state: [.attached, .detachPending, .detached][Int(rows.integer(row, 3))])
        }
    }

    /// Days before `day` that have a chunk; TimescaleDB alone.
    static func chunkDays(
        before day: Int32, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [Int32] {
        let rows = try connection.query(
            """
            SELECT DISTINCT (range_start AT TIME ZONE 'UTC')::date - date '1970-01-01'
            FROM timescaledb_information.chunks
            WHERE hypertable_name IN ('measurement', 'event') AND range_end <= \(midnight("$1")) ORDER BY 1
            """, [.int4(day)])
        return (0..<rows.rowCount).map { Int32(rows.integer($0, 0)) }
    }

    /// Somebody has been at work on the tables for long: a detaching partition would wait for that transaction, and its
    /// day could not be written to meanwhile.
    static func hasLongTransactions(on connection: isolated PostgresConnection) throws(PostgresError) -> Bool {
        try connection.query(
            """
            SELECT EXISTS (
                SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
                WHERE l.relation IN ('measurement'::regclass, 'event'::regclass) AND l.pid <> pg_backend_pid()
                    AND a.xact_start < now() - interval '10 seconds')
            """
        ).bool(0, 0)
    }

    /// Writers go on meanwhile. An interrupted one stays pending, and `finishDetaching` ends it.
    static func detach(_ table: DayTable, on connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.run("ALTER TABLE \(table.parent) DETACH PARTITION \(table.name) CONCURRENTLY")
    }

    static func finishDetaching(_ table: DayTable, on connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.run("ALTER TABLE \(table.parent) DETACH PARTITION \(table.name) FINALIZE")
    }

    /// Puts a detached one back. The bounds are a constraint that detaching has left, so no row is read.
    static func attach(_ table: DayTable, on connection: isolated PostgresConnection) throws(PostgresError) {
        let bounds = try connection.query(
            "SELECT quote_literal(\(midnight("$1"))), quote_literal(\(midnight("$2")))",
            [.int4(table.day), .int4(table.day + 1)])
        try connection.run(
            """
            ALTER TABLE \(table.parent) ATTACH PARTITION \(table.name)
            FOR VALUES FROM (\(bounds.string(0, 0))) TO (\(bounds.string(0, 1)))
            """)
    }

    enum ArchiveAnswer: Sendable {
        /// The schema is older than the archive.
        case none
        case complete
        /// Rows of the day are not in it.
        case incomplete
    }

    /// Whether the archive has all of these rows of the day.
    ///
    /// - Parameters:
    ///   - measurements: a table or subquery.
    ///   - events: the same.
    static func archive(
        _ day: Int32, measurements: String, events: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> ArchiveAnswer {
        guard try hasArchive(on: connection) else { return .none }
        let comparison = try connection.query(
            """
            SELECT archive_compare(
                \(date("$1")), (SELECT count(*) FROM \(measurements) AS m), (SELECT count(*) FROM \(events) AS e))
            """, [.int4(day)]
        ).integer(0, 0)
        guard comparison < 0 else { return comparison == 0 ? .complete : .incomplete }
        let isMissing = try connection.query(
            """
            SELECT EXISTS (SELECT FROM \(measurements) AS m WHERE NOT archive_has(\(date("$1")), m.source, m.sequence))
                OR EXISTS (SELECT FROM \(events) AS e WHERE NOT archive_has(\(date("$1")), e.source, e.sequence))
            """, [.int4(day)]
        ).bool(0, 0)
        return isMissing ? .incomplete : .complete
    }

    private static func hasArchive(on connection: isolated PostgresConnection) throws(PostgresError) -> Bool {
        try connection.query("SELECT to_regprocedure('archive_has(date, integer, bigint)') IS NOT NULL").bool(0, 0)
    }

    /// Keeps what the archive has of the day as it is until the end of the transaction.
    ///
    /// - Returns: whether it has something of the day.
    static func lockArchive(_ day: Int32, on connection: isolated PostgresConnection) throws(PostgresError) -> Bool {
        guard try hasArchive(on: connection) else { return false }
        return try connection.query("SELECT FROM archive_day WHERE day = \(date("$1")) FOR UPDATE", [.int4(day)])
            .rowCount == 1
    }

    /// All that the archive has of the day has left the tables. To be called under `lockArchive`.
    static func markDropped(_ day: Int32, on connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.query(
            """
            UPDATE archive_day SET dropped_measurement_rows = measurement_rows, dropped_event_rows = event_rows
            WHERE day = \(date("$1"))
            """, [.int4(day)])
        try connection.query(
            "UPDATE archive_manifest SET dropped_at = now() WHERE day = \(date("$1")) AND dropped_at IS NULL",
            [.int4(day)])
    }

    static func wasRetired(_ day: Int32, on connection: isolated PostgresConnection) throws(PostgresError) -> Bool {
        try connection.query("SELECT EXISTS (SELECT FROM retired_day WHERE day = \(date("$1")))", [.int4(day)])
            .bool(0, 0)
    }

    /// Takes the marks of a day's hours.
    ///
    /// - Returns: these hours since 1970.
    static func takeMarks(_ day: Int32, on connection: isolated PostgresConnection) throws(PostgresError) -> [Int64] {
        let rows = try connection.query(
            """
            WITH taken AS (
                DELETE FROM rollup_dirty WHERE hour >= \(midnight("$1")) AND hour < \(midnight("$1")) + interval '1 day'
                RETURNING hour)
            SELECT DISTINCT (extract(epoch FROM hour) / 3600)::int8 FROM taken ORDER BY 1
            """, [.int4(day)])
        return (0..<rows.rowCount).map { rows.integer($0, 0) }
    }

    /// Notes which messages the rows were, so that an audit does not miss them.
    ///
    /// - Parameters:
    ///   - measurements: a table or subquery.
    ///   - events: the same.
    ///   - isPartlyArchived: what the archive has of the day is not noted, for its manifests name it.
    static func note(
        day: Int32, measurements: String, events: String, isPartlyArchived: Bool,
        on connection: isolated PostgresConnection
    ) throws(PostgresError) {
        let unarchived = isPartlyArchived ? "WHERE NOT archive_has(\(date("$1")), source, sequence)" : ""
        try connection.query(
            """
            WITH message AS MATERIALIZED (
                SELECT source, sequence, count(*) AS row_count, bool_or(kind = 9) AS is_dead,
                    count(*) = min(parts) AND min(parts) = max(parts) AND count(DISTINCT part) = count(*) AS is_whole
                FROM (
                    SELECT source, sequence, part, parts, 0::smallint AS kind FROM \(measurements) AS m
                    UNION ALL SELECT source, sequence, part, parts, kind FROM \(events) AS e) r
                \(unarchived)
                GROUP BY source, sequence
            ), partial AS (
                INSERT INTO retired_row (source, sequence, part, parts, day)
                SELECT source, sequence, part, parts, \(date("$1")) FROM (
                    SELECT source, sequence, part, parts FROM \(measurements) AS m
                    UNION ALL SELECT source, sequence, part, parts FROM \(events) AS e) r
                JOIN message USING (source, sequence) WHERE NOT is_whole
            )
            INSERT INTO retired_messages AS r (source, day, sequences, messages, row_count, dead_letters)
            SELECT source, \(date("$1")), range_agg(int8range(low, high, '[]')), sum(messages), sum(row_count), sum(dead)
            FROM (
                SELECT source, min(sequence) AS low, max(sequence) AS high, count(*) AS messages,
                    sum(row_count) AS row_count, count(*) FILTER (WHERE is_dead) AS dead
                FROM (
                    SELECT *, sequence - row_number() OVER (PARTITION BY source ORDER BY sequence) AS island
                    FROM message WHERE is_whole) numbered
                GROUP BY source, island) islands
            GROUP BY source
            ON CONFLICT (source, day) DO UPDATE SET sequences = r.sequences + excluded.sequences,
                messages = r.messages + excluded.messages, row_count = r.row_count + excluded.row_count,
                dead_letters = r.dead_letters + excluded.dead_letters
            """, [.int4(day)])
    }

    static func markRetired(_ day: Int32, on connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.query(
            """
            INSERT INTO retired_day (day) VALUES (\(date("$1"))) ON CONFLICT (day) DO UPDATE SET retired_at = now()
            """, [.int4(day)])
    }

    /// Keeps writers off a day's chunks; readers go on.
    static func lockChunks(_ day: Int32, on connection: isolated PostgresConnection) throws(PostgresError) {
        for parent in ["measurement", "event"] {
            let rows = try connection.query(
                "SELECT show_chunks('\(parent)', older_than => \(midnight("$1")), newer_than => \(midnight("$2")))::text",
                [.int4(day + 1), .int4(day)])
            for row in 0..<rows.rowCount { try connection.run("LOCK TABLE \(rows.string(row, 0)) IN SHARE MODE") }
        }
    }

    static func dropChunks(_ day: Int32, on connection: isolated PostgresConnection) throws(PostgresError) {
        for parent in ["measurement", "event"] {
            try connection.query(
                "SELECT drop_chunks('\(parent)', older_than => \(midnight("$1")), newer_than => \(midnight("$2")))",
                [.int4(day + 1), .int4(day)])
        }
    }

    static func deleteRollups(
        before day: Int32, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Int {
        try connection.query("DELETE FROM rollup_hour WHERE bucket < \(midnight("$1"))", [.int4(day)]).affectedRows
    }

    /// - Parameter time: microseconds since 1970, by the database's clock as the contexts' own.
    /// - Returns: how many went.
    static func forgetTraces(
        before time: Int64, most: Int, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Int {
        let forgotten = try connection.query(
            "SELECT forget_traces(now() - (timestamptz 'epoch' + $1 * interval '1 microsecond'), $2)",
            [.int8(time), .int4(Int32(clamping: most))])
        return Int(forgotten.integer(0, 0))
    }

    private static func date(_ parameter: String) -> String { "(date '1970-01-01' + \(parameter)::int4)" }

    static func midnight(_ parameter: String) -> String {
        "(timestamptz 'epoch' + \(parameter)::int4 * interval '1 day')"
    }
}
