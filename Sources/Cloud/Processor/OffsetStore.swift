import Database
import EventLog

/// A partition under this processor's fencing epoch.
struct PartitionClaim: Sendable, Equatable {
    var epoch: Int64
    var next: Int64
    /// The end of the farthest batch that was tried.
    var farthest: Int64

    init(epoch: Int64, next: Int64) {
        self.epoch = epoch
        self.next = next
        farthest = next
    }
}

/// What a row of `ingest_offset` means to a processor that claimed the partition.
enum ClaimStanding: Sendable, Equatable {
    case held
    /// Another processor has claimed it since.
    case lost
    /// The row is older than the claim: no processor does that.
    case wentBack(String)

    init(_ advance: PartitionAdvance, epoch: Int64, next: Int64) {
        if epoch > advance.epoch {
            self = .lost
        } else if epoch == advance.epoch, (advance.from...advance.farthest).contains(next) {
            self = .held
        } else {
            self = .wentBack(
                "ingest_offset has the epoch \(epoch) and the offset \(next), this processor had stored up to "
                    + "\(advance.from) under the epoch \(advance.epoch): was the database restored to an earlier point? "
                    + "Stop all processors, run sluice database restored, and start them again")
        }
    }
}

enum ClaimOutcome: Sendable, Equatable {
    case claimed(PartitionClaim)
    /// An operator has to decide.
    case refused(String)
    /// The same, because the offsets do not belong to this log: what is appended to it may never be processed.
    case otherLog(String)
}

enum OffsetStore {
    /// Takes the partition from whoever had it, and says where to go on. A partition without an offset starts at its first
    /// record; where the log does not have that any more, messages were acknowledged and deleted unread.
    static func claim(
        _ bounds: PartitionBounds, incarnation: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> ClaimOutcome {
        let row = try connection.query(
            """
            WITH known AS (
                UPDATE ingest_offset SET epoch = epoch + 1, updated_at = now() WHERE partition = $1
                RETURNING next_offset, epoch, incarnation
            ), new AS (
                INSERT INTO ingest_offset AS o (partition, next_offset, epoch, incarnation)
                SELECT $1, 0, 1, $3 WHERE $2::int8 = 0 AND NOT EXISTS (SELECT FROM known)
                ON CONFLICT (partition) DO UPDATE SET epoch = o.epoch + 1, updated_at = now()
                RETURNING next_offset, epoch, incarnation
            )
            SELECT * FROM known UNION ALL SELECT * FROM new
            """, [.int4(bounds.partition), .int8(bounds.first), .text(incarnation)])
        guard row.rowCount == 1 else {
            return .refused(
                "nothing of it was ever processed, and the log holds \(bounds.first) to \(bounds.next): the records "
                    + "before were deleted unread. sluice audit names what is missing; to go on without them: "
                    + "INSERT INTO ingest_offset (partition, next_offset, epoch, incarnation) "
                    + "VALUES (\(bounds.partition), \(bounds.first), 1, '\(incarnation)'), and restart")
        }
        let next = row.integer(0, 0)
        let known = row.string(0, 2)
        if known != incarnation {
            return .otherLog(
                "the event log is another one (incarnation \(incarnation)) than the one whose offsets the database has "
                    + "(\(known)): put that one back if there is nothing in this one that was acknowledged, else see "
                    + "docs/decisions/0009")
        }
        if next < bounds.first || next > bounds.next {
            // Before its beginning it is the right log, which has deleted records: what comes to it is processed.
            return (next > bounds.next ? ClaimOutcome.otherLog : ClaimOutcome.refused)(
                "the next offset is \(next), but the log holds \(bounds.first) to \(bounds.next): records were lost "
                    + "or the database is older or newer than the log: see docs/decisions/0009")
        }
        return .claimed(PartitionClaim(epoch: row.integer(0, 1), next: next))
    }

    /// Ends the connections whose transactions hold these rows. A processor that hangs in the middle of a COPY would hold
    /// them for ever: while the server waits for a client's data, neither its statement timeout nor the one for idle
    /// transactions runs. Whoever claims has been given the partitions, so what the holder writes is refused in any case.
    ///
    /// - Returns: how many there were.
    static func endHolders(
        of partitions: [Int32], on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Int {
        let ended = try connection.query(
            """
            SELECT pg_terminate_backend(pid) FROM (
                SELECT DISTINCT l.pid FROM ingest_offset o
                JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = o.xmax AND l.granted
                WHERE o.partition = ANY ($1) AND l.pid <> pg_backend_pid()) holders
            """, [.int4Array(partitions)])
        return ended.rowCount
    }

    /// Compares claims with the database after the connection was lost: it may have been another database, or an older one,
    /// that came back.
    static func standings(
        of claims: [PartitionAdvance], on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [Int32: ClaimStanding] {
        let rows = try connection.query(
            "SELECT partition, epoch, next_offset FROM ingest_offset WHERE partition = ANY ($1)",
            [.int4Array(claims.map(\.partition))], binary: true)
        var standings: [Int32: ClaimStanding] = [:]
        for row in 0..<rows.rowCount {
            let partition = Int32(rows.integer(row, 0))
            guard let claim = claims.first(where: { $0.partition == partition }) else { continue }
            standings[partition] = ClaimStanding(claim, epoch: rows.integer(row, 1), next: rows.integer(row, 2))
        }
        return standings
    }
}
