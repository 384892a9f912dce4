import EventLog
import Foundation
import NIOCore
import Testing

/// What every implementation of the log promises.
@Suite struct SharedLogTests {
    @Test(arguments: LogKind.available)
    func recordsComeBackInOrderOfTheirKey(_ kind: LogKind) async throws {
        try await withLog(kind) { test in
            let keys = (0..<20).map { "device-\($0)" }
            let before = Int64(Date().timeIntervalSince1970 * 1e6)
            for round in 0..<10 {
                try await test.log.append(keys.map { record($0, "\($0) \(round)") })
            }
            let reader = try await test.log.makeReader(group: "g", member: "m")
            let records = try await collect(reader, 200)
            await reader.close()
            let after = Int64(Date().timeIntervalSince1970 * 1e6)

            #expect(records.count == 200)
            for key in keys {
                let own = records.filter { $0.record.key == key }
                #expect(own.map(\.text) == (0..<10).map { "\(key) \($0)" })
                #expect(Set(own.map(\.partition)) == [Murmur2.partition(of: key, partitions: LogKind.partitions)])
            }
            for (_, own) in Dictionary(grouping: records, by: \.partition) {
                #expect(own.map(\.offset) == (0..<Int64(own.count)).map { $0 })
                #expect(zip(own, own.dropFirst()).allSatisfy { $0.appendTime <= $1.appendTime })
            }
            // Kafka counts in milliseconds.
            #expect(records.allSatisfy { (before - 1000...after + 1000).contains($0.appendTime) })
        }
    }

    @Test(arguments: LogKind.available)
    func headersAndBytesStayAsTheyWere(_ kind: LogKind) async throws {
        try await withLog(kind) { test in
            var everyByte = ByteBuffer()
            for byte in UInt8.min...UInt8.max { everyByte.writeInteger(byte) }
            let headers = [
                LogRecord.Header(name: "traceparent", value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                LogRecord.Header(name: "leer", value: ""), LogRecord.Header(name: "größe", value: "ü"),
            ]
            let sent = LogRecord(key: "gerät/ü", value: everyByte, headers: headers)
            try await test.log.append([sent, record("gerät/ü", "")])
            let reader = try await test.log.makeReader(group: "g", member: "m")
            let records = try await collect(reader, 2)
            await reader.close()
            #expect(records.map(\.record) == [sent, record("gerät/ü", "")])
        }
    }

    @Test(arguments: LogKind.available)
    func whatWasAppendedIsThereAfterReopening(_ kind: LogKind) async throws {
        try await withLog(kind) { test in
            let incarnation = try await test.log.incarnation()
            try await test.log.append((0..<50).map { record("d\($0 % 5)", "\($0)") })
            let bounds = try await test.log.bounds()
            try await test.reopen()
            #expect(try await test.log.incarnation() == incarnation)
            #expect(try await test.log.bounds() == bounds)
            try await test.log.append([record("d0", "after")])
            let reader = try await test.log.makeReader(group: "g", member: "m")
            let records = try await collect(reader, 51)
            await reader.close()
            let last = try #require(records.last { $0.record.key == "d0" })
            #expect(last.text == "after")
            #expect(Set(records.map(\.text)) == Set((0..<50).map { "\($0)" } + ["after"]))
        }
    }

    @Test(arguments: LogKind.available)
    func boundsCountEachPartition(_ kind: LogKind) async throws {
        try await withLog(kind) { test in
            #expect(try await test.log.partitionCount() == LogKind.partitions)
            #expect(
                try await test.log.bounds()
                    == (0..<LogKind.partitions).map { PartitionBounds(partition: $0, first: 0, next: 0) })
            try await test.log.append((0..<30).map { record("k\($0)", "v") })
            var expected = Array(repeating: Int64(0), count: Int(LogKind.partitions))
            for key in 0..<30 { expected[Int(Murmur2.partition(of: "k\(key)", partitions: LogKind.partitions))] += 1 }
            let bounds = try await test.log.bounds()
            #expect(bounds.map(\.next) == expected)
            #expect(bounds.allSatisfy { $0.first == 0 })
        }
    }

