import Database
import EventLog
import Foundation
import Logging
import NIOCore
import Operations
import SyncModel
import TestSupport
import Testing

@testable import Processor

/// From a row to the trace of its message and back.
@Suite struct TraceTests {
    private static let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    private func property(_ name: String, _ value: String) -> ByteBuffer {
        var buffer = ByteBuffer(bytes: [0x26])
        for text in [name, value] {
            buffer.writeInteger(UInt16(text.utf8.count))
            buffer.writeString(text)
        }
        return buffer
    }

    @Test(arguments: [Epoch(high: 1, low: 1), Epoch(high: 0x8123_4567_89AB_CDEF, low: 0x0000_0000_0000_00F0)])
    func aRowTellsItsTrace(epoch: Epoch) async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog()
        guard case .messages(var messages) = entry(epoch: epoch, first: 5, number: 1, "1", "2", "nonsense") else {
            return
        }
        messages.messages[1].properties = property("traceparent", Self.own)
        messages.messages[2].properties = property("traceparent", "no context")
        await log.append(.messages(messages))
        // A repeat changes nothing.
        await log.append(.messages(messages))
        try await warehouse.drain(log)
        for (index, message) in messages.messages.enumerated() {
            let expected = message.traceparent(epoch: epoch)
            let table = index == 2 ? "event" : "measurement"
            let found = try await warehouse.lines(
                """
                SELECT traceparent(source, sequence) AS a, trace_id(source, sequence) AS b FROM \(table)
                WHERE sequence = \(message.sequence)
                """)
            let id = expected.dropFirst(3).prefix(32)
            #expect(found == ["\(expected)|\(id)"] || found == ["\(id)|\(expected)"], "\(found)")
            #expect(
                try await warehouse.one("SELECT sequence FROM messages_of_trace('\(id)')") == "\(message.sequence)")
        }
        #expect(try await warehouse.one("SELECT count(*) FROM message_trace") == "1")
        #expect(messages.messages[1].traceparent(epoch: epoch) == Self.own)
        #expect(try await warehouse.one("SELECT count(*) FROM messages_of_trace(repeat('ab', 16))") == "0")
    }

    @Test func theLogNamesTheTraceOfWhatPostgreSQLRefuses() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run("ALTER TABLE measurement ADD CHECK (value < 2)")
        let log = MemoryLog()
        guard case .messages(var messages) = entry("1", "2", "3") else { return }
        messages.messages[2].properties = property("traceparent", Self.own)
        await log.append(.messages(messages))
        let lines = LogLines()
        let isStored = try await warehouse.process(log, logger: lines.logger) { $0.state.messages == 3 }
        #expect(isStored)
        let refusals = lines.all.filter { $0.contains("PostgreSQL refuses a message") }
        #expect(refusals.count == 2)
        #expect(refusals.first?.contains(messages.messages[1].traceparent(epoch: epochOne)) == true, "\(refusals)")
        #expect(refusals.last?.contains(Self.own) == true, "\(refusals)")
    }

    @Test func contextsGoWithTheirRows() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            """
            INSERT INTO message_trace SELECT 1, n, gen_random_uuid(), 'x', now() - n * interval '1 day'
            FROM generate_series(1, 100) n
            """)
        #expect(try await warehouse.one("SELECT forget_traces(interval '90 days', 4)") == "4")
        #expect(try await warehouse.one("SELECT forget_traces(interval '90 days', 1000)") == "7")
        #expect(try await warehouse.one("SELECT count(*) FROM message_trace") == "89")
    }
}

/// What the processor tells of how long messages take.
@Suite struct ProcessorLevelTests {
    @Test func liveMessagesAreMeasuredFromTheLogToTheCommitAndBacklogIsNot() throws {
        let registry = MetricRegistry()
        let metrics = ProcessorMetrics(registry)
        let now: Int64 = 1_700_000_000_000_000
        var batch = PreparedBatch()
        for (lane, age) in [(Lane.live, Int64(3)), (.live, 11), (.backlog, 500)] {
            guard case .messages(var messages) = entry("1", "2") else { continue }
            messages.lane = lane
            batch.items.append(
                .messages(
                    key: 0, messages, device: 1, first: 0, appendTime: now - age * 1_000_000, partition: 0))
        }
        batch.newest = ["g1": now - 42_000_000]
        metrics.stored(batch, at: now)
        let text = registry.text()
        #expect(text.contains(#"sluice_processor_end_to_end_seconds_bucket{le="2.5"} 0"#))
        #expect(text.contains(#"sluice_processor_end_to_end_seconds_bucket{le="10"} 2"#))
        #expect(text.contains("sluice_processor_end_to_end_seconds_count 4"))
        #expect(text.contains("sluice_processor_end_to_end_seconds_sum 28"))
    }

