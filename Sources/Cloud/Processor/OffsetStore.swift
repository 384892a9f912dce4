import Database
import EventLog

/// A partition under this processor's fencing epoch.
struct PartitionClaim: Sendable, Equatable {
    var epoch: Int64
    var next: Int64
}

enum ClaimOutcome: Sendable, Equatable {
    case claimed(PartitionClaim)
    /// The offsets do not belong to this log: an operator has to decide.
    case refused(String)
}

enum OffsetStore {
    /// Takes the partition from whoever had it, and says where to go on. A partition without an offset starts at the
    /// first record that the log still has.
    static func claim(
        _ bounds: PartitionBounds, incarnation: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> ClaimOutcome {
        let row = try connection.query(
            """
            INSERT INTO ingest_offset AS o (partition, next_offset, epoch, incarnation) VALUES ($1, $2, 1, $3)
            ON CONFLICT (partition) DO UPDATE SET epoch = o.epoch + 1, updated_at = now()
            RETURNING next_offset, epoch, incarnation
            """, [.int4(bounds.partition), .int8(bounds.first), .text(incarnation)])
        let next = row.integer(0, 0)
        let known = row.string(0, 2)
        if known != incarnation {
            return .refused(
                "the event log is another one (incarnation \(incarnation)) than the one whose offsets the database has "
                    + "(\(known)): see docs/decisions/0009 before you change ingest_offset")
        }
        if next < bounds.first || next > bounds.next {
            return .refused(
                "the next offset is \(next), but the log holds \(bounds.first) to \(bounds.next): records were lost "
                    + "or the database is older or newer than the log: see docs/decisions/0009")
        }
        return .claimed(PartitionClaim(epoch: row.integer(0, 1), next: next))
    }
}