    @Test(arguments: LogKind.available)
    func readingStartsWhereItIsTold(_ kind: LogKind) async throws {
        try await withLog(kind) { test in
            try await test.log.append((0..<40).map { record("one", "\($0)") })
            let partition = Murmur2.partition(of: "one", partitions: LogKind.partitions)
            let reader = try await test.log.makeReader(group: "g", member: "m")
            let tail = try await collect(reader, 10, from: [partition: 30], maximumRecords: 4)
            #expect(tail.map(\.text) == (30..<40).map { "\($0)" })
            #expect(tail.map(\.offset) == (30..<40).map { Int64($0) })
            // Back again, and then on: what was read already comes once more.
            try await reader.seek(partition: partition, to: 38)
            let again = try await collect(reader, 2)
            #expect(again.map(\.text) == ["38", "39"])
            await reader.close()
        }
    }

    /// As when the database gives some partitions at once and others later: records of each come from its seek on, each once,
    /// whatever was appended before, and of those that were not sought none comes.
    @Test(arguments: LogKind.available)
    func partitionsThatAreSoughtLateLoseNothing(_ kind: LogKind) async throws {
        try await withLog(kind) { test in
            let keys = (0..<60).map { "d\($0)" }
            for _ in 0..<3 { try await test.log.append(keys.map { record($0, "early") }) }
            let reader = try await test.log.makeReader(group: "g", member: "m")
            var isAssigned = false
            while !isAssigned {
                let event = try await reader.next(maximumRecords: 7, maximumBytes: 1 << 20, timeout: .milliseconds(200))
                if case .assigned(let partitions) = event { isAssigned = partitions.count == 8 }
            }
            var found: [Int32: [Int64]] = [:]
            for partition: Int32 in [2, 5, 7, 0, 1, 3, 4, 6] {
                try await reader.seek(partition: partition, to: 3)
                found[partition] = []
                // Some are sought together.
                if [2, 3].contains(partition) { continue }
                try await test.log.append(keys.map { record($0, "before \(partition)") })
                let ends = try await test.log.bounds().map(\.next)
                #expect(ends.allSatisfy { $0 > 3 })
                let deadline = ContinuousClock.now + .seconds(20)
                while found.contains(where: { ($0.value.last ?? -1) + 1 < ends[Int($0.key)] }) {
                    guard ContinuousClock.now < deadline else { throw TimedOut(description: "\(found) of \(ends)") }
                    let event = try await reader.next(
                        maximumRecords: 7, maximumBytes: 1 << 20, timeout: .milliseconds(200))
                    guard case .records(let records) = event else { continue }
                    for record in records {
                        #expect(found[record.partition] != nil, "\(record.partition) was not sought")
                        found[record.partition, default: []].append(record.offset)
                    }
                }
            }
            for bounds in try await test.log.bounds() { #expect(found[bounds.partition] == Array(3..<bounds.next)) }
            await reader.close()
        }
    }

    @Test(arguments: LogKind.available, [Int64(7), 1000])
    func anOffsetOutsideTheLogIsAnError(_ kind: LogKind, _ offset: Int64) async throws {
        try await withLog(kind) { test in
            try await test.log.append([record("one", "0"), record("one", "1")])
            let partition = Murmur2.partition(of: "one", partitions: LogKind.partitions)
            let reader = try await test.log.makeReader(group: "g", member: "m")
            let error = await eventLogError { _ = try await collect(reader, 1, from: [partition: offset]) }
            #expect(error == .outOfRange(partition: partition, offset: offset, first: 0, next: 2))
            await reader.close()
        }
    }

    @Test(arguments: LogKind.available)
    func concurrentAppendsAllArriveOnce(_ kind: LogKind) async throws {
        try await withLog(kind) { test in
            let log = test.log
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for task in 0..<20 {
                    tasks.addTask {
                        for round in 0..<10 {
                            try await log.append((0..<3).map { record("d\(task)", "\(task) \(round * 3 + $0)") })
                        }
                    }
                }
                try await tasks.waitForAll()
            }
            let reader = try await log.makeReader(group: "g", member: "m")
            let records = try await collect(reader, 600)
            await reader.close()
            for task in 0..<20 {
                #expect(
                    records.filter { $0.record.key == "d\(task)" }.map(\.text) == (0..<30).map { "\(task) \($0)" })
            }
        }
    }

    @Test(arguments: LogKind.available)
    func aWaitingReaderWakesWithAnAppend(_ kind: LogKind) async throws {
        try await withLog(kind) { test in
            let log = test.log
            try await log.append([record("one", "old")])
            let reader = try await log.makeReader(group: "g", member: "m")
            try await followFromEnd(reader, of: log)
            let idle = try await reader.next(maximumRecords: 10, maximumBytes: 1 << 20, timeout: .milliseconds(100))
            #expect(idle == .idle)
            let waiting = Task {
                let event = try await reader.next(maximumRecords: 10, maximumBytes: 1 << 20, timeout: .seconds(20))
                return (event, ContinuousClock.now)
            }
            try await Task.sleep(for: .milliseconds(200))
            try await log.append([record("one", "new")])
            let appended = ContinuousClock.now
            let (event, woken) = try await waiting.value
            guard case .records(let records) = event else {
                Issue.record("\(event) came instead of records")
                return
            }
            #expect(records.map(\.text) == ["new"])
            // Far below any interval that polling would need; generous, as the machine may be busy.
            #expect(woken - appended < .seconds(2))
            await reader.close()
        }
    }

    @Test(arguments: LogKind.available)
    func aRecordThatIsTooLargeIsRefused(_ kind: LogKind) async throws {
        try await withLog(kind) { test in
            let large = LogRecord(key: "one", value: ByteBuffer(repeating: 7, count: 1_200_000))
            let error = await eventLogError { try await test.log.append([large]) }
            guard case .recordTooLarge(let bytes) = error else {
                Issue.record("\(String(describing: error)) instead of recordTooLarge")
                return
            }
            #expect(bytes >= 1_200_000)
            try await test.log.append([record("one", "small")])
            #expect(try await test.log.bounds().map(\.next).reduce(0, +) == 1)
        }
    }

    @Test(arguments: LogKind.available)
    func groupsReadIndependently(_ kind: LogKind) async throws {
        try await withLog(kind) { test in
            try await test.log.append((0..<10).map { record("d\($0)", "\($0)") })
            let first = try await test.log.makeReader(group: "a", member: "m")
            let second = try await test.log.makeReader(group: "b", member: "m")
            async let fromFirst = collect(first, 10)
            async let fromSecond = collect(second, 10)
            let (a, b) = try await (fromFirst, fromSecond)
            #expect(Set(a.map(\.text)) == Set(b.map(\.text)))
            await first.close()
            await second.close()
        }
    }

    @Test(arguments: LogKind.available)
    func aClosedLogSaysSo(_ kind: LogKind) async throws {
        let test = try await kind.make()
        let reader = try await test.log.makeReader(group: "g", member: "m")
        await reader.close()
        await reader.close()
        let fromReader = await eventLogError {
            _ = try await reader.next(maximumRecords: 1, maximumBytes: 1, timeout: .seconds(1))
        }
        #expect(fromReader == .closed)
        await test.log.close()
        await test.log.close()
        #expect(await eventLogError { try await test.log.append([record("one", "x")]) } == .closed)
        #expect(await eventLogError { _ = try await test.log.bounds() } == .closed)
        #expect(await eventLogError { _ = try await test.log.incarnation() } == .closed)
        #expect(await eventLogError { _ = try await test.log.makeReader(group: "g", member: "m") } == .closed)
    }
}
