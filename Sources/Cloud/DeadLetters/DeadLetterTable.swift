import Database
import NIOCore

/// An object whose records are in none of the tables.
package struct DeadLetterEntry: Sendable, Equatable {
    package var object: String
    package var digest: ByteBuffer
    package var bytes: Int64
    package var partition: Int32
    /// Offsets of its first record and behind its last.
    package var first: Int64
    package var next: Int64

    package init(object: String, digest: ByteBuffer, bytes: Int64, partition: Int32, first: Int64, next: Int64) {
        self.object = object
        self.digest = digest
        self.bytes = bytes
        self.partition = partition
        self.first = first
        self.next = next
    }
}

/// How far a partition is moved over its dead letters.
package struct DeadLetterAdvance: Sendable, Equatable {
    package var partition: Int32
    /// Fencing epoch of the claim.
    package var epoch: Int64
    package var from: Int64
    package var to: Int64

    package init(partition: Int32, epoch: Int64, from: Int64, to: Int64) {
        self.partition = partition
        self.epoch = epoch
        self.from = from
        self.to = to
    }
}

/// The table `dead_letter`.
package enum DeadLetterTable {
    /// In one transaction: the offsets move over the ranges, and each object has its row. A partition that another
    /// processor has claimed is left as it is. Under the claim's own epoch an offset within the ranges is this processor's
    /// last batch, whose answer was lost: the objects hold it a second time, which deduplication takes out.
    ///
    /// - Returns: the partitions that were moved.
    package static func record(
        _ entries: [DeadLetterEntry], advances: [DeadLetterAdvance], reason: String,
        on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Set<Int32> {
        try connection.transaction { () throws(PostgresError) in
            let rows = try connection.query(
                """
                UPDATE ingest_offset o SET next_offset = w.new, updated_at = now()
                FROM unnest($1::int4[], $2::int8[], $3::int8[], $4::int8[]) AS w (partition, epoch, old, new)
                WHERE o.partition = w.partition AND o.epoch = w.epoch AND o.next_offset >= w.old AND o.next_offset < w.new
                RETURNING o.partition
                """,
                [
                    .int4Array(advances.map(\.partition)), .int8Array(advances.map(\.epoch)),
                    .int8Array(advances.map(\.from)), .int8Array(advances.map(\.to)),
                ], binary: true)
            let moved = Set((0..<rows.rowCount).map { Int32(rows.integer($0, 0)) })
            let stored = entries.filter { moved.contains($0.partition) }
            if stored.isEmpty { return moved }
            // A range comes a second time where an operator, or a restored database, set the offset back.
            try connection.query(
                """
                INSERT INTO dead_letter (kind, reason, object, digest, bytes, partition, first_offset, next_offset)
                SELECT 1, $7, * FROM unnest($1::text[], $2::bytea[], $3::int8[], $4::int4[], $5::int8[], $6::int8[])
                ON CONFLICT (object) DO UPDATE SET
                    state = 'stored', replayed_at = NULL, reason = excluded.reason, digest = excluded.digest,
                    bytes = excluded.bytes, first_offset = excluded.first_offset
                """,
                [
                    .textArray(stored.map(\.object)), .byteaArray(stored.map(\.digest)),
                    .int8Array(stored.map(\.bytes)),
                    .int4Array(stored.map(\.partition)), .int8Array(stored.map(\.first)),
                    .int8Array(stored.map(\.next)), .text(reason),
                ])
            return moved
        }
    }

    /// Objects that are not replayed, in the order in which they were recorded.
    package static func waiting(
        on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [(id: Int64, entry: DeadLetterEntry)] {
        var found: [(id: Int64, entry: DeadLetterEntry)] = []
        try connection.stream(
            """
            SELECT id, object, digest, bytes, partition, first_offset, next_offset FROM dead_letter
            WHERE kind = 1 AND state = 'stored' ORDER BY id
            """
        ) { (row) throws(PostgresError) in
            found.append(
                (
                    row.integer(0, 0),
                    DeadLetterEntry(
                        object: row.string(0, 1), digest: ByteBuffer(bytes: row.bytes(0, 2)), bytes: row.integer(0, 3),
                        partition: Int32(row.integer(0, 4)), first: row.integer(0, 5), next: row.integer(0, 6))
                ))
        }
        return found
    }

    package enum Kind: Int64, Sendable { case range = 1, message }

    /// What these are; one that is not there is missing.
    package static func kinds(
        of ids: [Int64], on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [Int64: Kind] {
        let rows = try connection.query("SELECT id, kind FROM dead_letter WHERE id = ANY ($1)", [.int8Array(ids)])
        return (0..<rows.rowCount).reduce(into: [:]) { $0[rows.integer($1, 0)] = Kind(rawValue: rows.integer($1, 1)) }
    }

    package static func countWaiting(on connection: isolated PostgresConnection) throws(PostgresError) -> Int64 {
        try connection.query("SELECT count(*) FROM dead_letter WHERE kind = 1 AND state = 'stored'", binary: true)
            .integer(0, 0)
    }
}
