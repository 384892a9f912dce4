import CSQLite
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

        static let hour: Int64 = 3_600_000_000

        func advance(hours: Int64) {
            wall.withLockedValue { $0 += hours * Self.hour }
            monotonic.withLockedValue { $0 += hours * Self.hour }
        }

        /// As of the machine: the monotonic clock begins anew.
        func restart(wallStep hours: Int64) {
            wall.withLockedValue { $0 += hours * Self.hour }
            monotonic.withLockedValue { $0 = 5_000_000 }
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

    /// Appends of one segment each.
    private func fill(_ log: EmbeddedEventLog, _ value: ByteBuffer, _ count: Int = 40) async throws {
        for _ in 0..<count { try await log.append([LogRecord(key: "one", value: value)]) }
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

    private func first(_ log: EmbeddedEventLog) async throws -> Int64 {
        try await log.bounds()[Int(Murmur2.partition(of: "one", partitions: 2))].first
    }

    /// Time for retention to run some times, and to delete what it may.
    private func stays(_ log: EmbeddedEventLog) async throws -> Bool {
        try await Task.sleep(for: .milliseconds(150))
        return try await first(log) == 0
    }

    private let large = ByteBuffer(repeating: 3, count: 600_000)

    @Test func aClockThatJumpsAheadDeletesNothing() async throws {
        let folder = try TemporaryFolder()
        let time = Time()
        let log = try open(folder.file("events.db"), time)
        try await fill(log, ByteBuffer(repeating: 3, count: 1000))
        time.wall.withLockedValue { $0 += 1_000_000_000_000 }
        try await log.append([record("one", "later")])
        #expect(try await stays(log))
        await log.close()
    }

    @Test func aStartWithAClockFarAheadDeletesNothing() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let time = Time()
        let log = try open(path, time)
        try await fill(log, large)
        await log.close()
        time.restart(wallStep: 30 * 24)
        let ahead = try open(path, time)
        #expect(try await stays(ahead))
        try await fill(ahead, large)
        await ahead.close()
        time.restart(wallStep: -30 * 24)
        let right = try open(path, time)
        #expect(try await stays(right))
        await right.close()
    }

    /// A machine without a clock of its own that runs on starts in the past.
    @Test func aClockThatWasBehindAndIsCorrectedDeletesNothing() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let time = Time()
        time.wall.withLockedValue { $0 -= 5 * 24 * Time.hour }
        let log = try open(path, time)
        try await fill(log, large)
        time.wall.withLockedValue { $0 += 5 * 24 * Time.hour }
        #expect(try await stays(log))
        await log.close()
        time.restart(wallStep: 0)
        let again = try open(path, time)
        #expect(try await stays(again))
        await again.close()
    }

    @Test(arguments: [30 * 24, -30 * 24, 0])
    func aStepOfTheClockKeepsNothingForEver(hours: Int64) async throws {
        let folder = try TemporaryFolder()
        let time = Time()
        let log = try open(folder.file("events.db"), time)
        time.wall.withLockedValue { $0 += hours * Time.hour }
        try await log.append([record("one", "under the wrong clock")])
        time.wall.withLockedValue { $0 -= hours * Time.hour }
        try await fill(log, large)
        time.advance(hours: 71)
        #expect(try await stays(log))
        time.advance(hours: 2)
        #expect(try await eventually { try await first(log) == 40 })
        await log.close()
    }

    @Test func ageCountsOverRestartsAndNotBetweenThem() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let time = Time()
        let log = try open(path, time)
        try await fill(log, large)
        time.advance(hours: 40)
        await log.close()
        // Off for a year.
        time.restart(wallStep: 365 * 24)
        let second = try open(path, time)
        time.advance(hours: 31)
        #expect(try await stays(second))
        try await second.append([record("one", "of the second run")])
        time.advance(hours: 2)
        #expect(try await eventually { try await first(second) == 40 })
        await second.close()
        time.restart(wallStep: 0)
        let third = try open(path, time)
        try await third.append([record("one", "of the third run")])
        time.advance(hours: 71)
        #expect(try await eventually { try await first(third) == 41 })
        await third.close()
    }

    /// What a process that is killed leaves: age goes on from its newest commit.
    @Test func ageCountsOverCrashes() async throws {
        let folder = try TemporaryFolder()
        let time = Time()
        var path = folder.file("events-0.db")
        for run in 1...8 {
            let log = try open(path, time)
            try await fill(log, ByteBuffer(repeating: 3, count: 1000), 4)
            #expect(try await first(log) == 0, "run \(run)")
            time.advance(hours: 10)
            try await log.append([record("one", "the newest of run \(run)")])
            let left = folder.file("events-\(run).db")
            for suffix in ["", "-wal"] {
                try FileManager.default.copyItem(atPath: path + suffix, toPath: left + suffix)
            }
            await log.close()
            path = left
            time.restart(wallStep: 0)
        }
        // The first run's are 80 hours old, those of its end 70.
        let log = try open(path, time)
        #expect(try await eventually { try await first(log) == 4 })
        try await Task.sleep(for: .milliseconds(100))
        #expect(try await first(log) == 4)
        await log.close()
    }

    /// Up to a release, segments had their append time alone.
    @Test func aFileOfAnEarlierProgramAgesFromItsFirstOpening() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let time = Time()
        let log = try open(path, time)
        try await fill(log, large)
        time.advance(hours: 70)
        await log.close()
        try forgetAges(path)
        time.restart(wallStep: 24)
        let new = try open(path, time)
        #expect(try await stays(new))
        try await new.append([record("one", "of the new program")])
        time.advance(hours: 71)
        #expect(try await stays(new))
        time.advance(hours: 2)
        try await new.append([record("one", "newest")])
        #expect(try await eventually { try await first(new) == 41 })
        let reader = try await new.makeReader(group: "g", member: "m")
        let partition = Murmur2.partition(of: "one", partitions: 2)
        #expect(try await collect(reader, 1, from: [partition: 41]).map(\.text) == ["newest"])
        await reader.close()
        await new.close()
    }

    private func forgetAges(_ path: String) throws {
        var handle: OpaquePointer?
        #expect(sqlite3_open(path, &handle) == SQLITE_OK)
        #expect(sqlite3_exec(handle, "DROP TABLE IF EXISTS age", nil, nil, nil) == SQLITE_OK)
        sqlite3_close_v2(handle)
    }

    /// Small corrections keep the order, and a wrong step goes with its correction.
    @Test func appendTimesFollowAClockThatIsSetBack() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let time = Time()
        let right = time.wall.withLockedValue { $0 }
        let log = try open(path, time)
        for (wall, text) in [
            (right, "right"), (right - 20_000_000, "a little back"), (right + 300 * Time.hour, "ahead"),
        ] {
            time.wall.withLockedValue { $0 = wall }
            try await log.append([record("one", text)])
        }
        await log.close()
        time.wall.withLockedValue { $0 = right + Time.hour }
        let again = try open(path, time)
        try await again.append([record("one", "corrected")])
        let reader = try await again.makeReader(group: "g", member: "m")
        let times = try await collect(reader, 4).map(\.appendTime)
        #expect(times == [right, right, right + 300 * Time.hour, right + Time.hour])
        await reader.close()
        await again.close()
    }
}
