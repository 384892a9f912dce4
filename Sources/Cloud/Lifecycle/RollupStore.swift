import Database

/// The roll-up's statements. Every function that changes something is one transaction or part of its caller's.
enum RollupStore {
    static func progress(on connection: isolated PostgresConnection) throws(PostgresError) -> RollupProgress {
        let row = try connection.query(
            """
            SELECT (extract(epoch FROM closed_before) / 3600)::int8, (extract(epoch FROM computed_before) / 3600)::int8,
                   (extract(epoch FROM marking_since) * 1000000)::int8 FROM rollup_progress
            """)
        let value = { (column: Int) in row.isNull(0, column) ? nil : row.integer(0, column) }
        return RollupProgress(closedBefore: value(0), computedBefore: value(1), markingSince: value(2))
    }

    /// Microseconds from a time in microseconds since 1970 until now, by the database's clock.
    static func age(of time: Int64, on connection: isolated PostgresConnection) throws(PostgresError) -> Int64 {
        try connection.query("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 - $1", [.int8(time)])
            .integer(0, 0)
    }

    /// From now on writers mark hours before `hour`. The first time the roll-up begins with the oldest row's day.
    static func close(before hour: Int64, on connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.query(
            """
            UPDATE rollup_progress SET closed_before = \(time("$1")), computed_before = coalesce(computed_before,
                (SELECT least(date_trunc('day', min(time)), \(time("$1"))) FROM measurement), \(time("$1")))
            """, [.int8(hour)])
    }

    /// The end of all transactions that have begun to write by now; for `isQuiet`.
    static func barrier(on connection: isolated PostgresConnection) throws(PostgresError) -> String {
        try connection.query("SELECT pg_snapshot_xmax(pg_current_snapshot())").string(0, 0)
    }

