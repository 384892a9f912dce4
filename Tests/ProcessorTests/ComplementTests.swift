import Database
import SyncModel
import TestSupport
import Testing

@testable import Processor

/// A sampled range whose rest cannot be stored holds up neither the ranges behind it nor what is new.
@Suite struct ComplementTests {
    /// Offsets 0 to 3 were passed by samples that had nothing of them.
    private func sampled(_ log: MemoryLog, _ warehouse: Warehouse) async throws {
        try await warehouse.connection.run(
            """
            INSERT INTO ingest_offset (partition, next_offset, epoch, incarnation) VALUES (0, 4, 1, '\(await log.incarnation())');
            INSERT INTO sample_range (partition, epoch, first_offset, next_offset, incarnation)
                SELECT 0, 1, n, n + 1, '\(await log.incarnation())' FROM generate_series(0, 3) n
            """)
    }

    private func isDone(_ warehouse: Warehouse, rows: String, left: String) async throws -> Bool {
        try await wait {
            try await warehouse.one(
                """
                SELECT concat_ws(' ', (SELECT string_agg(value::text, ',' ORDER BY value) FROM measurement),
                    (SELECT string_agg(first_offset::text, ',' ORDER BY first_offset) FROM sample_range)) AS l
                """) == "\(rows) \(left)"
        }
    }

    @Test func recordsThatTheLogHasNoMore() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        for number in 1...4 as ClosedRange<UInt64> { await log.append([entry(first: number, "{\"n\":\(number)}")]) }
        try await sampled(log, warehouse)
        await log.forget(before: 1, partition: 0)
        #expect(
            try await warehouse.process(log) { _ in
                await log.append([entry(first: 5, "{\"n\":5}")])
                return try await isDone(warehouse, rows: "2,3,4,5", left: "0")
            })
    }

    @Test func aLineThatPostgreSQLRefuses() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            """
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '22000'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION refuse();
            """)
        let log = MemoryLog(partitions: 1)
        await log.append([entry(first: 1, "{\"n\":1}")])
        await log.append([
            .ledger(
                gateway: "g1",
                LedgerLine(epoch: epochOne, device: "d1", sequences: 2...2, numbers: 2...2, reason: .bufferFull))
        ])
        for number in 3...4 as ClosedRange<UInt64> { await log.append([entry(first: number, "{\"n\":\(number)}")]) }
        try await sampled(log, warehouse)
        #expect(
            try await warehouse.process(log) { _ in
                await log.append([entry(first: 5, "{\"n\":5}")])
                return try await isDone(warehouse, rows: "1,3,4,5", left: "1")
            })
    }
}
