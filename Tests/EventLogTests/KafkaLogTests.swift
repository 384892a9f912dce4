import CRDKafka
import EventLog
import Foundation
import NIOCore
import TestSupport
import Testing

@Suite struct KafkaLogTests {
    private func withMock(
        _ change: (inout KafkaConfiguration) -> Void = { _ in },
        _ body: (MockKafka, KafkaEventLog) async throws -> Void
    ) async throws {
        let mock = try MockKafka(partitions: 4)
        var configuration = mock.configuration()
        change(&configuration)
        let log = try KafkaEventLog.open(configuration, logger: quietLogger)
        do {
            try await body(mock, log)
        } catch {
            await log.close()
            throw error
        }
        await log.close()
        try mock.end()
    }

    private func texts(_ log: KafkaEventLog, _ count: Int) async throws -> [String] {
        let reader = try await log.makeReader(group: "g", member: "m")
        defer { Task { await reader.close() } }
        return try await collect(reader, count).map(\.text)
    }

    @Test func passingErrorsAreRetriedAndStoreOnce() async throws {
        try await withMock { mock, log in
            mock.fail(
                MockKafka.produceRequest,
                with: [
                    RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                    RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                ])
            try await log.append([record("one", "a"), record("one", "b")])
            #expect(try await log.bounds().map(\.next).reduce(0, +) == 2)
            #expect(try await texts(log, 2) == ["a", "b"])
        }
    }

    @Test func afterAFatalErrorTheProducerIsMadeAnew() async throws {
        try await withMock { mock, log in
            try await log.append([record("one", "before")])
            mock.fail(MockKafka.produceRequest, with: [RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER])
            let error = await eventLogError { try await log.append([record("one", "lost")]) }
            guard case .unavailable = error else {
                Issue.record("\(String(describing: error)) instead of unavailable")
                return
            }
            try await log.append([record("one", "after")])
            #expect(try await texts(log, 2) == ["before", "after"])
        }
    }

    /// As many appends at once meet the same dead producer: it is made anew once, and each append has its own answer.
    @Test func fatalErrorsAgainAndAgainLoseNoAcknowledgedRecord() async throws {
        try await withMock { mock, log in
            var acknowledged: Set<String> = []
            for round in 0..<3 {
                mock.fail(MockKafka.produceRequest, with: [RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER])
                let stored = await withTaskGroup(of: String?.self) { tasks in
                    for task in 0..<8 {
                        tasks.addTask {
                            let text = "\(round)-\(task)"
                            let error = await eventLogError { try await log.append([record("d\(task)", text)]) }
                            return error == nil ? text : nil
                        }
                    }
                    return await tasks.reduce(into: Set<String>()) { if let text = $1 { $0.insert(text) } }
                }
                #expect(stored.count < 8, "round \(round): no append met the error")
                acknowledged.formUnion(stored)
                try await log.append([record("one", "after \(round)")])
                acknowledged.insert("after \(round)")
            }
            let count = try await log.bounds().map { Int($0.next) }.reduce(0, +)
            let found = try await texts(log, count)
            #expect(Set(found).isSuperset(of: acknowledged))
            #expect(acknowledged.allSatisfy { text in found.count { $0 == text } == 1 })
        }
    }

    @Test func nothingIsAcknowledgedBeforeEveryReport() async throws {
        try await withMock { mock, log in
            try await log.append([record("one", "first")])
            mock.delay(milliseconds: 700)
            let start = ContinuousClock.now
            // Of all partitions, so that there are several requests and reports.
            try await log.append((0..<40).map { record("d\($0)", "\($0)") })
            #expect(ContinuousClock.now - start >= .milliseconds(700))
            mock.delay(milliseconds: 0)
            #expect(try await log.bounds().map(\.next).reduce(0, +) == 41)
            // One partition of several fails: the whole append does, though the others are stored.
            mock.fail(MockKafka.produceRequest, with: [RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED])
            let error = await eventLogError { try await log.append((0..<40).map { record("d\($0)", "\($0)") }) }
            #expect(error != nil)
        }
    }

