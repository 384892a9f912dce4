import Database
import EventLog
import Flow
import Logging
import NIOCore
import SyncModel
import TestSupport
import Testing

@testable import Processor

private func entries(_ count: Int, device: String = "d1", from first: Int = 1) -> [LogEntry] {
    (first..<first + count).map { entry(of: device, first: UInt64($0), "{\"n\":\($0)}") }
}

private func exactlyOnce(_ warehouse: Warehouse, _ count: Int) async throws {
    let found = try await warehouse.one(
        "SELECT concat_ws(' ', count(*), count(DISTINCT value), min(value), max(value)) AS l FROM measurement")
    #expect(found == "\(count) \(count) 1 \(count)")
}

/// One that stays open for as long as a test needs to look at it.
private func breaker(_ configuration: inout ProcessorConfiguration) {
    configuration.fallback.breaker.waitInOpen = 300_000
}

@Suite struct BreakerTests {
    @Test(arguments: ["53100", "53200", "57P03"])
    func aServerWithoutResourcesOpensIt(state: String) async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            """
            CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '\(state)'; END $$;
            CREATE TRIGGER full_disk BEFORE INSERT ON measurement FOR EACH ROW EXECUTE FUNCTION full_disk();
            """)
        let log = MemoryLog(partitions: 1)
        await log.append(entries(20))
        let status = ProcessorStatus()
        let connection = warehouse.connection
        let isDone = try await warehouse.process(log, warehouse.configuration(breaker), status: status) { status in
            guard let reason = status.state.breaker else { return false }
            #expect(reason.contains(state))
            try await connection.run("DROP TRIGGER full_disk ON measurement")
            return try await wait { status.state.messages == 20 && status.problems.isEmpty }
        }
        #expect(isDone, "\(status.problems)")
        try await exactlyOnce(warehouse, 20)
    }

    /// Messages that PostgreSQL refuses say nothing of the database, however many they are.
    @Test func poisonNeverOpensItAndEachIsADeadLetter() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run("ALTER TABLE measurement ADD CHECK (value < 0)")
        let log = MemoryLog(partitions: 1)
        await log.append(entries(60))
        let lines = LogLines()
        let status = ProcessorStatus()
        let isDone = try await warehouse.process(
            log, warehouse.configuration { $0.maximumRecords = 3 }, status: status, logger: lines.logger
        ) { status in
            #expect(status.state.breaker == nil)
            return status.state.messages == 60
        }
        #expect(isDone)
        #expect(!lines.all.joined().contains("breaker"))
        #expect(
            try await warehouse.lines(
                """
                SELECT concat_ws(' ', l.kind, l.state, l.device, l.reason LIKE '%23514%', e.bytes IS NOT NULL, count(*)) AS l
                FROM dead_letter l JOIN event e ON e.source = l.source AND e.sequence = l.sequence AND e.kind = 9
                GROUP BY l.kind, l.state, l.device, l.reason LIKE '%23514%', e.bytes IS NOT NULL
                """) == ["2 stored d1 t t 60"])
        // A repetition is none a second time.
        await log.append(entries(3))
        try await warehouse.drain(log)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM dead_letter") == "60")
    }
}

@Suite struct SampleTests {
    @Test func itIsATenthAndTheSameForAll() {
        let chosen = (1...100_000).filter { Sample.has(device: "d\($0 % 7)", sequence: UInt64($0)) }
        #expect((9_500...10_500).contains(chosen.count), "\(chosen.count)")
        #expect(Sample.has(device: "d", sequence: 3) == Sample.has(device: "d", sequence: 3))
    }

    /// A slow database gets a tenth of the messages; when it is quick again, the rest is stored, each message once.
    @Test func aSlowDatabaseGetsASampleAndTheRestLater() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 2)
        await log.append(entries(10))
        let configuration = warehouse.configuration {
            $0.fallback.mode = .sample
            $0.fallback.breaker.waitInOpen = 1_500_000
            $0.statementTimeout = .milliseconds(400)
            $0.sampleInterval = .milliseconds(1)
            $0.maximumRecords = 400
        }
        let status = ProcessorStatus()
        let connection = warehouse.connection
        let isDone = try await warehouse.process(log, configuration, status: status) { status in
            guard status.state.messages == 10 else { return false }
            // 400 rows take 4 s, 40 rows 0.4 s: only a sample, or a few, fit into the time limit.
            try await connection.run(
                """
                CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN PERFORM pg_sleep(0.004); RETURN NEW; END $$;
                CREATE TRIGGER slow BEFORE INSERT ON measurement FOR EACH ROW EXECUTE FUNCTION slow();

                """)
            await log.append(entries(990, from: 11))
            #expect(try await wait { status.state.breaker != nil })
            #expect(
                try await wait { try await warehouse.one("SELECT count(*) AS n FROM sample_range") != "0" })
            let ranges = try await warehouse.one("SELECT min(epoch) AS n FROM sample_range")
            #expect(Int(ranges)! > 0)
            try await connection.run("DROP TRIGGER slow ON measurement")
            return try await wait {
                try await warehouse.one(
                    """
                    SELECT concat_ws(' ', (SELECT count(*) FROM measurement), (SELECT count(*) FROM sample_range)) AS l
                    """) == "1000 0"
            }
        }
        #expect(isDone, "\(status.problems)")
        try await exactlyOnce(warehouse, 1_000)
    }
}
