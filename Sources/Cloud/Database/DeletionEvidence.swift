import SyncModel

/// What the rows say of the time. They are there in any case, found by the index that begins with it, and right the moment they
/// are stored: nothing is written for it.
package enum DeletionEvidence {
    /// Read at each look.
    private static let rows = 1_000

    /// The database's clock, microseconds since 1970.
    package static func clock(on connection: isolated PostgresConnection) throws(PostgresError) -> Int64 {
        try connection.query("SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::int8").integer(0, 0)
    }

    /// - Parameter now: this process's clock, microseconds since 1970.
    package static func deletionTime(
        now: Int64, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> DeletionTime {
        let clocks = DeletionTime.Clocks(process: now, database: try clock(on: connection))
        var looks: [DeletionTime.Look] = []
        for distance in DeletionTime.distances { looks.append(try look(before: clocks.told - distance, connection)) }
        return DeletionTime(clocks, looks: looks)
    }

    /// Flags of docs/decisions/0008: 1 the source's time is another one than the log's allows, 2 from the payload, 8 of a
    /// gateway that nobody has set. A time that the log's is far from is the gateway's in `device_time`; a device's may be
    /// anything. The earlier of two that differ is what both are past.
    private static func look(
        before time: Int64, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> DeletionTime.Look {
        var look = DeletionTime.Look()
        for table in ["measurement", "event"] {
            let row = try connection.query(
                """
                SELECT (extract(epoch FROM max(CASE WHEN flags & 1 = 0 THEN time ELSE least(time, device_time) END) FILTER (
                        WHERE flags & 8 = 0 AND flags & 3 <> 3 AND (flags & 1 = 0 OR device_time IS NOT NULL))
                    ) * 1000000)::int8,
                    (extract(epoch FROM max(time)) * 1000000)::int8
                FROM (
                    SELECT time, device_time, flags FROM \(table)
                    WHERE time <= timestamptz 'epoch' + $1 * interval '1 microsecond'
                    ORDER BY time DESC LIMIT \(rows)) r
                """, [.int8(time)])
            if !row.isNull(0, 0) { look.witnessed = max(look.witnessed ?? .min, row.integer(0, 0)) }
            if !row.isNull(0, 1) { look.newest = max(look.newest ?? .min, row.integer(0, 1)) }
        }
        return look
    }
}