    static func isQuiet(
        before barrier: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Bool {
        try connection.query("SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::xid8", [.text(barrier)]).bool(0, 0)
    }

    /// Writers mark again after a time in which they did not: whatever was closed may have changed meanwhile.
    ///
    /// - Parameter change: of the flag, in microseconds since 1970.
    static func startMarking(since change: Int64, on connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.transaction { () throws(PostgresError) in
            try connection.query(
                """
                INSERT INTO rollup_dirty (hour)
                SELECT generate_series(
                    (SELECT date_trunc('hour', min(time)) FROM measurement), closed_before - interval '1 hour', '1 hour')
                FROM rollup_progress WHERE closed_before IS NOT NULL AND marking_since IS NOT NULL
                """)
            try connection.query(
                "UPDATE rollup_progress SET marking_since = timestamptz 'epoch' + $1 * interval '1 microsecond'",
                [.int8(change)])
        }
    }

    /// Hours before `computed` that late rows have marked: all of them, and the oldest marks that are due.
    static func waiting(
        before computed: Int64, delay: Duration, limit: Int, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> (count: Int, due: [Int64]) {
        let count = try connection.query("SELECT count(DISTINCT hour) FROM rollup_dirty").integer(0, 0)
        let rows = try connection.query(
            """
            SELECT (extract(epoch FROM hour) / 3600)::int8 FROM rollup_dirty WHERE hour < \(time("$1")) GROUP BY hour
            HAVING min(marked_at) <= now() - $2 * interval '1 second' ORDER BY min(marked_at), hour LIMIT $3
            """, [.int8(computed), .int8(delay.components.seconds), .int8(Int64(limit))])
        return (Int(count), (0..<rows.rowCount).map { rows.integer($0, 0) })
    }

    /// Rolls up an hour, and its day where that is over. A mark is taken away by the snapshot that sees the rows it stands
    /// for: writer and mark commit together.
    ///
    /// - Parameter advancing: the hour was not rolled up before; the progress moves in the same transaction.
    static func rollUp(
        hour: Int64, computedBefore: Int64, advancing: Bool, on connection: isolated PostgresConnection
    ) throws(PostgresError) {
        try connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        do throws(PostgresError) {
            try connection.run("SET LOCAL jit = off; SET LOCAL work_mem = '128MB'")
            try connection.query("DELETE FROM rollup_dirty WHERE hour = \(time("$1"))", [.int8(hour)])
            try sum(hour: hour, of: "measurement", on: connection)
            if let day = RollupSchedule.day(completedBy: hour, computedBefore: computedBefore) {
                try sum(day: day, on: connection)
            }
            if advancing {
                try connection.query("UPDATE rollup_progress SET computed_before = \(time("$1"))", [.int8(hour + 1)])
            }
            try connection.run("COMMIT")
        } catch {
            connection.rollBack()
            throw error
        }
    }

    // MARK: Sums

    /// - Parameter rows: a table or subquery with `time`, `metric_id` and `value`.
    static func sum(
        hour: Int64, of rows: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) {
        try connection.query(
            """
            \(hourly(of: rows, where: "time >= \(time("$1")) AND time < \(time("$1")) + interval '1 hour' AND"))
            \(replacing)
            """, [.int8(hour)])
    }

    /// Adds rows that no sum has yet, because those before them are gone: to be called once for them, in the transaction
    /// that drops them.
    static func add(_ rows: String, on connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.query(
            """
            \(hourly(of: rows, where: ""))
            ON CONFLICT (metric_id, bucket) DO UPDATE SET
                count = r.count + excluded.count, min = least(r.min, excluded.min), max = greatest(r.max, excluded.max),
                sum = CASE WHEN abs(r.sum) < 1e307 AND abs(excluded.sum) < 1e307 THEN r.sum + excluded.sum END,
                first_time = least(r.first_time, excluded.first_time),
                first = CASE WHEN (excluded.first_time, excluded.first) < (r.first_time, r.first)
                    THEN excluded.first ELSE r.first END,
                last_time = greatest(r.last_time, excluded.last_time),
                last = CASE WHEN (excluded.last_time, excluded.last) > (r.last_time, r.last)
                    THEN excluded.last ELSE r.last END
            """)
    }

    static func sum(day: Int32, on connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.query(
            """
            INSERT INTO rollup_day AS r (metric_id, bucket, count, min, max, sum, first_time, first, last_time, last)
            SELECT metric_id, \(time("$1")), sum(count)::int8, min(min), max(max),
                CASE WHEN bool_and(coalesce(abs(sum) < 1e306, false)) THEN sum(sum) FILTER (WHERE abs(sum) < 1e306) END,
                min(first_time), (array_agg(first ORDER BY first_time))[1],
                max(last_time), (array_agg(last ORDER BY last_time DESC))[1]
            FROM rollup_hour
            WHERE bucket >= \(time("$1")) AND bucket < \(time("$1")) + interval '1 day' GROUP BY metric_id
            \(replacing)
            """, [.int8(Int64(day) * 24)])
    }

    /// The first is that with the least time, of several the least; the last the other way round. An array of time and value
    /// compares as these do, needs no sorting, and a double holds microseconds until the year 2112.
    private static func hourly(of rows: String, where condition: String) -> String {
        """
        INSERT INTO rollup_hour AS r (metric_id, bucket, count, min, max, sum, first_time, first, last_time, last)
        SELECT metric_id, bucket, count, min, max, CASE WHEN min > -1e290 AND max < 1e290 THEN sum END,
            to_timestamp(first[1]), first[2], to_timestamp(last[1]), last[2]
        FROM (
            SELECT metric_id, date_bin('1 hour', time, timestamptz 'epoch') AS bucket, count(*) AS count,
                min(value) AS min, max(value) AS max, sum(value) FILTER (WHERE abs(value) < 1e290) AS sum,
                min(ARRAY[date_part('epoch', time), value]) AS first, max(ARRAY[date_part('epoch', time), value]) AS last
            FROM \(rows) AS m WHERE \(condition) value IS NOT NULL GROUP BY 1, 2) q
        """
    }

    private static let replacing = """
        ON CONFLICT (metric_id, bucket) DO UPDATE SET
            count = excluded.count, min = excluded.min, max = excluded.max, sum = excluded.sum,
            first_time = excluded.first_time, first = excluded.first, last_time = excluded.last_time, last = excluded.last
        WHERE (r.count, r.min, r.max, r.sum, r.first_time, r.first, r.last_time, r.last) IS DISTINCT FROM
            (excluded.count, excluded.min, excluded.max, excluded.sum, excluded.first_time, excluded.first,
             excluded.last_time, excluded.last)
        """

    /// An expression for an hour since 1970.
    private static func time(_ parameter: String) -> String {
        "(timestamptz 'epoch' + \(parameter)::int8 * interval '1 hour')"
    }
}
