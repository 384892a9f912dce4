import Foundation
import Glibc
import TestSupport
import Testing

extension EndToEnd {
    /// `sluice-cloud` with a part of its work.
    @Suite(.serialized) struct RoleTests {
        private func start(
            _ cluster: Cluster, _ role: String, _ configuration: String, port: Int
        ) async throws -> ChildProcess {
            let file = cluster.folder.appendingPathComponent("\(role).yaml")
            try configuration.replacingOccurrences(of: "port: \(cluster.cloudStatus)", with: "port: \(port)")
                .replacingOccurrences(of: "/cloud/shutdown", with: "/cloud/shutdown-\(role)")
                .write(to: file, atomically: true, encoding: .utf8)
            let child = try ChildProcess(
                Binaries.path("sluice-cloud"), ["--config", file.path, "--role", role],
                output: cluster.folder.appendingPathComponent("cloud.log"))
            _ = try await eventually("the role \(role) is ready", within: 30) { () -> Bool? in
                if let status = child.status {
                    throw ChildProcess.Failure(description: "it ended with \(status): \(child.log.suffix(2_000))")
                }
                return await Cluster.isReady(port: port) ? true : nil
            }
            return child
        }

        private func ask(_ port: Int, _ path: String) async throws -> String {
            try await run("curl", ["-sS", "-m", "5", "http://127.0.0.1:\(port)\(path)"], within: 8).output
        }

        /// It takes batches all the while, and a processor stores them when there is a database.
        @Test func ingestIsReadyWithoutADatabase() async throws {
            let mock = try MockKafka(partitions: 4)
            try await withCluster(.init(devices: ["sim-0001", "sim-0002"], ownsPostgres: true)) { cluster in
                let configuration = try String(contentsOf: cluster.cloudConfiguration, encoding: .utf8)
                    .split(separator: "\n", omittingEmptySubsequences: false)
                    .map { line in
                        line.hasPrefix("eventLog:")
                            ? "eventLog: { kafka: { brokers: [\"\(mock.brokers)\"], topic: \(mock.topic) } }" : line
                    }.joined(separator: "\n")
                try await Postgres.script("stop", cluster.postgres)
                let ingest = try await start(cluster, "ingest", configuration, port: cluster.cloudStatus)
                try await cluster.startEdge()
                try await Binaries.sluice(
                    "simulate", "--host", "localhost", "--port", String(cluster.mqttPort), "--pki", cluster.pki,
                    "--devices", "2", "--rate", "50", "--qos", "1", "--version", "5", "--seconds", "3", "--journal",
                    cluster.journal)
                _ = try await eventually("the log has all of them", within: 20) { () -> Bool? in
                    let line = try await ask(cluster.cloudStatus, "/metrics").split(separator: "\n")
                        .first { $0.hasPrefix("sluice_ingest_messages_total ") }
                    return line.flatMap { Int($0.split(separator: " ")[1]) } ?? 0 > 200 ? true : nil
                }
                let health = try await ask(cluster.cloudStatus, "/health/ready")
                #expect(health.contains(#""event log":{"status":"good"}"#), "\(health)")
                #expect(!health.contains("database"), "\(health)")

                try await Postgres.script("start", cluster.postgres)
                let process = try await start(cluster, "process", configuration, port: Ports.free(1)[0])
                let audit = try await cluster.settledAudit(within: 40)
                #expect(audit.status == 0 && audit["lost"] == 0 && audit["acknowledged"] > 200, "\(audit)")
                for child in [ingest, process] {
                    child.signal(SIGTERM)
                    #expect(try await child.wait(seconds: 30) == 0, "\(child.log.suffix(2_000))")
                }
            }
            try mock.end()
        }
    }
}
