import Database
import SyncModel

/// What the database knows of the archive: `archive_day`, `archive_manifest`, `archive_range`.
enum ArchiveState {
    struct Day: Sendable, Equatable {
        var manifests: Int
        var isDeleted: Bool
        /// Seconds since 1970.
        var checkedAt: Int64
    }

    /// One archiver at a time works on a database; the lock goes with the connection.
    static func lock(_ connection: isolated PostgresConnection) throws(PostgresError) -> Bool {
        try connection.query("SELECT pg_try_advisory_lock(hashtext('sluice archive'))").bool(0, 0)
    }

    static func day(
        _ day: ArchiveDay, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> Day? {
        let rows = try connection.query(
            """
            SELECT manifests, deleted_at IS NOT NULL, extract(epoch FROM checked_at)::bigint
            FROM archive_day WHERE day = $1::date
            """, [.text(day.description)], binary: true)
        guard rows.rowCount == 1 else { return nil }
        return Day(
            manifests: Int(rows.integer(0, 0)), isDeleted: rows.bool(0, 1), checkedAt: rows.integer(0, 2))
    }

    /// Whether the tables have no row of the day that the archive has not.
    static func isComplete(_ day: ArchiveDay, _ connection: isolated PostgresConnection) throws(PostgresError) -> Bool {
        try connection.query("SELECT archive_is_complete($1::date)", [.text(day.description)]).bool(0, 0)
    }

    /// The first day from `from` on, and before `limit`, that has a row.
    static func nextDay(
        from: ArchiveDay, before limit: ArchiveDay, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> ArchiveDay? {
        var first: ArchiveDay?
        for table in ArchiveTable.allCases {
            let rows = try connection.query(
                """
                SELECT floor(extract(epoch FROM time))::bigint FROM \(table.rawValue)
                WHERE time >= '\(from) 00:00:00+00' AND time < '\(limit) 00:00:00+00' ORDER BY time LIMIT 1
                """, binary: true)
            guard rows.rowCount == 1 else { continue }
            let day = ArchiveDay(secondsSince1970: rows.integer(0, 0))
            first = first.map { min($0, day) } ?? day
        }
        return first
    }

    static func due(before limit: ArchiveDay, _ connection: isolated PostgresConnection) throws(PostgresError) -> Int {
        var due = 0
        var from = ArchiveDay(secondsSince1970: 0)
        while let next = try nextDay(from: from, before: limit, connection) {
            if try day(next, connection) == nil { due += 1 }
            from = next.next
        }
        return due
    }

    /// - Parameter now: seconds since 1970.
    static func checked(
        _ day: ArchiveDay, now: Int64, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        try connection.query(
            "UPDATE archive_day SET checked_at = to_timestamp($2::bigint) WHERE day = $1::date",
            [.text(day.description), .int8(now)])
    }

    /// Takes a manifest of the object store into the state; one that is in it already changes nothing.
    static func adopt(
        _ manifest: ArchiveCatalog.Manifest, of day: ArchiveDay, now: Int64, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        let content = manifest.content
        try connection.transaction { () throws(PostgresError) in
            let changed = try connection.query(
                """
                INSERT INTO archive_day (day, manifests, measurement_rows, event_rows, bytes, archived_at, checked_at)
                SELECT $1::date, 1, $3::bigint, $4::bigint, $5::bigint, to_timestamp($6::bigint), to_timestamp($6::bigint)
                WHERE $2::bigint = 0 ON CONFLICT DO NOTHING
                """, parameters(content, day, now))
            let raised =
                content.number == 0
                ? 0
                : try connection.query(
                    """
                    UPDATE archive_day SET manifests = manifests + 1, measurement_rows = measurement_rows + $3::bigint,
                        event_rows = event_rows + $4::bigint, bytes = bytes + $5::bigint,
                        archived_at = to_timestamp($6::bigint), checked_at = to_timestamp($6::bigint)
                    WHERE day = $1::date AND manifests = $2::bigint
                    """, parameters(content, day, now)
                ).affectedRows
            guard changed.affectedRows + raised == 1 else { return }
            try connection.query(
                "INSERT INTO archive_manifest (day, number, digest) VALUES ($1::date, $2, $3)",
                [.text(day.description), .int4(Int32(content.number)), .text(manifest.digest)])
            for source in content.sources { try insert(source, of: content.number, day, connection) }
        }
    }

    private static func parameters(_ content: ArchiveManifest, _ day: ArchiveDay, _ now: Int64) -> [PostgresValue] {
        [
            .text(day.description), .int8(Int64(content.number)), .int8(Int64(content.measurementRows)),
            .int8(Int64(content.eventRows)), .int8(Int64(content.bytes)), .int8(now),
        ]
    }

    /// The source itself may be missing in a database that was set up anew.
    private static func insert(
        _ source: ArchiveManifest.Source, of manifest: Int, _ day: ArchiveDay,
        _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        try connection.query(
            "INSERT INTO gateway (name) SELECT $1::text WHERE NOT EXISTS (SELECT FROM gateway WHERE name = $1::text)",
            [.text(source.gateway)])
        try connection.query(
            """
            INSERT INTO source (gateway_id, epoch) SELECT id, $2::uuid FROM gateway g WHERE name = $1::text
                AND NOT EXISTS (SELECT FROM source WHERE gateway_id = g.id AND epoch = $2::uuid)
            """, [.text(source.gateway), .text(source.epoch)])
        try connection.query(
            """
            INSERT INTO archive_range (day, source, first_sequence, last_sequence, manifest)
            SELECT $1::date, s.id, w.first, w.last, $6
            FROM source s JOIN gateway g ON g.id = s.gateway_id, unnest($4::int8[], $5::int8[]) AS w (first, last)
            WHERE g.name = $2::text AND s.epoch = $3::uuid
            """,
            [
                .text(day.description), .text(source.gateway), .text(source.epoch),
                .int8Array(source.sequences.map { Int64(clamping: $0[0]) }),
                .int8Array(source.sequences.map { Int64(clamping: $0[1]) }), .int4(Int32(clamping: manifest)),
            ])
    }

    /// Days whose time is over: from now on the database's own ranges stand for them.
    static func markDeleted(
        before day: ArchiveDay, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        try connection.query(
            "UPDATE archive_day SET deleted_at = now() WHERE day < $1::date AND deleted_at IS NULL",
            [.text(day.description)])
    }
}
