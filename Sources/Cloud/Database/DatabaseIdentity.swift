/// Which history a database goes on with. A copy of it, a backup restored to some point and a promoted standby have one of
/// their own: processors may have stored more in another one, and what they keep in memory belongs there.
package enum DatabaseIdentity {
    /// What fencing epochs and the registry's version are raised by: no processor gets so far by itself.
    package static let raise: Int64 = 1 << 32

    package struct Change: Sendable, Equatable, CustomStringConvertible {
        /// System identifier and timeline.
        package var was: String
        package var now: String

        package var description: String {
            "the database is not the one that it was (\(was), now \(now)): a backup was restored, it was copied, or a standby "
                + "was promoted. If it is the one to go on with, run sluice database restored; nothing is stored before"
        }
    }

    /// What was put right after a restore.
    package struct Raised: Sendable, Equatable, Codable {
        package struct Partition: Sendable, Equatable, Codable {
            package var partition: Int32
            /// From here on the log is processed again.
            package var nextOffset: Int64
            package var epoch: Int64
            /// RFC 3339: when the newest record before was stored.
            package var updatedAt: String
        }

        package var partitions: [Partition]
    }

    private static let current = """
        SELECT system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline FROM pg_control_system()
        """

    /// `nil`: the same as ever, or the schema does not know.
    package static func change(on connection: isolated PostgresConnection) throws(PostgresError) -> Change? {
        guard try connection.query("SELECT to_regclass('database_identity') IS NOT NULL").bool(0, 0) else { return nil }
        let row = try connection.query(
            """
            SELECT i.system_identifier, i.timeline, c.system_identifier, c.timeline
            FROM database_identity i, (\(current)) c
            """)
        guard row.rowCount == 1 else { return nil }
        let was = "\(row.string(0, 0)), timeline \(row.string(0, 1))"
        let now = "\(row.string(0, 2)), timeline \(row.string(0, 3))"
        return was == now ? nil : Change(was: was, now: now)
    }

    /// Accepts the database as it is: no processor that has worked on another history can write to it, and all of them
    /// forget what they have read. One transaction; doing it twice does no harm.
    package static func accept(on connection: isolated PostgresConnection) throws(PostgresError) -> Raised {
        guard try connection.query("SELECT to_regclass('database_identity') IS NOT NULL").bool(0, 0) else {
            throw PostgresError(
                sqlState: "", message: "the schema knows nothing of restores: run sluice migrate up first")
        }
        return try connection.transaction { () throws(PostgresError) in
            try connection.query("UPDATE ingest_offset SET epoch = epoch + $1", [.int8(raise)])
            try connection.query("UPDATE registry_version SET version = version + $1", [.int8(raise)])
            try connection.query(
                """
                INSERT INTO database_identity (system_identifier, timeline) \(current)
                ON CONFLICT (only_one) DO UPDATE SET system_identifier = excluded.system_identifier,
                    timeline = excluded.timeline, accepted_at = now()
                """)
            let rows = try connection.query(
                """
                SELECT partition, next_offset, epoch, to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
                FROM ingest_offset ORDER BY partition
                """)
            return Raised(
                partitions: (0..<rows.rowCount).map { row in
                    Raised.Partition(
                        partition: Int32(rows.integer(row, 0)), nextOffset: rows.integer(row, 1),
                        epoch: rows.integer(row, 2), updatedAt: rows.string(row, 3))
                })
        }
    }
}
