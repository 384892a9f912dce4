import EventLog
import Foundation
import NIOConcurrencyHelpers
import NIOCore
import Testing

@Suite struct EmbeddedLogTests {
    private func options(
        partitions: Int32 = 4, _ change: (inout EmbeddedEventLog.Options) -> Void = { _ in }
    ) -> EmbeddedEventLog.Options {
        var options = EmbeddedEventLog.Options()
        options.partitions = partitions
        change(&options)
        return options
    }

    @Test func onlyOneMayHaveItOpen() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let log = try EmbeddedEventLog.open(path: path, logger: quietLogger)
        let error = await eventLogError { _ = try EmbeddedEventLog.open(path: path, logger: quietLogger) }
        guard case .unavailable(let reason) = error else {
            Issue.record("\(String(describing: error)) instead of a reason")
            return
        }
        #expect(reason.contains("in use by process \(getpid())") && "\(EventLogError.unavailable(reason))" == reason)
        for name in [path, path + "-wal"] {
            let mode = try FileManager.default.attributesOfItem(atPath: name)[.posixPermissions] as? Int
            #expect(mode == 0o600, "devices' payloads are nobody else's: \(name)")
        }
        await log.close()
        let again = try EmbeddedEventLog.open(path: path, logger: quietLogger)
        await again.close()
    }

    @Test func aWrongFileIsRefusedAndLeftAlone() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("text.db")
        let text = Data(String(repeating: "no database, but a text that someone needs. ", count: 40).utf8)
        try text.write(to: URL(fileURLWithPath: path))
        #expect(await eventLogError { _ = try EmbeddedEventLog.open(path: path, logger: quietLogger) } != nil)
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == text)

        let nowhere = folder.file("not/there.db")
        #expect(await eventLogError { _ = try EmbeddedEventLog.open(path: nowhere, logger: quietLogger) } != nil)
    }

    @Test func theNumberOfPartitionsCannotChange() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        await (try EmbeddedEventLog.open(path: path, partitions: 4, logger: quietLogger)).close()
        let error = await eventLogError {
            _ = try EmbeddedEventLog.open(path: path, partitions: 5, logger: quietLogger)
        }
        guard case .other(let reason) = error else {
            Issue.record("\(String(describing: error)) instead of a reason")
            return
        }
        #expect(reason.contains("made with 4 partitions"))
        for count: Int32 in [0, -1, 1025] {
            let error = await eventLogError {
                _ = try EmbeddedEventLog.open(path: path, partitions: count, logger: quietLogger)
            }
            #expect(error != nil)
        }
    }

    @Test func aNewFileIsANewIncarnation() async throws {
        let folder = try TemporaryFolder()
        let first = try EmbeddedEventLog.open(path: folder.file("a.db"), logger: quietLogger)
        let second = try EmbeddedEventLog.open(path: folder.file("b.db"), logger: quietLogger)
        #expect(try await first.incarnation() != second.incarnation())
        #expect(try await first.incarnation().count == 32)
        await first.close()
        await second.close()
    }

    @Test func oneReaderHasAGroup() async throws {
        let folder = try TemporaryFolder()
        let log = try EmbeddedEventLog.open(path: folder.file("events.db"), logger: quietLogger)
        let reader = try await log.makeReader(group: "processor", member: "first")
        let error = await eventLogError { _ = try await log.makeReader(group: "processor", member: "second") }
        guard case .other(let reason) = error else {
            Issue.record("\(String(describing: error)) instead of a reason")
            return
        }
        #expect(reason.contains("read by first already"))
        await reader.close()
        let next = try await log.makeReader(group: "processor", member: "second")
        await next.close()
        await log.close()
    }

    @Test func aPartitionThatWasNotSoughtStaysSilent() async throws {
        let folder = try TemporaryFolder()
        let log = try EmbeddedEventLog.open(path: folder.file("events.db"), options: options(), logger: quietLogger)
        try await log.append((0..<40).map { record("d\($0)", "\($0)") })
        let reader = try await log.makeReader(group: "g", member: "m")
        let assigned = try await reader.next(maximumRecords: 1000, maximumBytes: 1 << 20, timeout: .zero)
        #expect(assigned == .assigned([0, 1, 2, 3]))
        #expect(try await reader.next(maximumRecords: 1000, maximumBytes: 1 << 20, timeout: .zero) == .idle)
        try await reader.seek(partition: 2, to: 0)
        let event = try await reader.next(maximumRecords: 1000, maximumBytes: 1 << 20, timeout: .zero)
        guard case .records(let records) = event else {
            Issue.record("\(event) instead of records")
            return
        }
        #expect(Set(records.map(\.partition)) == [2])
        #expect(Int64(records.count) == (try await log.bounds()[2].next))
        // One that is sought later starts at its own place, and the other does not repeat.
        try await reader.seek(partition: 3, to: 1)
        let rest = try await collect(reader, Int(try await log.bounds()[3].next) - 1)
        #expect(Set(rest.map(\.partition)) == [3])
        #expect(rest.first?.offset == 1)
        #expect(await eventLogError { try await reader.seek(partition: 4, to: 0) } != nil)
        await reader.close()
        await log.close()
    }

    @Test func manySegmentsAreReadFromAnywhere() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let log = try EmbeddedEventLog.open(path: path, options: options(), logger: quietLogger)
        let filling = String(repeating: "x", count: 100_000)
        // Each append is more than half a segment, so each commit adds some.
        for round in 0..<40 { try await log.append((0..<8).map { record("d\($0)", "\(round) \(filling)") }) }
        let partition = Murmur2.partition(of: "d3", partitions: 4)
        let next = try await log.bounds()[Int(partition)].next
        for start in stride(from: Int64(0), to: next, by: 17) {
            let reader = try await log.makeReader(group: "g", member: "m")
            let ends = try await log.bounds()
            var positions = Dictionary(uniqueKeysWithValues: ends.map { ($0.partition, $0.next) })
            positions[partition] = start
            let records = try await collect(reader, Int(next - start), from: positions, maximumBytes: 150_000)
            #expect(records.map(\.offset) == (start..<next).map { $0 })
            await reader.close()
        }
        await log.close()
    }

    @Test func aBusyDiskRefusesInsteadOfGathering() async throws {
        let folder = try TemporaryFolder()
        let log = try EmbeddedEventLog.open(
            path: folder.file("events.db"), options: options { $0.maximumPendingBytes = 1_000_000 }, logger: quietLogger
        )
        let value = ByteBuffer(repeating: 1, count: 400_000)
        let outcomes = await withTaskGroup(of: EventLogError?.self) { tasks in
            for index in 0..<200 {
                tasks.addTask {
                    await eventLogError { try await log.append([LogRecord(key: "\(index)", value: value)]) }
                }
            }
            return await tasks.reduce(into: [EventLogError?]()) { $0.append($1) }
        }
        let stored = outcomes.count { $0 == nil }
        #expect(stored > 0)
        #expect(try await log.bounds().map(\.next).reduce(0, +) == Int64(stored))
        for case .some(let error) in outcomes {
            guard case .busy = error else {
                Issue.record("\(error) instead of busy")
                continue
            }
        }
        // Alone, also one beyond the bound is taken: else it could never be.
        try await log.append((0..<3).map { LogRecord(key: "\($0)", value: value) })
        await log.close()
    }

    @Test func closingCommitsWhatWaitsAndEndsReaders() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let log = try EmbeddedEventLog.open(path: path, options: options(), logger: quietLogger)
        let reader = try await log.makeReader(group: "g", member: "m")
        try await followFromEnd(reader, of: log)
        let waiting = Task {
            await eventLogError {
                _ = try await reader.next(maximumRecords: 1, maximumBytes: 1, timeout: .seconds(60))
            }
        }
        try await Task.sleep(for: .milliseconds(50))
        await log.close()
        #expect(await waiting.value == .closed)
        await reader.close()
        let appends = try EmbeddedEventLog.open(path: path, options: options(), logger: quietLogger)
        async let outcome = eventLogError { try await appends.append([record("one", "x")]) }
        await appends.close()
        let again = try EmbeddedEventLog.open(path: path, options: options(), logger: quietLogger)
        let stored = try await again.bounds().map(\.next).reduce(0, +)
        #expect(stored == (await outcome == nil ? 1 : 0))
        await again.close()
    }

    @Test func aCancelledReaderReturnsAtOnce() async throws {
        let folder = try TemporaryFolder()
        let log = try EmbeddedEventLog.open(path: folder.file("events.db"), options: options(), logger: quietLogger)
        let reader = try await log.makeReader(group: "g", member: "m")
        try await followFromEnd(reader, of: log)
        let waiting = Task {
            try await reader.next(maximumRecords: 1, maximumBytes: 1, timeout: .seconds(60))
        }
        try await Task.sleep(for: .milliseconds(50))
        let start = ContinuousClock.now
        waiting.cancel()
        #expect(try await waiting.value == .idle)
        #expect(ContinuousClock.now - start < .seconds(5))
        await reader.close()
        await log.close()
    }
}
