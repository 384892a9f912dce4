import EventLog
import Foundation
import Glibc
import Logging
import Testing

extension EndToEnd {
    /// Processors as processes that share a topic, and their deaths.
    @Suite(.serialized) struct KafkaGroupTests {
        @Test(arguments: KafkaGroup.Broker.available)
        func oneTwoAndFourProcessesShareTheLogAndSurviveDeaths(_ broker: KafkaGroup.Broker) async throws {
            try await withKafkaGroup(broker, partitions: 8) { group in
                try await group.start(1)
                try await group.send(2_000)
                try await group.settle([1: 8])
                try await group.stored(within: 60)

                try await group.start(2)
                try await group.settle([1: 4, 2: 4])
                try await group.send(2_000)
                try await group.stored(within: 60)

                try await group.start(3)
                try await group.start(4)
                try await group.settle([1: 2, 2: 2, 3: 2, 4: 2])
                try await group.send(2_000)
                try await group.stored(within: 60)
                #expect(try await #require(group.metric("sluice_processor_rebalances_total", 1)) >= 3)
                #expect(try await group.metrics(1).contains("sluice_processor_rebalance_seconds_count"))
                _ = try await eventually("the lag is measured", within: 20) {
                    try await group.metrics(4).contains("sluice_processor_lag_seconds{partition=") ? true : nil
                }

                await group.kill(2)
                try await group.send(500)
                let one = try await group.stored(within: 30)

                await group.killAll()
                try await group.send(500)
                for index in [1, 3, 4] { try await group.start(index) }
                let all = try await group.stored(within: 120)
                print("\(broker): served again \(one) s after the death of one of 4, \(all) s after that of all")
            }
        }

        /// A real broker alone: the mock's rebalances wait for their whole time.
        @Test(.enabled(if: KafkaGroup.realBrokers != nil, "set SLUICE_TEST_KAFKA=host:port"))
        func anOrderlyStopHandsItsPartitionsOverAtOnce() async throws {
            try await withKafkaGroup(.real, partitions: 4) { group in
                try await group.start(1)
                try await group.start(2)
                try await group.settle([1: 2, 2: 2])
                #expect(try await group.stop(2) == 0)
                try await group.send(400)
                let took = try await group.stored(within: 8)
                print("real: served again \(took) s after an orderly stop")
                try await group.settle([1: 4])
            }
        }

        @Test(.enabled(if: KafkaGroup.realBrokers != nil, "set SLUICE_TEST_KAFKA=host:port"))
        func aRestartAtOnceMovesNoPartitions() async throws {
            try await withKafkaGroup(.real, partitions: 4) { group in
                try await group.start(1)
                try await group.start(2)
                try await group.settle([1: 2, 2: 2])
                let before = try await #require(group.metric("sluice_processor_rebalances_total", 1))
                await group.kill(2)
                try await group.start(2)
                try await group.settle([1: 2, 2: 2])
                try await group.send(400)
                let took = try await group.stored(within: 20)
                print("real: served again \(took) s after a crash and a restart")
                #expect(try await group.metric("sluice_processor_rebalances_total", 1) == before)
            }
        }

        /// Two processes of one name: the one that was first is told so, and does not throw the other out again.
        @Test(.enabled(if: KafkaGroup.realBrokers != nil, "set SLUICE_TEST_KAFKA=host:port"))
        func aSecondProcessOfTheSameNameIsNoticed() async throws {
            try await withKafkaGroup(.real, partitions: 4) { group in
                try await group.start(1)
                try await group.settle([1: 4])
                let first = try await #require(group.logOfTwin(1))
                try await group.settle([1: 4])
                try await group.send(400)
                try await group.stored(within: 20)
                _ = try await eventually("the first names the reason", within: 20) {
                    first.log.contains("give each its own processor.member") ? true : nil
                }
                first.signal(SIGTERM)
                #expect(try await first.wait(seconds: 30) == 0)
            }
        }