    @Test func anUnreachableBrokerIsUnavailableInTimeAndComesBack() async throws {
        try await withMock {
            $0.messageTimeout = .seconds(1)
            $0.requestTimeout = .seconds(1)
        } _: { mock, log in
            try await log.append([record("one", "before")])
            mock.setBroker(down: true)
            let start = ContinuousClock.now
            let error = await eventLogError { try await log.append([record("one", "lost")]) }
            guard case .unavailable = error else {
                Issue.record("\(String(describing: error)) instead of unavailable")
                return
            }
            #expect(ContinuousClock.now - start < .seconds(5))
            guard case .unavailable = await eventLogError({ _ = try await log.bounds() }) else {
                Issue.record("bounds were answered without a broker")
                return
            }
            mock.setBroker(down: false)
            var stored = false
            for _ in 0..<10 where !stored {
                stored = await eventLogError { try await log.append([record("one", "after")]) } == nil
            }
            #expect(stored)
        }
    }

    @Test func aFullQueueIsBusy() async throws {
        try await withMock {
            $0.queueMaximumMessages = 100
            $0.messageTimeout = .seconds(1)
        } _: { mock, log in
            try await log.append([record("one", "x")])
            mock.setBroker(down: true)
            let errors = await withTaskGroup(of: EventLogError?.self) { tasks in
                for task in 0..<4 {
                    tasks.addTask {
                        await eventLogError { try await log.append((0..<50).map { record("\(task)", "\($0)") }) }
                    }
                }
                return await tasks.reduce(into: [EventLogError?]()) { $0.append($1) }
            }
            let busy = errors.count {
                guard case .busy = $0 else { return false }
                return true
            }
            #expect(busy >= 1)
            #expect(!errors.contains(nil))
        }
    }

    @Test func anAppendLargerThanTheQueueGoesInPieces() async throws {
        try await withMock {
            $0.queueMaximumMessages = 100
        } _: { _, log in
            try await log.append((0..<450).map { record("d\($0 % 9)", "\($0)") })
            #expect(try await log.bounds().map(\.next).reduce(0, +) == 450)
        }
    }

    @Test func aSecondMemberSharesThePartitions() async throws {
        try await withMock { _, log in
            try await log.append((0..<40).map { record("d\($0)", "\($0)") })
            let first = try await log.makeReader(group: "g", member: "first")
            _ = try await collect(first, 40)
            let second = try await log.makeReader(group: "g", member: "second")
            var ofFirst: Set<Int32> = [0, 1, 2, 3]
            var ofSecond: Set<Int32> = []
            var wasRevoked = false
            let deadline = ContinuousClock.now + .seconds(25)
            // On a busy machine the group may need more than one round.
            while ofFirst.union(ofSecond).count < 4 || ofFirst.isEmpty || ofSecond.isEmpty
                || !ofFirst.isDisjoint(with: ofSecond)
            {
                guard ContinuousClock.now < deadline else { throw TimedOut(description: "the group did not settle") }
                try await follow(second, &ofSecond)
                try await follow(first, &ofFirst)
                wasRevoked = wasRevoked || ofFirst.isEmpty
            }
            #expect(wasRevoked)
            let notOwn = try #require(ofSecond.first)
            #expect(await eventLogError { try await first.seek(partition: notOwn, to: 0) } != nil)
            await second.close()
            await first.close()
        }
    }

    /// One step of a member: keeps `partitions` as the group says, and answers with seeks.
    private func follow(_ reader: any EventLogReader, _ partitions: inout Set<Int32>) async throws {
        switch try await reader.next(maximumRecords: 100, maximumBytes: 1 << 20, timeout: .milliseconds(100)) {
        case .assigned(let assigned):
            partitions = Set(assigned)
            for partition in assigned { try await reader.seek(partition: partition, to: 0) }
        case .revoked: partitions = []
        case .records, .idle: break
        }
    }