    @Test func theAgeOfTheNewestMessageGrowsWhileAGatewayIsSilent() {
        var newest = NewestByGateway(maximum: 2)
        newest.note("a", 10_000_000)
        newest.note("a", 5_000_000)
        newest.note("b", 20_000_000)
        #expect(newest.ages(at: 30_000_000).map(\.seconds) == [20, 10])
        #expect(newest.ages(at: 90_000_000).map(\.seconds) == [80, 70])
        newest.note("c", 30_000_000)
        #expect(newest.ages(at: 30_000_000).map(\.gateway) == ["b", "c"], "the one silent for longest makes room")
        newest.note("d", 1)
        #expect(newest.ages(at: 30_000_000).map(\.gateway) == ["b", "c"])
        #expect(newest.ages(at: 30_000_000 + NewestByGateway.maximumAge).map(\.gateway) == ["c"])
    }

    @Test func whatTheDatabaseKnowsOfSilentGatewaysFillsGaps() {
        var newest = NewestByGateway(maximum: 2)
        newest.note("a", 10_000_000)
        newest.recall([("a", 29_000_000), ("b", 20_000_000)])
        #expect(newest.ages(at: 30_000_000).map(\.gateway) == ["a", "b"])
        #expect(newest.ages(at: 30_000_000).map(\.seconds) == [20, 10], "what was stored here is known better")
        newest.note("b", 5_000_000)
        #expect(newest.ages(at: 30_000_000).map(\.seconds) == [20, 25])
        newest.recall([("c", 1), ("d", 2), ("e", 3)])
        #expect(newest.ages(at: 30_000_000).map(\.gateway) == ["a", "b", "c", "d"])
        // Whom others hear again is not silent.
        newest.recall([])
        #expect(newest.ages(at: 30_000_000).map(\.gateway) == ["a", "b"])
    }

    /// A processor that is started, or gets another's partitions, has stored nothing of it.
    @Test func aGatewayThatIsSilentSinceBeforeTheStartHasAnAge() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            """
            INSERT INTO gateway (name) SELECT 'g' || n FROM generate_series(1, 3) n;
            INSERT INTO source (gateway_id, epoch) SELECT id, gen_random_uuid() FROM gateway, generate_series(1, 2);
            INSERT INTO gateway_epoch (source, last_sequence, updated_at)
            SELECT s.id, 1, now() - interval '7 days' FROM source s;
            UPDATE gateway_epoch SET updated_at = now() - interval '20 minutes'
            WHERE source = (SELECT max(s.id) FROM source s JOIN gateway g ON g.id = s.gateway_id WHERE g.name = 'g1');
            UPDATE gateway_epoch SET updated_at = now() - interval '5 minutes'
            WHERE source = (SELECT max(s.id) FROM source s JOIN gateway g ON g.id = s.gateway_id WHERE g.name = 'g2');
            UPDATE gateway_epoch e SET updated_at = now() - interval '31 days'
            FROM source s JOIN gateway g ON g.id = s.gateway_id WHERE s.id = e.source AND g.name = 'g3'
            """)
        let registry = MetricRegistry()
        let processor = Processor(
            configuration: warehouse.configuration { $0.silenceInterval = .milliseconds(20) }, log: MemoryLog(),
            status: ProcessorStatus(), logger: LogLines().logger, registry: registry)
        let running = Task { await processor.run() }
        func age(_ gateway: String) -> Double? {
            let start = "sluice_processor_newest_row_age_seconds{gateway=\"\(gateway)\"} "
            return registry.text().split(separator: "\n").first { $0.hasPrefix(start) }
                .flatMap { Double($0.dropFirst(start.count)) }
        }
        #expect(try await wait { age("g1") != nil })
        #expect(age("g1").map { 1_200..<1_300 ~= $0 } == true, "\(age("g1") ?? 0)")
        #expect(age("g2") == nil, "not silent for long enough")
        #expect(age("g3") == nil, "it was taken away")
        running.cancel()
        await running.value
    }

    @Test func aGatewayIsListedWhenItsRowsAreStored() async throws {
        let warehouse = try await Warehouse()
        // What is older than a month is a gateway that was taken away.
        let now = SystemClock.wallMicroseconds()
        let log = MemoryLog(now: now)
        await log.append(entry(at: now, "1"))
        let registry = MetricRegistry()
        let status = ProcessorStatus()
        let processor = Processor(
            configuration: warehouse.configuration(), log: log, status: status,
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, registry: registry)
        let running = Task { await processor.run() }
        #expect(try await wait { registry.text().contains(#"newest_row_age_seconds{gateway="g1"}"#) })
        running.cancel()
        await running.value
    }
}
