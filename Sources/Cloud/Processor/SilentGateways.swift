import Database

/// When gateways that are silent were last heard. A gateway says with each batch of its live lane how much it has
/// committed; asking the rows would mean to read all that others sent meanwhile.
enum SilentGateways {
    /// Milliseconds of the whole statement, which is for a display alone.
    private static let timeout = 2_000

    /// - Returns: those heard last first; times in microseconds since 1970. Who is silent for `maximumAge` is left out.
    static func read(
        after silence: Duration, limit: Int, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [(gateway: String, time: Int64)] {
        try connection.run("BEGIN; SET LOCAL statement_timeout = \(timeout)")
        do throws(PostgresError) {
            let rows = try connection.query(
                """
                SELECT g.name, (extract(epoch FROM max(e.updated_at)) * 1000000)::bigint
                FROM gateway_epoch e JOIN source s ON s.id = e.source JOIN gateway g ON g.id = s.gateway_id
                WHERE e.updated_at > now() - $1 * interval '1 microsecond'
                GROUP BY g.id
                HAVING max(e.updated_at) <= now() - $2 * interval '1 microsecond'
                ORDER BY max(e.updated_at) DESC LIMIT $3
                """,
                [.int8(NewestByGateway.maximumAge), .int8(silence.wholeMicroseconds), .int8(Int64(limit))],
                binary: true)
            let found = (0..<rows.rowCount).map { (gateway: rows.string($0, 0), time: rows.integer($0, 1)) }
            try connection.run("COMMIT")
            return found
        } catch {
            connection.rollBack()
            throw error
        }
    }
}
