import EventLog
import Foundation
import Glibc
import Logging
import NIOConcurrencyHelpers
import Processor
import SyncModel
import TestSupport
import Testing

extension CloudFaults {
    /// The event log is full, closed, slow, away, moved, or another one.
    @Suite(.serialized) struct LogFaultTests {
        private func bench(_ log: any EventLog) async throws -> Bench {
            Bench(database: try await Bench.database(on: try PostgresCluster.shared()), log: log)
        }

        // MARK: Embedded

        @Test(.enabled(if: SmallDisk.isPossible, "needs the right to mount"))
        func theLogsDiskIsFull() async throws {
            let disk = try SmallDisk(bytes: 24 << 20)
            let log = try EmbeddedEventLog.open(path: disk.path + "/log.db", partitions: 8, logger: quietLogger)
            let bench = try await bench(log)
            let worker = Worker(bench.configuration(), log: log)
            let traffic = try await bench.underLoad(Traffic(seed: 11)) { load in
                for _ in 0..<2 {
                    let before = await load.refusals.count
                    try disk.fill()
                    // Busy is 429 to the gateway, which keeps the batch.
                    try await eventually("appends are refused") { await load.refusals.count > before + 2 }
                    try disk.free()
                    try await Task.sleep(for: .milliseconds(200))
                }
                for refusal in await load.refusals {
                    guard case .busy = refusal else {
                        Issue.record("\(refusal)")
                        break
                    }
                }
            }
            #expect(worker.status.problems.isEmpty)
            await worker.stop()
            try await bench.expectExactlyOnce(traffic)
            await log.close()
        }

        @Test func theLogIsClosedAndOpenedAgain() async throws {
            let file = try EmbeddedFile()
            let first = try await bench(try file.open())
            let worker = Worker(first.configuration(), log: first.log)
            let load = Load(Traffic(seed: 12), into: first.log)
            let running = Task { try await load.run() }
            try await eventually("it runs") { worker.status.state.messages > 200 }
            await load.stop()
            try await running.value
            await first.log.close()
            try await eventually("the closed log is noticed") { !worker.status.state.isLogReachable }
            #expect(worker.status.problems.contains("the event log cannot be read"))
            await worker.stop()

            let second = Bench(database: first.database, log: try file.open())
            let next = Worker(second.configuration(), log: second.log)
            try await second.drained()
            await next.stop()
            try await second.expectExactlyOnce(await load.traffic)
            await second.log.close()
        }

        /// The old log was processed to its end; the new one is shorter, then longer than it was.
        @Test func theLogIsReplacedByAnEmptyOne() async throws {
            let file = try EmbeddedFile()
            let first = try await bench(try file.open())
            let worker = Worker(first.configuration(), log: first.log)
            let traffic = try await first.underLoad(Traffic(seed: 13)) { _ in }
            await worker.stop()
            await first.log.close()

            let other = try EmbeddedFile()
            let second = Bench(database: first.database, log: try other.open())
            let next = Worker(second.configuration(), log: second.log)
            try await eventually("every partition stops") { next.status.state.stopped.count == 8 }
            #expect(next.lines.contains(.critical, "the event log is another one"))
            #expect(next.status.problems.count == 8)
            try await second.log.append(
                traffic.messages.keys.map {
                    .account(gateway: $0.gateway, EpochAccount(epoch: $0.epoch, lastSequence: 1, isClosed: false))
                })
            try await Task.sleep(for: .milliseconds(300))
            #expect(next.status.state.messages == 0)
            await next.stop()
            await second.log.close()

            let again = Bench(database: first.database, log: try file.open())
            try await again.expectExactlyOnce(traffic)
            await again.log.close()
        }

