import Archive
import Database
import ObjectStore
import SyncModel

/// Counts the messages of days that the tables no longer have: by the manifests of the cold archive, each compared with
/// its digest in the database, or by the database's own ranges, where the archive cannot be read or a day's time in it is
/// over.
struct ArchiveAudit: Sendable {
    let gateway: String?
    let objects: (any ObjectStore)?

    private struct Gone: Sendable {
        var day: ArchiveDay
        var isDeleted: Bool
        /// Of its manifests, in order.
        var digests: [String]
    }

    func read(into tally: AuditTally, on connection: PostgresConnection) async throws -> AuditTally {
        var tally = tally
        do throws(PostgresError) {
            for gone in try await Self.goneDays(connection) {
                guard let objects, !gone.isDeleted else {
                    tally = try await readRanges(gone.day, into: tally, connection)
                    continue
                }
                await readManifests(gone, ArchiveCatalog(objects), &tally)
            }
        } catch {
            throw TableAudit.Failure.database(error)
        }
        return tally
    }

    private static func goneDays(_ connection: isolated PostgresConnection) throws(PostgresError) -> [Gone] {
        // Its migration may not have been applied yet.
        guard try connection.query("SELECT to_regclass('archive_day') IS NOT NULL").bool(0, 0) else { return [] }
        let rows = try connection.query(
            """
            SELECT a.day::text, a.deleted_at IS NOT NULL,
                array_to_string(ARRAY(SELECT digest FROM archive_manifest m WHERE m.day = a.day ORDER BY number), ' ')
            FROM archive_day a
            WHERE NOT EXISTS (SELECT FROM measurement WHERE time >= a.day::timestamp AT TIME ZONE 'UTC'
                    AND time < (a.day + 1)::timestamp AT TIME ZONE 'UTC')
                AND NOT EXISTS (SELECT FROM event WHERE time >= a.day::timestamp AT TIME ZONE 'UTC'
                    AND time < (a.day + 1)::timestamp AT TIME ZONE 'UTC')
            ORDER BY a.day
            """)
        return (0..<rows.rowCount).compactMap { row in
            ArchiveDay(rows.string(row, 0)).map { day in
                Gone(
                    day: day, isDeleted: rows.bool(row, 1),
                    digests: rows.string(row, 2).split(separator: " ").map(String.init))
            }
        }
    }

    private func readManifests(_ gone: Gone, _ catalog: ArchiveCatalog, _ tally: inout AuditTally) async {
        for (number, digest) in gone.digests.enumerated() {
            let key = ArchiveKeys.manifest(gone.day, number)
            do throws(ArchiveError) {
                guard let manifest = try await catalog.manifest(gone.day, number) else {
                    throw .missingObject(key: key)
                }
                guard manifest.digest == digest else {
                    throw .badObject(key: key, reason: "its digest is not the one in the table archive_manifest")
                }
                add(manifest.content, &tally)
            } catch {
                tally.note("the archive of \(gone.day): \(error)")
            }
        }
    }

    private func add(_ manifest: ArchiveManifest, _ tally: inout AuditTally) {
        for source in manifest.sources where gateway == nil || source.gateway == gateway {
            guard let epoch = Epoch(hexadecimal: source.epoch) else { continue }
            let name = AuditTally.Source(gateway: source.gateway, epoch: epoch)
            for range in source.sequences { tally.add(archived: name, sequences: range[0]...range[1]) }
            tally.add(
                archived: name, rows: UInt64(clamping: source.rows), deadLettered: UInt64(clamping: source.refused))
        }
    }

    private func readRanges(
        _ day: ArchiveDay, into tally: AuditTally, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> AuditTally {
        var tally = tally
        try connection.stream(
            """
            SELECT g.name, s.epoch::text, r.first_sequence, r.last_sequence
            FROM archive_range r JOIN source s ON s.id = r.source JOIN gateway g ON g.id = s.gateway_id
            WHERE r.day = $1::date AND ($2::text IS NULL OR g.name = $2)
            """, [.text(day.description), gateway.map { .text($0) } ?? .null]
        ) { (row) throws(PostgresError) in
            guard let epoch = Epoch(hexadecimal: row.string(0, 1)), row.integer(0, 2) >= 0 else { return }
            tally.add(
                archived: .init(gateway: row.string(0, 0), epoch: epoch),
                sequences: UInt64(clamping: row.integer(0, 2))...UInt64(clamping: row.integer(0, 3)))
        }
        return tally
    }
}
