import Database
import DeadLetters
import SyncModel

/// Reads the tables for an audit: one snapshot, row by row, whatever their size.
package struct TableAudit: Sendable {
    package enum Failure: Error, Sendable, CustomStringConvertible {
        case database(PostgresError)
        case unreadable(String)

        package var description: String {
            switch self {
            case .database(let error):
                error.category == .setup
                    ? "\(error); is the schema there? See sluice migrate status" : error.description
            case .unreadable(let text): text
            }
        }
    }

    /// A database's ids for its sources and for the metrics that hold a journal's `n`.
    private struct Names {
        var sources: [Int32: AuditTally.Source] = [:]
        /// Device names by the ids of their metrics at the path `n`.
        var numbers: [Int32: String] = [:]
        var devices: [Int32: String] = [:]
    }

    /// Only this gateway's sources; `nil`: all.
    private let gateway: String?

    package init(gateway: String? = nil) { self.gateway = gateway }

    struct Tables: Sendable {
        var tally: AuditTally
        /// Those that wait.
        var deadLetters: [DeadLetterEntry] = []
        /// Manifests whose rows are in the archive alone.
        var archived: Set<ArchiveAudit.Key> = []
    }

    func read(into tally: AuditTally, on connection: isolated PostgresConnection) throws(Failure) -> Tables {
        // A partition that was being dropped may be gone between the look at the catalogue and the look at its rows.
        for _ in 0..<3 {
            do throws(Failure) { return try attempt(tally, connection) } catch .database(let error) {
                guard error.sqlState == "42P01" else { throw .database(error) }
            }
        }
        return try attempt(tally, connection)
    }

    private func attempt(
        _ tally: AuditTally, _ connection: isolated PostgresConnection
    ) throws(Failure) -> Tables {
        var tables = Tables(tally: tally)
        do throws(PostgresError) {
            try connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            defer { connection.rollBack() }
            let names = try readNames(tables.tally, connection)
            try readMeasurements(names, &tables.tally, connection)
            try readEvents(names, &tables.tally, connection)
            try RetiredAudit.read(names.sources, &tables.tally, connection)
            try readLedger(names, &tables.tally, connection)
            try readAccounts(names, &tables.tally, connection)
            try readDeduplication(names, &tables.tally, connection)
            tables.archived = try ArchiveAudit.goneKeys(connection)
            tables.deadLetters = try DeadLetterTable.waiting(on: connection).map(\.entry)
            let rejected = try connection.query("SELECT count(*) FROM rejected_record", binary: true).integer(0, 0)
            if rejected > 0 {
                tables.tally.note(
                    "\(rejected) records of the event log could not be decoded: see the table rejected_record")
            }
        } catch {
            throw .database(error)
        }
        return tables
    }

    private func readNames(
        _ tally: AuditTally, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> Names {
        var names = Names()
        try connection.stream(
            """
            SELECT s.id, g.name, s.epoch::text FROM source s JOIN gateway g ON g.id = s.gateway_id
            WHERE $1::text IS NULL OR g.name = $1
            """, [gateway.map { .text($0) } ?? .null]
        ) { (row) throws(PostgresError) in
            guard let epoch = Epoch(hexadecimal: row.string(0, 2)) else { return }
            names.sources[Int32(row.integer(0, 0))] = .init(gateway: row.string(0, 1), epoch: epoch)
        }
        guard tally.hasJournal else { return names }
        try connection.stream(
            "SELECT m.id, d.name FROM metric m JOIN device d ON d.id = m.device_id WHERE m.path = 'n'"
        ) { (row) throws(PostgresError) in
            let device = row.string(0, 1)
            if tally.hasJournal(of: device) { names.numbers[Int32(row.integer(0, 0))] = device }
        }
        try connection.stream("SELECT id, name FROM device") { (row) throws(PostgresError) in
            let device = row.string(0, 1)
            if tally.hasJournal(of: device) { names.devices[Int32(row.integer(0, 0))] = device }
        }
        return names
    }

    private func readMeasurements(
        _ names: Names, _ tally: inout AuditTally, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        let columns = "source, sequence, part, parts, metric_id, value"
        let rows = try RetiredAudit.all("measurement", columns: columns, on: connection)
        try connection.stream("SELECT \(columns) FROM \(rows)") { (row) throws(PostgresError) in
            guard let source = names.sources[Int32(row.integer(0, 0))] else { return }
            let isNew = tally.add(
                row: source, sequence: UInt64(clamping: row.integer(0, 1)), part: UInt16(clamping: row.integer(0, 2)),
                parts: UInt16(clamping: row.integer(0, 3)))
            // A doubled row is one; it is not a second message.
            if isNew, let device = names.numbers[Int32(row.integer(0, 4))], let value = row.double(0, 5),
                let n = UInt64(exactly: value)
            {
                tally.found(device, n: n)
            }
        }
    }

    private func readEvents(
        _ names: Names, _ tally: inout AuditTally, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        let rows = try RetiredAudit.all(
            "event", columns: "source, sequence, part, parts, kind, device_id, body", on: connection)
        // Kind 1 has its numbers in measurement, kind 9 was refused by PostgreSQL; the others hold the whole message.
        try connection.stream(
            """
            SELECT source, sequence, part, parts, kind, device_id,
                   CASE WHEN kind <> 1 AND jsonb_typeof(body -> 'n') = 'number' THEN (body ->> 'n')::float8 END
            FROM \(rows)
            """
        ) { (row) throws(PostgresError) in
            guard let source = names.sources[Int32(row.integer(0, 0))] else { return }
            let isNew = tally.add(
                row: source, sequence: UInt64(clamping: row.integer(0, 1)), part: UInt16(clamping: row.integer(0, 2)),
                parts: UInt16(clamping: row.integer(0, 3)))
            guard isNew else { return }
            let device = names.devices[Int32(row.integer(0, 5))]
            if row.integer(0, 4) == 9 { tally.add(refused: source, device: device) }
            if let device, let value = row.double(0, 6), let n = UInt64(exactly: value) { tally.found(device, n: n) }
        }
    }

    private func readLedger(
        _ names: Names, _ tally: inout AuditTally, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        try connection.stream(
            """
            SELECT source, device, lower(sequences), upper(sequences) - 1, lower(numbers), upper(numbers) - 1, reason
            FROM ledger
            """
        ) { (row) throws(PostgresError) in
            guard let source = names.sources[Int32(row.integer(0, 0))] else { return }
            tally.add(
                ledger: source, device: row.string(0, 1),
                sequences: UInt64(clamping: row.integer(0, 2))...UInt64(clamping: row.integer(0, 3)),
                numbers: UInt64(clamping: row.integer(0, 4))...UInt64(clamping: row.integer(0, 5)),
                reason: LedgerReason(rawValue: UInt32(clamping: row.integer(0, 6))))
        }
    }

    private func readAccounts(
        _ names: Names, _ tally: inout AuditTally, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        try connection.stream("SELECT source, last_sequence, closed FROM gateway_epoch") {
            (row) throws(PostgresError) in
            guard let source = names.sources[Int32(row.integer(0, 0))] else { return }
            tally.add(
                account: source, lastSequence: UInt64(clamping: row.integer(0, 1)), isClosed: row.bool(0, 2))
        }
    }

    private func readDeduplication(
        _ names: Names, _ tally: inout AuditTally, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        try connection.stream("SELECT source, device, numbers::text FROM deduplication") {
            (row) throws(PostgresError) in
            guard let source = names.sources[Int32(row.integer(0, 0))] else { return }
            let device = row.string(0, 1)
            do throws(IntervalSetError) {
                tally.add(
                    ended: try IntervalSet(text: row.string(0, 2), maximumRanges: .max), of: source, device: device)
            } catch {
                tally.note("gateway \(source.gateway): what deduplication has of \(device) cannot be read: \(error)")
            }
        }
    }
}