    /// Back and forth while records are fetched ahead: what comes next begins where the seek said, and nothing of before.
    @Test func aPartitionThatIsReadIsMoved() async throws {
        try await withMock { _, log in
            try await log.append((0..<400).map { record("d\($0 % 20)", "\($0)") })
            let ends = Dictionary(uniqueKeysWithValues: try await log.bounds().map { ($0.partition, $0.next) })
            let reader = try await log.makeReader(group: "g", member: "m")
            var partitions: Set<Int32> = []
            while partitions.isEmpty { try await follow(reader, &partitions) }
            for _ in 0..<20 {
                let (partition, end) = try #require(ends.filter { $0.value > 10 }.randomElement())
                let start = Int64.random(in: 0..<end)
                try await reader.seek(partition: partition, to: start)
                var found: [Int64] = []
                let deadline = ContinuousClock.now + .seconds(10)
                while found.count < min(5, Int(end - start)), ContinuousClock.now < deadline {
                    let event = try await reader.next(
                        maximumRecords: .random(in: 1...50), maximumBytes: 1 << 20, timeout: .milliseconds(500))
                    guard case .records(let records) = event else { continue }
                    found += records.filter { $0.partition == partition }.map(\.offset)
                }
                #expect(found == Array(start..<start + Int64(found.count)) && !found.isEmpty)
            }
            await reader.close()
        }
    }

    /// What was paused in an assignment, as it was not sought, is read in the next one. A member that comes makes the next.
    @Test func whatWasPausedIsReadInTheNextAssignment() async throws {
        try await withMock { _, log in
            try await log.append((0..<40).map { record("d\($0)", "\($0)") })
            let ends = Dictionary(uniqueKeysWithValues: try await log.bounds().map { ($0.partition, $0.next) })
            let first = try await log.makeReader(group: "g", member: "first")
            var isSeeking = false
            while !isSeeking {
                guard case .assigned = try await step(first) else { continue }
                try await first.seek(partition: 3, to: 0)
                isSeeking = true
            }
            _ = try await step(first)
            let second = try await log.makeReader(group: "g", member: "second")
            let joining = Task { while !Task.isCancelled { _ = try? await step(second) } }
            var found: [Int32: Set<Int64>] = [:]
            var partitions: Set<Int32> = [0]
            var isAnew = false
            let deadline = ContinuousClock.now + .seconds(25)
            while !isAnew || partitions.contains(where: { found[$0, default: []].count < Int(ends[$0] ?? 0) }) {
                guard ContinuousClock.now < deadline else { throw TimedOut(description: "\(partitions) \(found)") }
                switch try await step(first) {
                case .assigned(let assigned):
                    isAnew = true
                    found = [:]
                    partitions = Set(assigned)
                    // Whichever half the group gives it: one of them at least was paused.
                    #expect(partitions == [0, 1] || partitions == [2, 3])
                    for partition in assigned { try await first.seek(partition: partition, to: 0) }
                case .records(let records) where isAnew:
                    for record in records { found[record.partition, default: []].insert(record.offset) }
                default: break
                }
            }
            joining.cancel()
            await joining.value
            await second.close()
            await first.close()
        }
    }

