import Database

/// Late rows name the hours that have to be rolled up again (docs/decisions/0024).
enum RollupMarks {
    /// Called after the transaction's first write and at most once in it: whoever closes hours waits for all transactions
    /// that may have read the progress before.
    ///
    /// - Parameter hours: since 1970, UTC, of the rows that the transaction stores.
    static func mark(_ hours: Set<Int64>, on connection: isolated PostgresConnection) throws(PostgresError) {
        guard !hours.isEmpty else { return }
        try connection.query(
            """
            INSERT INTO rollup_dirty (hour)
            SELECT w.hour FROM rollup_progress p, (
                SELECT timestamptz 'epoch' + number * interval '1 hour' AS hour FROM unnest($1::int8[]) AS u (number)) w
            WHERE w.hour < p.closed_before
            """, [.int8Array(hours.sorted())])
    }
}
