import EventLog
import Operations
import SyncModel
import TestSupport
import Testing

@testable import Processor

@Suite struct GroupTests {
    /// A device moves to a partition that is read first while what it sent before still waits in the old one: the numbers
    /// arrive out of order, and each message is stored once all the same.
    @Test func aDeviceThatMovesToANewPartitionIsStoredOnce() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 2)
        let device = try #require(
            (0..<1_000).map { "d\($0)" }.first { name in
                // Of the key, which MemoryLog adds up.
                let sum = entry(of: name, first: 1, "").routingKey.utf8.reduce(0) { $0 + Int($1) }
                return sum % 2 == 1 && sum % 5 == 0
            })
        func entries(_ range: ClosedRange<Int>) -> [LogEntry] {
            range.map { entry(of: device, first: UInt64($0), "{\"n\":\($0)}") }
        }
        await log.append(entries(1...100))
        try await warehouse.drain(log)
        await log.append(entries(101...300))
        await log.grow(to: 5)
        await log.append(entries(301...400))
        // A sender that was not answered sends again, and the partition is another one by then.
        await log.append(entries(250...320))
        let bounds = await log.bounds()
        #expect(bounds.map(\.next) == [171, 300, 0, 0, 0])
        let status = try await warehouse.drain(log) { $0.maximumRecords = 50 }
        #expect(status.state.duplicates == 71)
        #expect(
            try await warehouse.one(
                "SELECT concat_ws(' ', count(*), count(DISTINCT value), min(value), max(value)) AS l FROM measurement")
                == "400 400 1 400")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM ingest_offset") == "5")
    }

    @Test func partitionsAreAddedWhileItRuns() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 2)
        @Sendable func entries(_ range: ClosedRange<Int>) -> [LogEntry] {
            range.map {
                entry(of: "d\($0 % 20)", first: UInt64($0), number: UInt64(($0 - 1) / 20 + 1), "{\"n\":\($0)}")
            }
        }
        await log.append(entries(1...2_000))
        let configuration = warehouse.configuration { $0.maximumRecords = 40 }
        let isStored = try await warehouse.process(log, configuration) { status in
            if status.state.messages > 200, await log.partitionCount() == 2 {
                await log.grow(to: 7)
                await log.append(entries(2_001...4_000))
            }
            return status.state.messages >= 4_000
        }
        #expect(isStored)
        #expect(
            try await warehouse.one("SELECT concat_ws(' ', count(*), count(DISTINCT value)) AS l FROM measurement")
                == "4000 4000")
        #expect(Int(try await warehouse.one("SELECT count(*) AS n FROM ingest_offset WHERE next_offset > 0"))! >= 5)
    }

    // MARK: Lag

    @Test func aPartitionThatIsTakenAwayHasNoLagHere() {
        let registry = MetricRegistry()
        var group = GroupWatch(registry)
        group.measure(3, waiting: 9, now: 100 * Self.second)
        group.measure(4, waiting: 2, now: 100 * Self.second)
        group.measure(3, waiting: 9, now: 107 * Self.second)
        #expect(registry.text().contains("sluice_processor_lag_records{partition=\"3\"} 9\n"))
        #expect(registry.text().contains("sluice_processor_lag_seconds{partition=\"3\"} 7\n"))
        group.forget(3)
        #expect(!registry.text().contains("{partition=\"3\"}"))
        #expect(registry.text().contains("sluice_processor_lag_records{partition=\"4\"} 2\n"))
    }

    /// What comes to it waits until an operator has looked.
    @Test func aStoppedPartitionsLagGrows() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(entry(first: 1, "1"))
        try await warehouse.drain(log)
        for number: UInt64 in [10, 20, 30] { await log.append(entry(first: number, "1")) }
        let registry = MetricRegistry()
        let status = ProcessorStatus()
        let configuration = warehouse.configuration {
            $0.maximumRanges = 2
            $0.maximumRecords = 1
            $0.maintenanceInterval = .milliseconds(20)
        }
        let processor = Processor(
            configuration: configuration, log: log, status: status, logger: LogLines().logger, registry: registry)
        let running = Task { await processor.run() }
        #expect(try await wait { !status.state.stopped.isEmpty })
        let waiting = 4 - (status.state.offsets[0] ?? 0)
        await log.append(entry(first: 40, "1"), entry(first: 50, "1"))
        let text = "sluice_processor_lag_records{partition=\"0\"} \(waiting + 2)\n"
        #expect(try await wait { registry.text().contains(text) }, "\(text)")
        running.cancel()
        await running.value
    }

    @Test func lagGoesWithThePartitionToAnotherProcessor() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 2)
        let configuration = warehouse.configuration { $0.maintenanceInterval = .milliseconds(20) }
        func start(_ registry: MetricRegistry) -> Task<Void, Never> {
            let processor = Processor(
                configuration: configuration, log: log, status: ProcessorStatus(), logger: LogLines().logger,
                registry: registry)
            return Task { await processor.run() }
        }
        let (first, second) = (MetricRegistry(), MetricRegistry())
        let running = start(first)
        #expect(try await wait { first.text().contains("sluice_processor_lag_seconds{partition=\"1\"}") })
        let other = start(second)
        #expect(try await wait { second.text().contains("sluice_processor_lag_seconds{partition=\"1\"}") })
        #expect(try await wait { !first.text().contains("sluice_processor_lag_seconds{") })
        #expect(!first.text().contains("sluice_processor_lag_records{"))
        for task in [running, other] {
            task.cancel()
            await task.value
        }
    }

    private static let second: Int64 = 1_000_000

    @Test func nothingThatWaitsIsNoLag() {
        var lag = PartitionLag()
        #expect(lag.seconds(waiting: 0, now: 50 * Self.second) == 0)
        // Of what came later, the oldest may be as old as that moment.
        #expect(lag.seconds(waiting: 3, now: 57 * Self.second) == 7)
    }

    @Test func theNewestThatIsProcessedBoundsIt() {
        var lag = PartitionLag()
        // Nothing is known at first but how long it was watched.
        #expect(lag.seconds(waiting: 9, now: 100 * Self.second) == 0)
        #expect(lag.seconds(waiting: 9, now: 110 * Self.second) == 10)
        // A backlog of an hour.
        lag.processed(appendTime: -3_500 * Self.second)
        #expect(lag.seconds(waiting: 8, now: 111 * Self.second) == 3_611)
        lag.processed(appendTime: 105 * Self.second)
        #expect(lag.seconds(waiting: 1, now: 112 * Self.second) == 7)
        // A broker whose clock is ahead.
        lag.processed(appendTime: 200 * Self.second)
        #expect(lag.seconds(waiting: 1, now: 113 * Self.second) == 0)
    }
}