    /// librdkafka 2.0.2 aborts the process where partitions are stopped a second time, as by an assignment anew, while the group
    /// takes them away.
    @Test func aPartitionThatIsSoughtLateDoesNotMeetARebalance() async throws {
        await #expect(processExitsWith: .success) {
            for _ in 0..<3 { try await seekLateIntoARebalance() }
        }
    }

    @Test func aMissingTopicOrBrokerIsUnavailable() async throws {
        var configuration = KafkaConfiguration(brokers: "127.0.0.1:1")
        configuration.requestTimeout = .milliseconds(300)
        configuration.messageTimeout = .milliseconds(500)
        let log = try KafkaEventLog.open(configuration, logger: quietLogger)
        for error in [
            await eventLogError { _ = try await log.incarnation() },
            await eventLogError { _ = try await log.partitionCount() },
            await eventLogError { try await log.append([record("one", "x")]) },
        ] {
            guard case .unavailable = error else {
                Issue.record("\(String(describing: error)) instead of unavailable")
                continue
            }
        }
        await log.close()
    }

    @Test func recordsThatCameBeforeAnErrorAreGiven() async throws {
        try await withMock { _, log in
            try await log.append((0..<40).map { record("d\($0)", "\($0)") })
            let bounds = try await log.bounds()
            let bad = try #require(bounds.first { $0.next > 0 })
            let reader = try await log.makeReader(group: "g", member: "m")
            var texts: [String] = []
            var error: EventLogError?
            let deadline = ContinuousClock.now + .seconds(20)
            while error == nil || texts.count < 40 - Int(bad.next), ContinuousClock.now < deadline {
                do throws(EventLogError) {
                    let event = try await reader.next(
                        maximumRecords: 1000, maximumBytes: 1 << 20, timeout: .milliseconds(500))
                    if case .assigned(let partitions) = event {
                        for partition in partitions {
                            try await reader.seek(partition: partition, to: partition == bad.partition ? 1000 : 0)
                        }
                    }
                    if case .records(let records) = event { texts += records.map(\.text) }
                } catch let caught {
                    error = caught
                }
            }
            #expect(
                error == .outOfRange(partition: bad.partition, offset: 1000, first: bad.first, next: bad.next))
            #expect(texts.count == 40 - Int(bad.next) && Set(texts).count == texts.count)
            await reader.close()
        }
    }

    @Test func aBadConfigurationSaysWhat() async throws {
        let folder = try TemporaryFolder()
        func file(_ text: String) throws -> String {
            let path = folder.file("properties-\(text.count)")
            try text.write(toFile: path, atomically: true, encoding: .utf8)
            return path
        }
        func reason(_ change: (inout KafkaConfiguration) throws -> Void) async throws -> String {
            var configuration = KafkaConfiguration(brokers: "127.0.0.1:1")
            configuration.messageTimeout = .milliseconds(100)
            try change(&configuration)
            let settled = configuration
            let error = await eventLogError {
                await (try KafkaEventLog.open(settled, logger: quietLogger)).close()
            }
            guard case .other(let reason) = error else { return "" }
            return reason
        }
        #expect(try await reason { $0.brokers = "" }.contains("no brokers"))
        #expect(try await reason { $0.topic = "" }.contains("no topic"))
        #expect(try await reason { $0.properties["acks"] = "1" }.contains("acks cannot be set"))
        #expect(
            try await reason { $0.properties["sesurity.protocol"] = "ssl" }.contains(
                "sesurity.protocol is not accepted"))
        #expect(try await reason { $0.propertiesFile = folder.file("none") }.contains("none cannot be read"))
        #expect(try await reason { $0.propertiesFile = try file("# none\n\nhunter2\n") }.contains("line 3 of"))
        #expect(try await reason { $0.propertiesFile = try file("acks=1") }.contains("acks cannot be set"))
        // The file wins: else the value in the configuration would be refused.
        let wins = try await reason {
            $0.properties["security.protocol"] = "nonsense"
            $0.propertiesFile = try file("# secret\r\n\nsecurity.protocol=plaintext\r\nsasl.password=a=b\n")
        }
        #expect(wins == "")
        // A secret that is not accepted is not shown.
        let secret = try await reason { $0.propertiesFile = try file("security.protocol=hunter2") }
        #expect(secret.contains("security.protocol is not accepted") && !secret.contains("hunter2"))
    }
}

private func step(_ reader: any EventLogReader) async throws -> EventLogEvent {
    try await reader.next(maximumRecords: 100, maximumBytes: 1 << 20, timeout: .milliseconds(200))
}

/// In a process of its own, which may be aborted. The group's decision waits in the queue while the other half is sought.
private func seekLateIntoARebalance() async throws {
    let mock = try MockKafka(partitions: 8)
    let log = try KafkaEventLog.open(mock.configuration(), logger: quietLogger)
    try await log.append((0..<80).map { record("d\($0)", "\($0)") })
    let first = try await log.makeReader(group: "g", member: "first")
    var isAssigned = false
    while !isAssigned {
        if case .assigned = try await step(first) { isAssigned = true }
    }
    for partition in Int32(0)..<4 { try await first.seek(partition: partition, to: 0) }
    _ = try await first.next(maximumRecords: 1, maximumBytes: 1, timeout: .milliseconds(500))
    let second = try await log.makeReader(group: "g", member: "second")
    let joining = Task {
        for _ in 0..<25 { _ = try? await step(second) }
    }
    // The first one's heartbeat, a fourth of its session, brings the news.
    try await Task.sleep(for: .seconds(3))
    for partition in Int32(4)..<8 { try await first.seek(partition: partition, to: 0) }
    for _ in 0..<10 { _ = try await step(first) }
    await joining.value
    await second.close()
    await first.close()
    await log.close()
    try mock.end()
}
