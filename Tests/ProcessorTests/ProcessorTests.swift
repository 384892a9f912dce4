import Database
import EventLog
import NIOCore
import Processor
import SyncModel
import Testing

@Suite struct ProcessorTests {
    static let numbers = """
        SELECT e.sequence, m.path, e.value, e.text, e.part, e.parts, e.flags FROM measurement e
        JOIN metric m ON m.id = e.metric_id ORDER BY e.sequence, e.part
        """

    @Test func everyMessageLeavesItsRows() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog()
        await log.append(
            entry(
                #"{"n":1,"t":21.5,"ok":true}"#, #"{"n":9007199254740993,"s":"x"}"#, "17", "no json", "{}", "[1]"))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(
                """
                SELECT concat_ws(' ', e.sequence, m.topic, m.path, e.value, e.text, e.part, e.parts, e.flags) AS line
                FROM measurement e JOIN metric m ON m.id = e.metric_id ORDER BY e.sequence, e.part
                """) == [
                    "1 t n 1 0 3 0", "1 t t 21.5 1 3 0", "1 t ok 1 2 3 0",
                    "2 t n 9.007199254740992e+15 9007199254740993 0 2 0", "3 t value 17 0 1 0",
                ])
        #expect(
            try await warehouse.lines(
                """
                SELECT concat_ws(' ', sequence, kind, topic, body, convert_from(bytes, 'UTF8'), part, parts) AS line
                FROM event ORDER BY sequence
                """) == [#"2 1 t {"s": "x"} 1 2"#, "4 2 t no json 0 1", "5 1 t {} 0 1", "6 1 t [1] 0 1"])
        #expect(
            try await warehouse.one(
                "SELECT string_agg(DISTINCT time::text, ',') AS t FROM measurement WHERE sequence = 1")
                == "2023-11-14 22:13:20+00")
        #expect(try await warehouse.one("SELECT numbers::text AS n FROM deduplication") == "{[1,7)}")
    }

    @Test func repetitionsInTheLogAreStoredOnce() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog()
        await log.append(entry("{\"n\":1}", "{\"n\":2}"))
        await log.append(entry("{\"n\":1}", "{\"n\":2}"), entry(first: 2, "{\"n\":2}", "{\"n\":3}"))
        try await warehouse.drain(log)
        await log.append(entry("{\"n\":1}", "{\"n\":2}"), entry(first: 4, "{\"n\":4}"))
        let status = try await warehouse.drain(log)
        #expect(status.state.duplicates == 2)
        #expect(
            try await warehouse.one("SELECT string_agg(value::text, ' ' ORDER BY sequence) AS v FROM measurement")
                == "1 2 3 4")
        #expect(try await warehouse.one("SELECT numbers::text AS n FROM deduplication") == "{[1,5)}")
    }

    @Test func epochsAndDevicesAreCountedApart() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog()
        await log.append(
            entry(of: "a", first: 1, "1"), entry(of: "b", first: 2, number: 1, "2"),
            entry(of: "a", epoch: Epoch(high: 2, low: 0), first: 1, "3"), entry(of: "\u{E4}", first: 9, number: 1, "4"),
            entry(of: "a\u{308}", first: 10, number: 1, "5"))
        try await warehouse.drain(log)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM measurement") == "5")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM device") == "4", "equal to Swift, not to PostgreSQL")
        #expect(
            try await warehouse.lines("SELECT epoch::text AS e FROM source ORDER BY 1") == [
                "00000000-0000-0001-0000-000000000001", "00000000-0000-0002-0000-000000000000",
            ])
    }

    @Test func ledgerLinesAndMessagesShareTheNumbers() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        func line(_ sequences: ClosedRange<UInt64>, _ numbers: ClosedRange<UInt64>) -> LogEntry {
            .ledger(
                gateway: "g1",
                LedgerLine(
                    epoch: epochOne, device: "d1", sequences: sequences, numbers: numbers, reason: .expiredByAge))
        }
        await log.append(
            entry(first: 1, number: 1, "1", "2"), line(2...9, 2...5), entry(first: 8, number: 4, "x"),
            .account(gateway: "g1", EpochAccount(epoch: epochOne, lastSequence: 9, isClosed: false)),
            .account(gateway: "g1", EpochAccount(epoch: epochOne, lastSequence: 7, isClosed: true)))
        let status = try await warehouse.drain(log)
        #expect(status.state.duplicates == 2)
        #expect(
            try await warehouse.lines("SELECT concat_ws(' ', sequences, numbers, reason) AS l FROM ledger") == [
                "[2,10) [3,6) 2"
            ])
        #expect(
            try await warehouse.one("SELECT concat_ws(' ', last_sequence, closed) AS a FROM gateway_epoch") == "9 t")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM measurement") == "2")
    }

    @Test func whatWasAggregatedNamesItsAggregate() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let aggregate = AggregateReference(epoch: Epoch(high: 7, low: 8), sequences: 30...31)
        await log.append(
            .ledger(
                gateway: "g1",
                LedgerLine(
                    epoch: epochOne, device: "d1", sequences: 1...9, numbers: 1...4, reason: .aggregated,
                    aggregate: aggregate)))
        let status = try await warehouse.drain(log)
        #expect(status.state.stopped.isEmpty)
        #expect(
            try await warehouse.lines(
                "SELECT concat_ws(' ', numbers, reason, aggregate_epoch, aggregates) AS l FROM ledger")
                == ["[1,5) 5 00000000-0000-0007-0000-000000000008 [30,32)"])
    }

    /// A gateway may say anything with its own certificate; the processor of all the others must stand it.
    @Test func ledgerLinesOverAllNumbersStopNobody() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let all = UInt64(1)...UInt64(Int64.max - 1)
        for device in ["x1", "x2", "x3"] {
            await log.append(
                .ledger(
                    gateway: "g1",
                    LedgerLine(epoch: epochOne, device: device, sequences: all, numbers: all, reason: .damaged)))
        }
        await log.append(entry(first: 1, number: 1, "1"))
        let status = try await warehouse.drain(log)
        #expect(status.state.stopped.isEmpty)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM measurement") == "1")
    }

    @Test func timesOutsideTheWindowAreStoredAtTheirArrival() async throws {
        let warehouse = try await Warehouse()
        let now: Int64 = 1_700_000_000_000_000
        let log = MemoryLog(now: now)
        let hour: Int64 = 3_600_000_000
        await log.append(
            entry(first: 1, at: now - 48 * hour, "1"), entry(first: 2, at: now - 49 * hour - 1, "2"),
            entry(first: 3, at: now + hour, "3"), entry(first: 4, at: now + hour + 1, "4"),
            entry(first: 5, at: .min, "5"), entry(first: 6, at: .max, "6"),
            entry(first: 7, #"{"ts":1699999999,"v":7}"#), entry(first: 8, #"{"ts":"1971-01-01T00:00:00Z","v":8}"#),
            entry(first: 9, #"{"ts":"soon","v":9}"#), entry(first: 10, #"{"ts":1699999998500}"#))
        try await warehouse.drain(log) {
            $0.hotDays = 2
            $0.timeField = "ts"
        }
        let rows = try await warehouse.lines(
            """
            SELECT concat_ws(' ', sequence, extract(epoch FROM time)::bigint - 1700000000, extract(epoch FROM device_time)::bigint, flags) AS l
            FROM (SELECT sequence, time, device_time, flags FROM measurement
                  UNION SELECT sequence, time, device_time, flags FROM event) r ORDER BY sequence
            """)
        #expect(
            rows == [
                "1 -172800 0", "2 0 1699823600 1", "3 3600 0", "4 0 1700003600 1", "5 0 1", "6 0 1", "7 -1 2",
                "8 0 31536000 3", "9 0 4", "10 -1 2",
            ])
        #expect(try await warehouse.dayOfTable(holding: 1) == "20231112")
    }

    @Test func limitsTurnMessagesIntoEvents() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog()
        let long = String(repeating: "k", count: 600)
        await log.append(
            entry(
                #"{"a":1,"b":2,"c":3}"#, #"{"a":4,"d":5}"#, #"{"a":6,"b":7}"#, #"{"c":1,"e":2}"#, #"{"x":[]}"#,
                "{\"\(long)\":1}", #"{"p":1,"q":2,"r":3,"s":4}"#),
            entry(of: "other", first: 20, number: 1, topic: String(repeating: "t", count: 2_000), "1"))
        try await warehouse.drain(log) {
            $0.metricsPerDevice = 4
            $0.metricsPerMessage = 3
        }
        #expect(
            try await warehouse.lines(
                "SELECT concat_ws(' ', sequence, kind) AS l FROM event ORDER BY sequence")
                == ["4 4", "5 1", "6 8", "7 3", "20 8"])
        #expect(try await warehouse.one("SELECT count(*) AS n FROM metric") == "4")
        // The limit holds for a processor that starts anew, too.
        await log.append(entry(first: 8, #"{"z":1}"#, #"{"d":1}"#))
        try await warehouse.drain(log) { $0.metricsPerDevice = 4 }
        #expect(
            try await warehouse.one("SELECT string_agg(DISTINCT path, '' ORDER BY path) AS p FROM metric") == "abcd")
        #expect(try await warehouse.one("SELECT kind AS k FROM event WHERE sequence = 8") == "4")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM measurement WHERE sequence = 9") == "1")
    }

    @Test func hostilePayloadsAreKeptByTheirBytes() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog()
        let payloads: [[UInt8]] = [
            [], [0], [0xFF, 0xFE], Array(#"{"a":"\u0000"}"#.utf8), Array(#"{"a":"\ud800"}"#.utf8),
            Array("[1e999999]".utf8), Array(String(repeating: "[", count: 200_000).utf8), Array(#"{"a":1,"a":1}"#.utf8),
            Array("1e999999999999999999999".utf8), Array(("{\"v\":" + String(repeating: "9", count: 5_000) + "}").utf8),
            Array("[\(String(repeating: "7", count: 900)).5e-900]".utf8),
        ]
        await log.append([entry(bytes: payloads)])
        let status = try await warehouse.drain(log)
        #expect(status.state.stopped.isEmpty)
        #expect(
            try await warehouse.lines(
                "SELECT concat_ws(' ', sequence, kind, length(bytes)) AS l FROM event ORDER BY sequence")
                == ["1 2 0", "2 2 1", "3 2 2", "4 7 14", "5 7 14", "6 7 10", "7 5 200000", "8 6 13", "11 1"])
        #expect(
            try await warehouse.lines(
                "SELECT concat_ws(' ', sequence, length(text), value IS NULL) AS l FROM measurement ORDER BY sequence")
                == ["9 23 t", "10 5000 t"])
    }

    @Test func aMessageThatPostgreSQLRefusesIsFoundAndKept() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run("ALTER TABLE measurement ADD CHECK (value IS DISTINCT FROM 666)")
        let log = MemoryLog()
        let payloads = (1...100).map { $0 == 37 || $0 == 80 ? "{\"n\":666,\"m\":1}" : "{\"n\":\($0)}" }
        await log.append(payloads.enumerated().map { entry(first: UInt64($0 + 1), $1) })
        await log.append(entry(of: "d2", first: 500, number: 1, "1"))
        let status = try await warehouse.drain(log)
        #expect(status.state.messages == 101)
        #expect(
            try await warehouse.lines(
                "SELECT concat_ws(' ', sequence, kind, convert_from(bytes, 'UTF8'), parts, reason LIKE '%23514%') AS l FROM event ORDER BY 1"
            )
                == [#"37 9 {"n":666,"m":1} 1 t"#, #"80 9 {"n":666,"m":1} 1 t"#])
        #expect(try await warehouse.one("SELECT count(*) AS n FROM measurement") == "99")
    }

    @Test func rowsThatAreRefusedEvenAsEventsStopThePartition() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            "ALTER TABLE measurement ADD CHECK (value < 5); ALTER TABLE event ADD CHECK (kind <> 9)")
        let log = MemoryLog(partitions: 1)
        await log.append(entry("4", "6"))
        let status = ProcessorStatus()
        #expect(try await warehouse.process(log, status: status) { !$0.state.stopped.isEmpty })
        #expect(status.problems.joined().contains("did not help"))
        #expect(try await warehouse.one("SELECT count(*) AS n FROM measurement") == "0")
        #expect(try await warehouse.one("SELECT next_offset AS n FROM ingest_offset") == "0")
    }

    @Test func recordsThatCannotBeDecodedAreKept() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append([LogRecord(key: "d1", value: ByteBuffer(bytes: [0xFF, 0, 1]))])
        await log.append(entry("1"))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.one(
                "SELECT concat_ws(' ', partition, log_offset, encode(value, 'hex'), reason <> '') AS l FROM rejected_record"
            )
                == "0 0 ff0001 t")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM measurement") == "1")
    }

    @Test func aDeviceDeletedMeanwhileIsANewGeneration() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(entry(first: 1, "1"))
        let status = ProcessorStatus()
        let connection = warehouse.connection
        let isDone = try await warehouse.process(log, status: status) { status in
            switch status.state.messages {
            case 1:
                try await connection.run("UPDATE device SET deleted_at = now() WHERE deleted_at IS NULL")
                await log.append(entry(first: 2, "2"), entry(first: 1, "1"))
                return try await wait { status.state.messages == 2 }
            default: return false
            }
        }
        #expect(isDone)
        #expect(
            try await warehouse.lines(
                "SELECT concat_ws(' ', e.value, d.generation) AS l FROM measurement e JOIN device d ON d.id = e.device_id ORDER BY 1"
            )
                == ["1 1", "2 2"])
    }
}
