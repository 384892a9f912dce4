import EventLog
import Foundation
import NIOConcurrencyHelpers
import NIOCore
import Testing

@Suite struct EmbeddedRetentionTests {
    private struct Time: Sendable {
        let wall = NIOLockedValueBox<Int64>(1_700_000_000_000_000)
        let monotonic = NIOLockedValueBox<Int64>(5_000_000)

        var clock: EventLogClock {
            EventLogClock(wall: { wall.withLockedValue { $0 } }, monotonic: { monotonic.withLockedValue { $0 } })
        }

        func advance(hours: Int64) {
            wall.withLockedValue { $0 += hours * 3_600_000_000 }
            monotonic.withLockedValue { $0 += hours * 3_600_000_000 }
        }
    }

    private func open(_ path: String, _ time: Time) throws -> EmbeddedEventLog {
        var options = EmbeddedEventLog.Options()
        options.partitions = 2
        options.retentionInterval = .milliseconds(20)
        options.clock = time.clock
        return try EmbeddedEventLog.open(path: path, options: options, logger: quietLogger)
    }

    private func eventually(_ condition: () async throws -> Bool) async throws -> Bool {
        for _ in 0..<250 {
            if try await condition() { return true }
            try await Task.sleep(for: .milliseconds(20))
        }
        return false
    }

    /// 40 appends of one segment each.
    private func fill(_ log: EmbeddedEventLog, _ value: ByteBuffer) async throws {
        for _ in 0..<40 { try await log.append([LogRecord(key: "one", value: value)]) }
    }

    /// Who looks into a log that a cloud is to go on with.
    @Test func withoutRetentionNothingGoes() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let time = Time()
        let log = try open(path, time)
        try await fill(log, ByteBuffer(repeating: 3, count: 600_000))
        await log.close()
        time.advance(hours: 1_000)
        var options = EmbeddedEventLog.Options()
        options.partitions = 2
        options.retention = nil
        options.retentionInterval = .milliseconds(5)
        options.clock = time.clock
        let looking = try EmbeddedEventLog.open(path: path, options: options, logger: quietLogger)
        try await Task.sleep(for: .milliseconds(200))
        let partition = Int(Murmur2.partition(of: "one", partitions: 2))
        #expect(try await looking.bounds()[partition].first == 0)
        await looking.close()
    }

    @Test func onlyWhatIsOldEnoughGoesAndItsSpaceIsUsedAgain() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let time = Time()
        let log = try open(path, time)
        let partition = Int(Murmur2.partition(of: "one", partitions: 2))
        let value = ByteBuffer(repeating: 3, count: 600_000)
        try await fill(log, value)
        time.advance(hours: 71)
        try await fill(log, value)
        try await Task.sleep(for: .milliseconds(100))
        #expect(try await log.bounds()[partition] == PartitionBounds(partition: Int32(partition), first: 0, next: 80))

        time.advance(hours: 2)
        #expect(try await eventually { try await log.bounds()[partition].first == 40 })
        #expect(try await log.bounds()[partition].next == 80)
        await log.close()
        let size = try #require(try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int)

        let again = try open(path, time)
        try await fill(again, value)
        #expect(try await again.bounds()[partition].next == 120)
        await again.close()
        let later = try #require(try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int)
        #expect(later <= size + 1_000_000)
    }

    @Test func aReaderThatWasTooSlowIsTold() async throws {
        let folder = try TemporaryFolder()
        let time = Time()
        let log = try open(folder.file("events.db"), time)
        let partition = Murmur2.partition(of: "one", partitions: 2)
        try await fill(log, ByteBuffer(repeating: 3, count: 600_000))
        let reader = try await log.makeReader(group: "g", member: "m")
        #expect(try await collect(reader, 2, maximumRecords: 1).map(\.offset) == [0, 1])
        time.advance(hours: 80)
        #expect(try await eventually { try await log.bounds()[Int(partition)].first == 39 })
        let error = await eventLogError { _ = try await collect(reader, 3) }
        #expect(error == .outOfRange(partition: partition, offset: 2, first: 39, next: 40))
        // Told where to go on, it does.
        try await reader.seek(partition: partition, to: 39)
        #expect(try await collect(reader, 1).map(\.offset) == [39])
        await reader.close()
        await log.close()
    }

    @Test func aClockThatJumpsAheadDeletesNothing() async throws {
        let folder = try TemporaryFolder()
        let time = Time()
        let log = try open(folder.file("events.db"), time)
        try await fill(log, ByteBuffer(repeating: 3, count: 1000))
        time.wall.withLockedValue { $0 += 1_000_000_000_000 }
        try await log.append([record("one", "later")])
        try await Task.sleep(for: .milliseconds(150))
        #expect(try await log.bounds().allSatisfy { $0.first == 0 })
        // Set back again, append times do not go back.
        time.wall.withLockedValue { $0 -= 1_000_000_000_000 }
        try await log.append([record("one", "back")])
        let reader = try await log.makeReader(group: "g", member: "m")
        let times = try await collect(reader, 42).map(\.appendTime)
        #expect(times == times.sorted())
        await reader.close()
        await log.close()
    }
}