        /// Retention passed over what a processor had not read: that partition stops, and the others go on.
        @Test func whatWasDeletedUnreadStopsItsPartitionAlone() async throws {
            let file = try EmbeddedFile()
            let time = NIOLockedValueBox<Int64>(1_000_000_000_000)
            var options = EmbeddedEventLog.Options()
            options.partitions = 2
            options.retentionInterval = .milliseconds(20)
            options.clock = EventLogClock(
                wall: { time.withLockedValue { $0 } }, monotonic: { time.withLockedValue { $0 } })
            let log = try EmbeddedEventLog.open(path: file.path, options: options, logger: quietLogger)
            let bench = try await bench(log)
            let names = (0..<20).map { "d\($0)" }
            let lost = try #require(names.first { Murmur2.partition(of: $0, partitions: 2) == 0 })
            let good = try #require(names.first { Murmur2.partition(of: $0, partitions: 2) == 1 })
            let worker = Worker(bench.configuration { $0.maximumRecords = 2 }, log: log)
            try await eventually("it has its partitions") { worker.status.state.offsets.count == 2 }
            // The processor waits for this lock while the log forgets.
            let holder = try await Holder(bench.database, "LOCK TABLE deduplication IN ACCESS EXCLUSIVE MODE")
            for number in 1...40 {
                try await log.append([
                    .one(of: lost, UInt64(number), bytes: Array(repeating: 120, count: 600_000))
                ])
            }
            time.withLockedValue { $0 += 80 * 3_600_000_000 }
            try await eventually("the log forgets") { try await log.bounds()[0].first > 30 }
            await holder.release()
            try await eventually("the partition stops") { worker.status.state.stopped[0] != nil }
            #expect(worker.lines.contains(.critical, "is outside the log"))
            try await log.append([.one(of: good, 1, bytes: [49])])
            try await eventually("the other goes on") { worker.status.state.offsets[1] == 1 }
            #expect(worker.lines.all.count { $0.contains("A partition is stopped") } == 1)
            await worker.stop()
            await log.close()
        }

        // MARK: Kafka

        private func withKafka(
            _ traffic: Traffic, _ change: (inout KafkaConfiguration) -> Void = { _ in },
            pause: Duration = .milliseconds(10),
            _ fault: (FaultyKafka, Load, Worker) async throws -> Void
        ) async throws {
            let kafka = try FaultyKafka()
            let log = try kafka.open(change)
            let bench = try await bench(log)
            let worker = Worker(bench.configuration(), log: log)
            let sent: Traffic
            do {
                sent = try await bench.underLoad(traffic, pause: pause) { load in
                    try await eventually("it runs") { worker.status.state.messages > 100 }
                    try await fault(kafka, load, worker)
                }
            } catch {
                print("what the processor said last: \(worker.lines.all.suffix(30).joined(separator: "\n"))")
                print("\(worker.status.state), the log: \(try await log.bounds())")
                throw error
            }
            await worker.stop()
            try await bench.expectExactlyOnce(sent)
            try await FaultyKafka.expectNothingForgotten(log)
            await log.close()
        }

        @Test func everyBrokerIsDownForAWhile() async throws {
            try await withKafka(Traffic(seed: 21)) {
                $0.messageTimeout = .seconds(1)
                $0.requestTimeout = .seconds(1)
            } _: { kafka, load, _ in
                kafka.setBrokers(down: true)
                try await eventually("appends are refused") { await !load.refusals.isEmpty }
                kafka.setBrokers(down: false)
            }
        }

        /// Slow is not away: who reads goes on, and who starts gets its partitions.
        @Test func brokersAreSlow() async throws {
            let kafka = try FaultyKafka(partitions: 16, brokers: 1)
            let log = try kafka.open { $0.messageTimeout = .seconds(20) }
            let bench = try await bench(log)
            let first = Worker(bench.configuration { $0.maintenanceInterval = .milliseconds(500) }, log: log)
            let sent = try await bench.underLoad(Traffic(seed: 22)) { _ in
                try await eventually("it runs") { first.status.state.messages > 100 }
                let before = first.status.state.messages
                kafka.setRoundTrip(milliseconds: 150)
                try await eventually("it goes on") { first.status.state.messages > before + 200 }
                let second = Worker(bench.configuration("two") { $0.group = "another" }, log: log)
                try await eventually("a second one has its partitions", within: 30) {
                    second.status.state.offsets.count == 16
                }
                await second.stop()
                #expect(!(first.lines.all + second.lines.all).contains { $0.contains("cannot be read: trying again") })
                kafka.setRoundTrip(milliseconds: 0)
            }
            await first.stop()
            try await bench.expectExactlyOnce(sent)
            try await FaultyKafka.expectNothingForgotten(log)
            await log.close()
        }

