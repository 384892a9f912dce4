import Database
import EventLog
import SyncModel

/// Reads what the log holds and the database does not have yet.
struct LogAudit: Sendable {
    private static let group = "sluice-audit"
    /// Seconds without a record, though the log says that it has some.
    private static let maximumIdle = 10

    /// Only this gateway's entries; `nil`: all.
    let gateway: String?

    func read(
        _ log: any EventLog, into tally: AuditTally, connection: PostgresConnection
    ) async throws -> AuditTally {
        var tally = tally
        // First the offsets, then the log: what is stored in between is in the tables, which are read last.
        let offsets = try await Self.offsets(connection)
        let incarnation = try await log.incarnation()
        if offsets.values.contains(where: { $0.incarnation != incarnation }) {
            tally.note("the event log is another one than the one whose offsets the database has")
            return tally
        }
        let reader = try await log.makeReader(group: Self.group, member: "audit")
        do {
            try await read(reader, log, offsets.mapValues(\.next), into: &tally)
        } catch {
            await reader.close()
            throw error
        }
        await reader.close()
        return tally
    }

    private func read(
        _ reader: any EventLogReader, _ log: any EventLog, _ offsets: [Int32: Int64], into tally: inout AuditTally
    ) async throws {
        var starts: [Int32: Int64] = [:]
        var ends: [Int32: Int64] = [:]
        for bounds in try await log.bounds() {
            let next = offsets[bounds.partition] ?? bounds.first
            if next < bounds.first || next > bounds.next {
                tally.note(
                    "partition \(bounds.partition) of the event log holds \(bounds.first) to \(bounds.next), but \(next) "
                        + "is the next to be stored")
            }
            starts[bounds.partition] = min(max(next, bounds.first), bounds.next)
            if next < bounds.next { ends[bounds.partition] = bounds.next }
        }
        var idle = 0
        while !ends.isEmpty {
            switch try await reader.next(maximumRecords: 10_000, maximumBytes: 16 << 20, timeout: .seconds(1)) {
            case .assigned(let partitions):
                for partition in partitions { try await reader.seek(partition: partition, to: starts[partition] ?? 0) }
            case .revoked(let partitions):
                throw EventLogError.unavailable("partitions \(partitions) were taken away while the audit read them")
            case .records(let records):
                idle = 0
                for record in records { add(record, to: &tally, &ends) }
            case .idle:
                idle += 1
                if idle >= Self.maximumIdle {
                    throw EventLogError.unavailable(
                        "the event log gives no records of partitions \(ends.keys.sorted())")
                }
            }
        }
    }

    private func add(_ record: StoredLogRecord, to tally: inout AuditTally, _ ends: inout [Int32: Int64]) {
        guard let end = ends[record.partition] else { return }
        if record.offset < end {
            if let entry = try? LogEntry.decode(record.record.value) {
                if gateway == nil || entry.gateway == gateway { tally.add(logged: entry) }
            } else {
                tally.note("offset \(record.offset) of partition \(record.partition) cannot be decoded")
            }
        }
        if record.offset + 1 >= end { ends[record.partition] = nil }
    }

    private static func offsets(
        _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> [Int32: (next: Int64, incarnation: String)] {
        let rows = try connection.query("SELECT partition, next_offset, incarnation FROM ingest_offset", binary: true)
        var offsets: [Int32: (next: Int64, incarnation: String)] = [:]
        for row in 0..<rows.rowCount {
            offsets[Int32(rows.integer(row, 0))] = (rows.integer(row, 1), rows.string(row, 2))
        }
        return offsets
    }
}
