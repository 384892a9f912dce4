import EventLog
import Logging
import Processor
import TestSupport
import Testing

extension CloudFaults {
    /// Lanes interleaved, batches repeated, cut anew and overtaken; and what several processors make of one log.
    @Suite(.serialized) struct OrderFaultTests {
        @Test(arguments: [UInt64(51), 52, 53])
        func repeatedAndReorderedBatchesOfBothLanes(seed: UInt64) async throws {
            let file = try EmbeddedFile()
            let bench = Bench(
                database: try await Bench.database(on: try PostgresCluster.shared()), log: try file.open())
            var random = Traffic.Seeded(seed)
            var traffic = Traffic(seed: seed)
            for _ in 0..<20 { try await bench.log.append(traffic.next(40)) }
            try await bench.log.append(traffic.rest())
            // Transactions of any size, and processors that come and go.
            for round in 0..<6 {
                let worker = Worker(
                    bench.configuration("\(round)") { $0.maximumRecords = .random(in: 1...60, using: &random) },
                    log: bench.log)
                try await Task.sleep(for: .milliseconds(.random(in: 20..<150, using: &random)))
                await worker.stop()
            }
            let worker = Worker(bench.configuration("last"), log: bench.log)
            try await bench.drained()
            await worker.stop()
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
        }

        /// The embedded log has one reader a group, so this is Kafka's: the same topic into a fresh database each time.
        @Test func oneTwoAndFourProcessorsShareTheWork() async throws {
            let kafka = try FaultyKafka(partitions: 16, brokers: 1)
            let log = try kafka.open { $0.queueMaximumMessages = 100_000 }
            var traffic = Traffic(seed: 55)
            for _ in 0..<30 { try await log.append(traffic.next(250)) }
            try await log.append(traffic.rest())
            for count in [1, 2, 4] {
                let bench = Bench(database: try await Bench.database(on: try PostgresCluster.shared()), log: log)
                let workers = (0..<count).map { member in
                    Worker(
                        bench.configuration("member-\(member)") {
                            $0.group = "scale-\(count)"
                            $0.maximumRecords = 2_000
                        }, log: log)
                }
                try await eventually("they start") { workers.contains { $0.status.state.messages > 0 } }
                let (start, before) = (ContinuousClock.now, workers.map(\.status.state.messages).reduce(0, +))
                try await bench.drained()
                let seconds = (ContinuousClock.now - start) / .seconds(1)
                let shares = workers.map(\.status.state.messages)
                print(
                    "scale: \(count) processors: \(Int(Double(shares.reduce(0, +) - before) / seconds)) messages/s,",
                    "shares \(shares)")
                if count > 1 { #expect(shares.count { $0 > 0 } > 1, "the work was not shared: \(shares)") }
                await withTaskGroup(of: Void.self) { tasks in
                    for worker in workers { tasks.addTask { await worker.stop() } }
                }
                try await bench.expectExactlyOnce(traffic)
            }
            try await FaultyKafka.expectNothingForgotten(log)
            await log.close()
        }
    }
}
