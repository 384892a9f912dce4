import Database
import EventLog
import NIOCore
import Processor
import SyncModel
import Testing

@Suite struct FencingTests {
    /// Values 1 to `count` of `device`, a message an entry.
    private func entries(_ count: Int, device: String = "d1", from first: Int = 1) -> [LogEntry] {
        (first..<first + count).map { entry(of: device, first: UInt64($0), "{\"n\":\($0)}") }
    }

    private func exactlyOnce(_ warehouse: Warehouse, _ count: Int) async throws {
        #expect(
            try await warehouse.one(
                "SELECT concat_ws(' ', count(*), count(DISTINCT value), min(value), max(value)) AS l FROM measurement")
                == "\(count) \(count) 1 \(count)")
    }

    @Test func twoProcessorsOnOneLogStoreEverythingOnce() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(entries(2_000))
        let configuration = warehouse.configuration {
            $0.maximumRecords = 20
            $0.reclaimDelay = .milliseconds(20)
        }
        async let first = warehouse.process(log, configuration) { $0.state.offsets[0] == 2_000 }
        async let second = warehouse.process(log, configuration) { $0.state.offsets[0] == 2_000 }
        #expect(try await first)
        #expect(try await second)
        try await exactlyOnce(warehouse, 2_000)
        #expect(Int(try await warehouse.one("SELECT epoch AS e FROM ingest_offset"))! >= 2)
    }

    /// The connection is cut over and over, at whatever statement it is in.
    @Test func aConnectionCutAtAnyTimeLosesAndDoublesNothing() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 2)
        await log.append(entries(3_000))
        let configuration = warehouse.configuration { $0.maximumRecords = 30 }
        let killer = Task { [connection = warehouse.connection] in
            var kills = 0
            while !Task.isCancelled, kills < 60 {
                try await connection.run(
                    """
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name = 'sluice-processor' AND datname = current_database()
                    """)
                kills += 1
                try await Task.sleep(for: .milliseconds(5))
            }
            return kills
        }
        let status = ProcessorStatus()
        #expect(
            try await warehouse.process(log, configuration, status: status) { status in
                let bounds = await log.bounds()
                return bounds.allSatisfy { status.state.offsets[$0.partition] == $0.next }
            })
        killer.cancel()
        #expect(try await killer.value > 3)
        try await exactlyOnce(warehouse, 3_000)
    }

    /// A trigger cuts the connection at each statement of the transaction in turn.
    @Test(arguments: ["ingest_offset", "deduplication", "measurement", "event", "gateway_epoch", "ledger"])
    func aConnectionCutAtAStatement(table: String) async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            """
            CREATE TABLE cuts (left_over int); INSERT INTO cuts VALUES (2);
            CREATE SEQUENCE cut_count;
            CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('cut_count') <= 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER cut AFTER INSERT OR UPDATE ON \(table) FOR EACH STATEMENT EXECUTE FUNCTION cut();
            """)
        let log = MemoryLog(partitions: 1)
        await log.append(entries(5))
        await log.append(
            entry(first: 6, "no json"),
            .account(gateway: "g1", EpochAccount(epoch: epochOne, lastSequence: 9, isClosed: false)),
            .ledger(
                gateway: "g1",
                LedgerLine(epoch: epochOne, device: "d1", sequences: 7...9, numbers: 7...9, reason: .bufferFull)))
        try await warehouse.drain(log)
        try await exactlyOnce(warehouse, 5)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM event") == "1")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM ledger") == "1")
        #expect(try await warehouse.one("SELECT last_value AS n FROM cut_count").isEmpty == false)
        #expect(Int(try await warehouse.one("SELECT last_value AS n FROM cut_count"))! > 2)
    }

    @Test func anotherLogStopsThePartition() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(entries(3))
        try await warehouse.drain(log)
        await log.become("memory-2")
        let status = ProcessorStatus()
        #expect(try await warehouse.process(log, status: status) { !$0.state.stopped.isEmpty })
        #expect(status.problems.joined().contains("memory-2"))
        #expect(status.otherLog?.contains("memory-2") == true, "ingest asks for it")
        try await exactlyOnce(warehouse, 3)
    }

    @Test(arguments: [(0, 9), (5, 2)])
    func anOffsetOutsideTheLogStopsThePartition(first: Int, next: Int) async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(entries(6))
        try await warehouse.drain(log)
        try await warehouse.connection.run("UPDATE ingest_offset SET next_offset = \(next)")
        await log.forget(before: Int64(first), partition: 0)
        let status = ProcessorStatus()
        #expect(try await warehouse.process(log, status: status) { !$0.state.stopped.isEmpty })
        #expect(status.problems.joined().contains("the next offset is \(next)"))
        // A log that has deleted records is still the right one: gateways go on.
        #expect((status.otherLog != nil) == (next > 6))
        try await exactlyOnce(warehouse, 6)
    }

    /// Ingest answered 200 for them, and no processor came before the log's retention passed.
    @Test func recordsThatWereDeletedBeforeAnybodyCameStopThePartition() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(entries(6))
        await log.forget(before: 2, partition: 0)
        let status = ProcessorStatus()
        for _ in 1...2 {
            #expect(try await warehouse.process(log, status: status) { !$0.state.stopped.isEmpty })
            #expect(try await warehouse.one("SELECT count(*) AS n FROM ingest_offset") == "0")
        }
        let reason = status.problems.joined()
        #expect(reason.contains("the log holds 2 to 6") && reason.contains("deleted unread"))
        // Somebody has looked, and does what the reason says.
        let statement = try #require(reason.firstRange(of: "INSERT INTO")).lowerBound
        let end = try #require(reason.firstRange(of: ", and restart")).lowerBound
        try await warehouse.connection.run(String(reason[statement..<end]))
        try await warehouse.drain(log)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM measurement") == "4")
    }

    @Test func tooManyGapsStopThePartition() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append((0..<4).map { entry(first: UInt64($0 * 2 + 1), "{\"n\":\($0)}") })
        let status = ProcessorStatus()
        let configuration = warehouse.configuration { $0.maximumRanges = 3 }
        #expect(try await warehouse.process(log, configuration, status: status) { !$0.state.stopped.isEmpty })
        #expect(status.problems.joined().contains("more than 3 gaps"))
        #expect(try await warehouse.one("SELECT next_offset AS n FROM ingest_offset") == "0")
    }

    @Test func aBatchThatIsTooSlowIsCutInHalves() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            """
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
            CREATE TRIGGER slow AFTER INSERT ON measurement FOR EACH ROW EXECUTE FUNCTION slow();
            """)
        let log = MemoryLog(partitions: 1)
        await log.append(entries(40))
        try await warehouse.drain(log) { $0.statementTimeout = .milliseconds(300) }
        try await exactlyOnce(warehouse, 40)
    }

    @Test func aProcessorCanBeginWithALedgerLine() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            .ledger(
                gateway: "g1",
                LedgerLine(epoch: epochOne, device: "d1", sequences: 7...9, numbers: 7...9, reason: .damaged)))
        try await warehouse.drain(log)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM ledger") == "1")
    }

    @Test func withoutTablesItWaitsForTheMigration() async throws {
        let warehouse = try await Warehouse()
        let migrator = try Migrator(path: MigrationFile.directory(given: nil))
        _ = try await migrator.down(on: warehouse.connection, to: 0)
        let log = MemoryLog(partitions: 1)
        await log.append(entries(3))
        let status = ProcessorStatus()
        let connection = warehouse.connection
        #expect(
            try await warehouse.process(log, status: status) { status in
                guard !status.state.isDatabaseReachable else { return false }
                try await Task.sleep(for: .milliseconds(30))
                _ = try await migrator.up(on: connection)
                return try await wait { status.state.offsets[0] == 3 && status.problems.isEmpty }
            })
        try await exactlyOnce(warehouse, 3)
    }
}
