import Foundation
import Glibc
import Testing

extension EndToEnd {
    /// A whole installation on three brokers, with the topic that `cloud/topics.yaml` declares.
    @Suite(
        .serialized,
        .enabled(
            if: KafkaBroker.home != nil, "set SLUICE_TEST_KAFKA_HOME to the folder of a Kafka distribution"))
    struct KafkaClusterTests {
        /// Enough that every broker leads partitions that are written to.
        private static let devices = 24
        private static let ids = (1...devices).map { "sim-" + ($0 < 10 ? "000" : "00") + "\($0)" }

        /// One after the other dies and comes back; once two are away.
        @Test func brokersThatDieLoseAndDoubleNothing() async throws {
            let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
                "sluice-kafka-\(UUID().uuidString)")
            defer { try? FileManager.default.removeItem(at: folder) }
            let brokers = try await KafkaBroker.cluster(of: 3, folder: folder)
            defer { for broker in brokers { broker.kill() } }
            let names = brokers.map { "\"\($0.plaintext)\"" }.joined(separator: ", ")
            let options = Cluster.Options(devices: Self.ids, eventLog: "{ kafka: { brokers: [\(names)] } }")
            try await withCluster(options) { cluster in
                let topics = [
                    "--config", cluster.cloudConfiguration.path, "--topics", Repository.path("cloud/topics.yaml"),
                ]
                try await Binaries.sluice(["topics", "apply"] + topics)
                try await Binaries.sluice(["topics", "check"] + topics)
                try await cluster.startCloud()
                try await cluster.startEdge()
                let load = try simulate(cluster)
                try await storesOfAllDevices(cluster)

                for index in 0..<2 {
                    brokers[index].kill()
                    let took = try await storesOfAllDevices(cluster)
                    print(
                        "brokers: all devices' messages are stored again \(took) after the death of broker \(index + 1)"
                    )
                    guard index == 0 else { break }
                    try await brokers[index].start()
                    try await inSync(brokers[2])
                }
                brokers[2].kill()
                try await nothingIsAcknowledged(cluster)

                try await KafkaBroker.start(Array(brokers[1...]))
                try await inSync(brokers[0])
                #expect(load.status == nil, "the load has ended before the brokers were back")
                load.signal(SIGINT)
                try await closes(cluster, load)
            }
        }

        private func simulate(_ cluster: Cluster) throws -> ChildProcess {
            try ChildProcess(
                Binaries.path("sluice"),
                [
                    "simulate", "--host", "localhost", "--port", String(cluster.mqttPort), "--pki", cluster.pki,
                    "--devices", String(Self.devices), "--rate", "5", "--qos", "mixed", "--seconds", "400",
                    "--journal", cluster.journal,
                ], output: cluster.folder.appendingPathComponent("simulate.log"))
        }

        /// Waits until messages of every device are stored that were taken from now on.
        @discardableResult
        private func storesOfAllDevices(_ cluster: Cluster) async throws -> Duration {
            let start = ContinuousClock.now
            let from = Date().timeIntervalSince1970
            _ = try await eventually("messages of all devices are stored", within: 60) { () -> Bool? in
                let count = try await cluster.count(
                    "SELECT count(DISTINCT device_id) FROM measurement WHERE time > to_timestamp(\(from))")
                return count == Self.devices ? true : nil
            }
            return ContinuousClock.now - start
        }

        private func inSync(_ broker: KafkaBroker) async throws {
            _ = try await eventually("all replicas are in sync", within: 60) {
                try await broker.underReplicated().isEmpty ? true : nil
            }
        }

        /// Batches that the ingest has acknowledged, and answers of 429 and 503.
        private func answers(_ cluster: Cluster) async throws -> (acknowledged: Int, again: Int) {
            let url = "http://127.0.0.1:\(cluster.cloudStatus)/metrics"
            let lines = try await run("curl", ["-fsS", "-m", "5", url]).output.split(separator: "\n")
            func value(_ name: String) throws -> Int {
                let line = try #require(lines.first { $0.hasPrefix(name + " ") }, "\(name)")
                return try #require(Int(line.dropFirst(name.count + 1)))
            }
            let again = try ["429", "503"].map { try value("sluice_ingest_refused_total{status=\"\($0)\"}") }
            return (try value("sluice_ingest_batches_total"), again[0] + again[1])
        }

        /// One broker of three is fewer than `min.insync.replicas`. The gateway goes on, and keeps what it takes.
        private func nothingIsAcknowledged(_ cluster: Cluster) async throws {
            // Answers that were on their way when the broker died.
            try await Task.sleep(for: .seconds(1))
            let before = try await answers(cluster)
            let end = ContinuousClock.now + .seconds(90)
            var now = before
            while now.again < before.again + 2, ContinuousClock.now < end {
                try await Task.sleep(for: .milliseconds(200))
                now = try await answers(cluster)
                #expect(now.acknowledged == before.acknowledged)
            }
            #expect(now.again >= before.again + 2, "\(cluster.cloudLog.suffix(2_000))")
            #expect(await Cluster.isReady(port: cluster.edgeStatus))
            let audit = try await cluster.audit()
            #expect(audit["buffered"] > 0 && audit["lost"] == 0, "\(audit)")
        }

        private func closes(_ cluster: Cluster, _ load: ChildProcess) async throws {
            #expect(try await load.wait(seconds: 60) == 0, "\(load.log)")
            let audit = try await cluster.settledAudit(within: 120)
            #expect(audit.status == 0, "\(audit)")
            #expect(audit["acknowledged"] > 2_000 && audit["acknowledged"] == audit["published"], "\(audit)")
            #expect(audit["lost"] == 0 && audit["duplicated"] == 0 && audit["redelivered"] == 0, "\(audit)")
            #expect(audit["buffered"] == 0 && audit["inLog"] == 0, "\(audit)")
            print("brokers: \(audit["acknowledged"]) messages acknowledged and stored")
        }
    }
}