        @Test func whileBrokersAreDownTheProcessorCanEnd() async throws {
            let kafka = try FaultyKafka()
            let log = try kafka.open()
            let bench = try await bench(log)
            let worker = Worker(bench.configuration(), log: log)
            let load = Load(Traffic(seed: 26), into: log)
            let running = Task { try await load.run() }
            try await eventually("it runs") { worker.status.state.messages > 100 }
            await load.stop()
            try await running.value
            try await bench.drained()
            kafka.setBrokers(down: true)
            try await Task.sleep(for: .milliseconds(500))
            let start = ContinuousClock.now
            await worker.stop()
            #expect(ContinuousClock.now - start < .seconds(10))
            kafka.setBrokers(down: false)
            try await bench.expectExactlyOnce(await load.traffic)
            await log.close()
        }

        /// The processor does not ask for records while it waits for the database, so its group gives it up meanwhile.
        @Test func theDatabaseIsAwayForLongerThanTheGroupWaits() async throws {
            let server = try await FaultyPostgres.start()
            let kafka = try FaultyKafka(brokers: 1)
            let log = try kafka.open { $0.maximumPollInterval = .seconds(5) }
            let bench = Bench(database: try await Bench.database(on: server.cluster), log: log)
            let worker = Worker(bench.configuration(), log: log)
            let sent = try await bench.underLoad(Traffic(seed: 27), pause: .milliseconds(60)) { _ in
                try await eventually("it runs") { worker.status.state.messages > 100 }
                try await server.stop(SIGQUIT)
                try await Task.sleep(for: .seconds(6))
                try await server.startAgain()
            }
            #expect(worker.status.problems.isEmpty)
            await worker.stop()
            try await bench.expectExactlyOnce(sent)
            try await FaultyKafka.expectNothingForgotten(log)
            await log.close()
            try await server.stop(SIGQUIT)
        }

        @Test func leadersMoveUnderLoad() async throws {
            var random = Traffic.Seeded(23)
            try await withKafka(Traffic(seed: 23)) { kafka, _, _ in
                for _ in 0..<20 {
                    kafka.setLeader(.random(in: 1...3, using: &random), of: .random(in: 0..<8, using: &random))
                    try await Task.sleep(for: .milliseconds(80))
                }
            }
        }

        /// Busy is 429 to the gateway: it keeps the batch, and memory stays within its bound.
        @Test func theProducersQueueIsFull() async throws {
            try await withKafka(Traffic(seed: 24)) {
                $0.queueMaximumMessages = 24
                $0.messageTimeout = .seconds(2)
            } _: { kafka, load, _ in
                kafka.setBrokers(down: true)
                try await eventually("an append is told to come again") {
                    await load.refusals.contains(where: \.isBusy)
                }
                kafka.setBrokers(down: false)
            }
        }

        @Test func anotherClusterIsNoticed() async throws {
            let kafka = try FaultyKafka()
            let log = try kafka.open()
            let bench = try await bench(log)
            let worker = Worker(bench.configuration(), log: log)
            try await bench.underLoad(Traffic(seed: 25)) { _ in }
            await worker.stop()
            let other = try FaultyKafka()
            let empty = try other.open()
            let next = Worker(bench.configuration(), log: empty)
            try await eventually("every partition stops") { next.status.state.stopped.count == 8 }
            #expect(next.lines.contains(.critical, "the event log is another one"))
            await next.stop()
            await empty.close()
            await log.close()
        }
    }
}

extension EventLogError {
    var isBusy: Bool {
        if case .busy = self { return true }
        return false
    }
}
