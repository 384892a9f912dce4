import EventLog
import Foundation
import Logging
import Operations
import Testing

extension EndToEnd {
    /// `sluice topics` on a real broker: the mock cluster has no topics to be made or configured.
    @Suite(
        .serialized,
        .enabled(if: KafkaGroup.realBrokers != nil, "set SLUICE_TEST_KAFKA=host:port"))
    struct TopicsTests {
        private let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
            "sluice-\(UUID().uuidString)")
        private let topic = "sluice-test-\(UUID().uuidString)"
        private let brokers = KafkaGroup.realBrokers ?? ""

        private func sluice(
            _ command: String, replication: Int? = 1, _ change: (String) -> String = { $0 }
        ) async throws -> ToolResult {
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            let (config, topics) = (folder.path + "/cloud.yaml", folder.path + "/topics.yaml")
            try "eventLog: { kafka: { brokers: [\"\(brokers)\"], topic: \(topic) } }"
                .write(toFile: config, atomically: true, encoding: .utf8)
            let declared = try String(contentsOfFile: Repository.path("cloud/topics.yaml"), encoding: .utf8)
                .replacingOccurrences(of: "name: sensor-data", with: "name: \(topic)")
                .replacingOccurrences(of: "partitions: 32", with: "partitions: 4")
            try change(declared).write(toFile: topics, atomically: true, encoding: .utf8)
            return try await run(
                Binaries.path("sluice"),
                ["topics", command, "--config", config, "--topics", topics]
                    + (replication.map { ["--replication", "\($0)"] } ?? []))
        }

        private func admin() throws -> KafkaTopicAdmin {
            try KafkaTopicAdmin(
                KafkaConfiguration(brokers: brokers), logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        }

        @Test func applyMakesWhatCheckProves() async throws {
            defer { try? FileManager.default.removeItem(at: folder) }
            let missing = try await sluice("check")
            #expect(missing.status == 1 && missing.output.contains("\(topic): declared, but not in the cluster"))
            // One broker cannot have three replicas; the broker's own words say so.
            let refused = try await sluice("apply", replication: nil)
            #expect(refused.status != 0 && refused.output.contains("creating \(topic) failed"), "\(refused.output)")
            let applied = try await sluice("apply")
            #expect(applied.status == 0 && applied.output.contains("created"), "\(applied.output)")
            #expect(try await sluice("check").status == 0)
            // Nothing to do: nothing is done.
            #expect(try await sluice("apply").output == "\(topic): as declared, 4 partitions\n")

            let three = try await sluice("check", replication: nil)
            #expect(three.status == 1 && three.output.contains("replication of partition 3: declared 3, found 1"))
            #expect(three.output.contains("min.insync.replicas: declared 2, found 1 (of the topic)"))
        }

        @Test func applyMendsAndKeepsWhatOthersHaveSet() async throws {
            defer { try? FileManager.default.removeItem(at: folder) }
            #expect(try await sluice("apply").status == 0)
            let declaration = TopicDeclaration(name: topic, partitions: 4, replication: 1, configuration: [:])
            // Somebody else's request: it takes all the others away.
            try admin().perform(
                .configure(["retention.ms": "1000", "max.message.bytes": "2000000"]), on: declaration)
            let changed = try await sluice("check")
            #expect(changed.status == 1, "\(changed.output)")
            for text in [
                "retention.ms: declared 259200000, found 1000 (of the topic)",
                "message.timestamp.type: declared LogAppendTime, found CreateTime (the brokers' default)",
                "max.message.bytes: not declared, found 2000000; declare it, or remove it",
            ] { #expect(changed.output.contains(text), "\(changed.output)") }

            let mended = try await sluice("apply")
            #expect(mended.status == 1 && mended.output.contains("configured"), "\(mended.output)")
            #expect(
                !mended.output.contains("retention.ms") && mended.output.contains("max.message.bytes: not declared"))
            let state = try #require(try admin().state(of: topic))
            #expect(state.configuration["retention.ms"] == .init("259200000", isOwn: true))
            #expect(state.configuration["max.message.bytes"] == .init("2000000", isOwn: true))
            let declared = try await sluice("check") {
                $0.replacingOccurrences(of: "retention.ms:", with: "max.message.bytes: 2000000\n      retention.ms:")
            }
            #expect(declared.status == 0, "\(declared.output)")
        }

        /// A broker makes the topic for a program that asks, between the look and the creation.
        @Test func whatOthersHaveMadeMeanwhileIsNoFailure() throws {
            let topic = TopicDeclaration(name: topic, partitions: 1, replication: 1, configuration: [:])
            #expect(try admin().perform(.create, on: topic))
            #expect(try !admin().perform(.create, on: topic))
        }

        @Test func partitionsGrowAndNeverShrink() async throws {
            defer { try? FileManager.default.removeItem(at: folder) }
            #expect(try await sluice("apply").status == 0)
            let grown = try await sluice("apply") {
                $0.replacingOccurrences(of: "partitions: 4", with: "partitions: 6")
            }
            #expect(grown.status == 0 && grown.output.contains("has 6 partitions now"), "\(grown.output)")
            let fewer = try await sluice("apply")
            #expect(fewer.status == 1 && fewer.output.contains("partitions: declared 4, found 6; Kafka cannot take"))
            #expect(try admin().state(of: topic)?.replicas.count == 6)
        }
    }

    /// What `sluice topics` says without a broker.
    @Suite struct TopicsMistakesTests {
        @Test(arguments: [
            ("eventLog: { kafka: { brokers: [\"127.0.0.1:1\"], topic: other } }", "does not declare other"),
            ("eventLog: { embedded: {} }", "found an embedded log"),
            ("eventLog: { kafka: { brokers: [\"127.0.0.1:1\"] } }", "Error: Kafka: the cluster's topics cannot be had"),
        ])
        func mistakes(configuration: String, expected: String) async throws {
            let file = FileManager.default.temporaryDirectory.path + "/sluice-\(UUID().uuidString).yaml"
            defer { try? FileManager.default.removeItem(atPath: file) }
            try configuration.write(toFile: file, atomically: true, encoding: .utf8)
            let result = try await run(
                Binaries.path("sluice"),
                ["topics", "check", "--config", file, "--topics", Repository.path("cloud/topics.yaml")])
            #expect(result.status != 0 && result.output.contains(expected), "\(result.output)")
        }
    }
}
