import EventLog
import SyncModel
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
