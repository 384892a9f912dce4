import Archive
import Database
import ObjectStore
import SyncModel

/// Counts the messages of archived rows that the tables no longer have: by the manifests of the cold archive, each compared
/// with its digest in the database, or by the database's own ranges, where the archive cannot be read or a day's time in it
/// is over.
struct ArchiveAudit: Sendable {
    let gateway: String?
    let objects: (any ObjectStore)?

    /// Manifests that were gone in the snapshot of the tables. Rows of others that go meanwhile were seen there too, so the
    /// balance of their sources says nothing.
    var goneBefore: Set<Key> = []

    struct Key: Hashable, Sendable {
        var day: ArchiveDay
        var number: Int
    }

    /// A manifest whose rows have left the tables; others of its day may not have.
    private struct Gone: Sendable {
        var day: ArchiveDay
        var number: Int
        var digest: String
        var isDeleted: Bool

        var key: Key { Key(day: day, number: number) }
    }

    static func goneKeys(_ connection: isolated PostgresConnection) throws(PostgresError) -> Set<Key> {
        Set(try gone(connection).map(\.key))
    }

    func read(into tally: AuditTally, on connection: PostgresConnection) async throws -> AuditTally {
        var tally = tally
        do throws(PostgresError) {
            for gone in try await Self.gone(connection) {
                guard let objects, !gone.isDeleted else {
                    tally = try await readRanges(gone, into: tally, connection)
                    continue
                }
                await readManifest(gone, ArchiveCatalog(objects), &tally)
            }
        } catch {
            throw TableAudit.Failure.database(error)
        }
        return tally
    }

    /// Those that were dropped by their time; and those of days of which the tables have nothing at all, whoever took it away.
    private static func gone(_ connection: isolated PostgresConnection) throws(PostgresError) -> [Gone] {
        // Its migration may not have been applied yet.
        guard try connection.query("SELECT to_regclass('archive_day') IS NOT NULL").bool(0, 0) else { return [] }
        let hasRows = try ["measurement", "event"].map { (parent: String) throws(PostgresError) in
            let rows = try RetiredAudit.all(parent, columns: "time", on: connection)
            return """
                EXISTS (SELECT FROM \(rows) WHERE r.time >= a.day::timestamp AT TIME ZONE 'UTC'
                    AND r.time < (a.day + 1)::timestamp AT TIME ZONE 'UTC')
                """
        }
        let rows = try connection.query(
            """
            SELECT a.day::text, m.number, m.digest, a.deleted_at IS NOT NULL
            FROM archive_day a JOIN archive_manifest m USING (day)
            WHERE m.dropped_at IS NOT NULL OR NOT (\(hasRows.joined(separator: " OR ")))
            ORDER BY a.day, m.number
            """, binary: true)
        return (0..<rows.rowCount).compactMap { row in
            ArchiveDay(rows.string(row, 0)).map { day in
                Gone(
                    day: day, number: Int(rows.integer(row, 1)), digest: rows.string(row, 2),
                    isDeleted: rows.bool(row, 3))
            }
        }
    }

    private func readManifest(_ gone: Gone, _ catalog: ArchiveCatalog, _ tally: inout AuditTally) async {
        let key = ArchiveKeys.manifest(gone.day, gone.number)
        do throws(ArchiveError) {
            guard let manifest = try await catalog.manifest(gone.day, gone.number) else {
                throw .missingObject(key: key)
            }
            guard manifest.digest == gone.digest else {
                throw .badObject(key: key, reason: "its digest is not the one in the table archive_manifest")
            }
            add(manifest.content, wasGone: goneBefore.contains(gone.key), &tally)
        } catch {
            tally.note("the archive of \(gone.day): \(error)")
        }
    }

    private func add(_ manifest: ArchiveManifest, wasGone: Bool, _ tally: inout AuditTally) {
        for source in manifest.sources where gateway == nil || source.gateway == gateway {
            guard let epoch = Epoch(hexadecimal: source.epoch) else { continue }
            let name = AuditTally.Source(gateway: source.gateway, epoch: epoch)
            for range in source.sequences { tally.add(archived: name, sequences: range[0]...range[1]) }
            tally.add(
                archived: name, rows: UInt64(clamping: source.rows), deadLettered: UInt64(clamping: source.refused))
            tally.add(archived: name, balance: wasGone ? source.balance.flatMap { UInt64($0, radix: 16) } : nil)
        }
    }

    private func readRanges(
        _ gone: Gone, into tally: AuditTally, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> AuditTally {
        var tally = tally
        try connection.stream(
            """
            SELECT g.name, s.epoch::text, r.first_sequence, r.last_sequence
            FROM archive_range r JOIN source s ON s.id = r.source JOIN gateway g ON g.id = s.gateway_id
            WHERE r.day = $1::date AND r.manifest = $3 AND ($2::text IS NULL OR g.name = $2)
            """, [.text(gone.day.description), gateway.map { .text($0) } ?? .null, .int4(Int32(clamping: gone.number))]
        ) { (row) throws(PostgresError) in
            guard let epoch = Epoch(hexadecimal: row.string(0, 1)), row.integer(0, 2) >= 0 else { return }
            let name = AuditTally.Source(gateway: row.string(0, 0), epoch: epoch)
            tally.add(
                archived: name, sequences: UInt64(clamping: row.integer(0, 2))...UInt64(clamping: row.integer(0, 3)))
            tally.add(archived: name, balance: nil)
        }
        return tally
    }
}
