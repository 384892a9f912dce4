import Foundation
import Glibc
import Testing

extension EndToEnd {
    /// How the daemons start, are asked and end.
    @Suite(.serialized) struct ShutdownTests {
        @Test func terminationDrains() async throws {
            try await withCluster(.init(devices: ["sim-0001", "sim-0002"])) { cluster in
                try await cluster.startCloud()
                try await cluster.startEdge()
                let simulator = try ChildProcess(
                    Binaries.path("sluice"),
                    [
                        "simulate", "--host", "localhost", "--port", String(cluster.mqttPort), "--pki", cluster.pki,
                        "--devices", "2", "--rate", "50", "--qos", "mixed", "--version", "5", "--seconds", "4",
                        "--journal", cluster.journal,
                    ], output: cluster.folder.appendingPathComponent("simulator.log"))
                try await Task.sleep(for: .seconds(1.5))
                for restart in 1...2 {
                    let started = ContinuousClock.now
                    #expect(try await cluster.stopEdge() == 0, "restart \(restart)")
                    #expect(ContinuousClock.now - started < .seconds(10))
                    try await cluster.startEdge()
                }
                let started = ContinuousClock.now
                #expect(try await cluster.stopCloud() == 0)
                #expect(ContinuousClock.now - started < .seconds(10))
                try await cluster.startCloud()
                #expect(try await simulator.wait(seconds: 40) == 0, "\(simulator.log)")
                // The uplink's breaker may have opened while the cloud was away: it waits 30 s, and as long again after a
                // probe that failed.
                let audit = try await cluster.settledAudit(within: 90)
                #expect(audit.status == 0, "\(audit)")
                #expect(audit["acknowledged"] > 50 && audit["lost"] == 0, "\(audit)")
                #expect(try await cluster.stopEdge() == 0)
                #expect(try await cluster.stopCloud() == 0)
            }
        }

        @Test func healthAndMetricsAreServed() async throws {
            try await withCluster(.init()) { cluster in
                try await cluster.startEdge()
                let live = try await run(
                    "curl",
                    [
                        "-sS", "-o", "/dev/null", "-w", "%{http_code}",
                        "http://127.0.0.1:\(cluster.edgeStatus)/health/live",
                    ])
                #expect(live.output == "200")
                #expect(try await Metrics.edge(cluster).keys.contains { $0.hasPrefix("sluice_") })
            }
        }

        @Test func everyConfigurationErrorIsNamedAtOnce() async throws {
            try await withCluster(.init()) { cluster in
                let file = cluster.folder.appendingPathComponent("wrong.yaml")
                try """
                gateway: { id: plant-7 }
                listeners:
                  - { address: 0.0.0.0, port: 1883, plaintext: true }
                limits:
                  device: { messagesPerSecond: fast }
                bufer: { path: /tmp/x }
                mqtt: { receiveMaximum: 70000 }
                """.write(to: file, atomically: true, encoding: .utf8)
                let result = try await run(Binaries.path("sluice-edge"), ["--config", file.path, "--check"])
                #expect(result.status != 0)
                let lines = result.output.split(separator: "\n")
                let expected = [
                    (3, ["plaintext"]), (5, ["messagesPerSecond", "fast"]), (6, ["bufer"]),
                    (7, ["receiveMaximum", "70000"]),
                ]
                for (line, words) in expected {
                    let found = lines.contains { text in
                        text.contains("wrong.yaml:\(line)") && words.allSatisfy { text.contains($0) }
                    }
                    #expect(found, "line \(line) \(words) is not in \(result.output)")
                }
                let own = try String(contentsOf: cluster.edgeConfiguration, encoding: .utf8)
                let stranger = cluster.folder.appendingPathComponent("stranger.yaml")
                try own.replacingOccurrences(of: "edge.key", with: "cloud.key")
                    .replacingOccurrences(of: "id: plant-7", with: "id: plant-8")
                    .write(to: stranger, atomically: true, encoding: .utf8)
                let strange = try await run(Binaries.path("sluice-edge"), ["--config", stranger.path, "--check"])
                #expect(strange.status == 78)
                for words in [
                    "it is not the key of the certificate", "uplink.certificate: found the certificate of the gateway",
                ] {
                    #expect(strange.output.contains(words), "\(strange.output)")
                }
                // What a start would end for, or every client.
                for (configuration, program, from, to, key) in [
                    (cluster.edgeConfiguration, "sluice-edge", "clientCA: ", "edge.crt", "clientCA"),
                    (cluster.cloudConfiguration, "sluice-cloud", "clientCA: ", "edge.crt", "clientCA"),
                ] {
                    let text = try String(contentsOf: configuration, encoding: .utf8)
                    let wrong = cluster.folder.appendingPathComponent("authority.yaml")
                    try text.replacing(try Regex("\(from)[^,}\\n]+"), with: "\(from)\(cluster.pki)/servers/\(to)")
                        .write(to: wrong, atomically: true, encoding: .utf8)
                    let result = try await run(Binaries.path(program), ["--config", wrong.path, "--check"])
                    #expect(
                        result.status == 78 && result.output.contains("tls.\(key): found")
                            && result.output.contains("is no authority's certificate"), "\(result.output)")
                }
                let good = try await run(
                    Binaries.path("sluice-edge"), ["--config", cluster.edgeConfiguration.path, "--check"])
                #expect(good.status == 0, "\(good.output)")
                let cloud = try await run(
                    Binaries.path("sluice-cloud"), ["--config", cluster.cloudConfiguration.path, "--check"])
                #expect(cloud.status == 0, "\(cloud.output)")
            }
        }
    }
}