        /// The sleeper has its partitions, their records and perhaps an open transaction when it wakes up; others have them too.
        @Test(arguments: KafkaGroup.Broker.available)
        func aZombieThatWakesUpStoresNothingTwice(_ broker: KafkaGroup.Broker) async throws {
            try await withKafkaGroup(broker, partitions: 4) { group in
                try await group.start(1)
                try await group.start(2)
                try await group.settle([1: 2, 2: 2])
                let load = Task {
                    for _ in 0..<150 {
                        try await group.send(20)
                        try await Task.sleep(for: .milliseconds(150))
                    }
                }
                try await Task.sleep(for: .seconds(2))
                await group.signal(2, SIGSTOP)
                // The session ends within 10 s, and the other one serves all.
                try await group.settle([1: 4], within: 30)
                try await group.stored(within: 30)
                await group.signal(2, SIGCONT)
                try await group.settle([1: 2, 2: 2])
                try await load.value
                try await group.stored(within: 60)
            }
        }

        @Test(arguments: KafkaGroup.Broker.available)
        func deathsUnderLoadLoseAndDoubleNothing(_ broker: KafkaGroup.Broker) async throws {
            try await withKafkaGroup(broker, partitions: 4) { group in
                try await group.start(1)
                try await group.start(2)
                let load = Task {
                    for _ in 0..<160 {
                        try await group.send(50)
                        try await Task.sleep(for: .milliseconds(120))
                    }
                }
                for death in 0..<10 {
                    try await Task.sleep(for: .milliseconds(Int.random(in: 200...2_500)))
                    await group.kill(1 + death % 2)
                    try await group.start(1 + death % 2)
                }
                try await load.value
                try await group.stored(within: 120)
            }
        }

        @Test(
            .enabled(
                if: KafkaBroker.home != nil, "set SLUICE_TEST_KAFKA_HOME to the folder of a Kafka distribution"))
        func aBrokerThatIsKilledUnderLoadLosesNothing() async throws {
            let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
                "sluice-kafka-\(UUID().uuidString)")
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            defer { try? FileManager.default.removeItem(at: folder) }
            let broker = try await KafkaBroker(folder: folder)
            defer { broker.kill() }
            try await withKafkaGroup(.real, partitions: 8, brokers: broker.plaintext) { group in
                try await group.start(1)
                try await group.settle([1: 8])
                let load = Task {
                    for _ in 0..<400 {
                        try await group.send(100)
                        try await Task.sleep(for: .milliseconds(20))
                    }
                }
                for _ in 0..<2 {
                    try await Task.sleep(for: .seconds(2))
                    broker.kill()
                    try await Task.sleep(for: .seconds(3))
                    try await broker.start()
                }
                try await load.value
                try await group.stored(within: 120)
                print("real: \(await group.sent) messages, \(await group.repeats) sends repeated, broker killed twice")
            }
        }

        @Test(.enabled(if: KafkaGroup.realBrokers != nil, "set SLUICE_TEST_KAFKA=host:port"))
        func partitionsAddedUnderLoadLoseAndDoubleNothing() async throws {
            try await withKafkaGroup(.real, partitions: 4) { group in
                let second = try KafkaEventLog.open(
                    group.configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
                try await group.start(1)
                try await group.start(2)
                try await group.settle([1: 2, 2: 2])
                // Two senders, each with its own idea of the partitions, until both know the new ones.
                let load = Task {
                    for round in 0..<100 {
                        try await group.send(100, by: round.isMultiple(of: 2) ? second : nil)
                        try await Task.sleep(for: .milliseconds(250))
                    }
                }
                try await Task.sleep(for: .seconds(3))
                try await group.declare(partitions: 8)
                try await group.settle([1: 4, 2: 4])
                try await load.value
                try await group.stored(within: 60)
                await second.close()
                #expect(try await group.query("SELECT count(*) FROM ingest_offset WHERE next_offset > 0") == "8")
                #expect(try await group.query("SELECT count(*) FROM event") == "0")
            }
        }
    }
}
