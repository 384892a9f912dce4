import Database

/// Which messages are stored while the database is too slow for all.
enum Sample {
    /// One of ten, and the same ones whoever asks: FNV-1a over the device's name and the sequence.
    static func has(device: String, sequence: UInt64) -> Bool {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        func add(_ byte: UInt8) { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
        for byte in device.utf8 { add(byte) }
        for shift in stride(from: 0, to: 64, by: 8) { add(UInt8(truncatingIfNeeded: sequence >> UInt64(shift))) }
        // FNV's low bits hardly mix.
        return (hash ^ hash >> 32) % 10 == 0
    }
}

/// The table `sample_range`.
enum SampleTable {
    /// In the transaction that moves the offsets over these ranges.
    static func insert(_ batch: PreparedBatch, on connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.query(
            """
            INSERT INTO sample_range (partition, epoch, first_offset, next_offset, incarnation)
            SELECT *, $5 FROM unnest($1::int4[], $2::int8[], $3::int8[], $4::int8[])
            """,
            [
                .int4Array(batch.advances.map(\.partition)), .int8Array(batch.advances.map(\.epoch)),
                .int8Array(batch.advances.map(\.from)), .int8Array(batch.advances.map(\.to)),
                .text(batch.incarnation),
            ])
    }

    /// In the transaction that stores the rest of them.
    ///
    /// - Returns: whether all were there; else another has stored some, and the transaction must be rolled back.
    static func remove(
        _ ranges: [SampleRange], incarnation: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Bool {
        try connection.query(
            """
            DELETE FROM sample_range s USING unnest($1::int4[], $2::int8[], $3::int8[]) AS w (partition, first, next)
            WHERE s.incarnation = $4 AND s.partition = w.partition AND s.first_offset = w.first
                AND s.next_offset = w.next
            """,
            [
                .int4Array(ranges.map(\.partition)), .int8Array(ranges.map(\.first)), .int8Array(ranges.map(\.next)),
                .text(incarnation),
            ]
        ).affectedRows == ranges.count
    }

    /// Ranges of these partitions, in the order of their offsets.
    static func next(
        _ maximum: Int, of partitions: [Int32], except: [SampleRange], incarnation: String,
        on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [SampleRange] {
        let rows = try connection.query(
            """
            SELECT partition, first_offset, next_offset FROM sample_range
            WHERE incarnation = $1 AND partition = ANY ($2)
                AND (partition, first_offset) NOT IN (SELECT * FROM unnest($4::int4[], $5::int8[]))
            ORDER BY partition, first_offset LIMIT $3
            """,
            [
                .text(incarnation), .int4Array(partitions), .int8(Int64(maximum)),
                .int4Array(except.map(\.partition)), .int8Array(except.map(\.first)),
            ], binary: true)
        return (0..<rows.rowCount).map {
            SampleRange(partition: Int32(rows.integer($0, 0)), first: rows.integer($0, 1), next: rows.integer($0, 2))
        }
    }

    struct Waiting: Sendable, Equatable {
        var ranges: Int64 = 0
        /// Seconds.
        var age: Double = 0
    }

    static func waiting(on connection: isolated PostgresConnection) throws(PostgresError) -> Waiting {
        let row = try connection.query(
            "SELECT count(*), extract(epoch FROM now() - min(created_at))::float8 FROM sample_range", binary: true)
        return Waiting(ranges: row.integer(0, 0), age: row.double(0, 1) ?? 0)
    }
}
