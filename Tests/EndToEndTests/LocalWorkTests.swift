import Foundation
import Glibc
import Testing

extension EndToEnd {
    /// Aggregates instead of readings in the database, and a ledger that says what stands for each reading: with real
    /// devices, a real cloud, kills and the audit.
    @Suite(.serialized) struct LocalWorkTests {
        private static let devices = (1...4).map { "sim-000\($0)" }
        private static let rules = """
            local:
              rules:
                - name: telemetry
                  filter: "devices/+/telemetry"
                  action: aggregate
                  window: 2s
                  values: [last, count]
                - { name: debugging, filter: "devices/+/debug/#", action: discard }
            """

        private func addRules(_ cluster: Cluster) throws {
            let text = try String(contentsOf: cluster.edgeConfiguration, encoding: .utf8)
            try (text + "\n" + Self.rules).write(to: cluster.edgeConfiguration, atomically: true, encoding: .utf8)
        }

        private func simulate(_ cluster: Cluster, seconds: Int) async throws {
            try await Binaries.sluice(
                "simulate", "--host", "localhost", "--port", String(cluster.mqttPort), "--pki", cluster.pki,
                "--devices", "4", "--rate", "30", "--qos", "mixed", "--version", "5", "--seconds", String(seconds),
                "--journal", cluster.journal)
        }

        private func publish(_ cluster: Cluster, topic: String, message: String) async throws {
            let device = Self.devices[0]
            let result = try await run(
                "mosquitto_pub",
                [
                    "-h", "localhost", "-p", String(cluster.mqttPort), "--cafile", cluster.pki + "/ca.crt",
                    "--cert", "\(cluster.pki)/devices/\(device).crt", "--key", "\(cluster.pki)/devices/\(device).key",
                    "-q", "1", "-i", "probe", "-t", "devices/\(device)/\(topic)", "-m", message,
                ], within: 20)
            #expect(result.status == 0, "\(result.output)")
        }

        /// Messages of the aggregates' counts: one metric `n.count` a message, since every reading has its number.
        private static let counted = """
            SELECT coalesce(sum(r.value), 0)::bigint FROM measurement r JOIN metric m ON m.id = r.metric_id
            WHERE m.path = 'n.count'
            """

        @Test func theAuditClosesOverAggregatesThroughKills() async throws {
            try await withCluster(.init(devices: Self.devices)) { cluster in
                try addRules(cluster)
                try await cluster.startEdge()
                try await simulate(cluster, seconds: 3)
                await cluster.killEdge()
                try await cluster.startEdge()
                try await cluster.startCloud()
                try await publish(cluster, topic: "debug/a", message: "noise")
                try await publish(cluster, topic: "telemetry", message: "no number")
                try await simulate(cluster, seconds: 3)
                let audit = try await cluster.settledAudit(within: 60)
                #expect(audit.status == 0, "\(audit)")
                #expect(audit["lost"] == 0 && audit["duplicated"] == 0 && audit["buffered"] == 0, "\(audit)")

                let aggregated = try await cluster.count(
                    "SELECT sum(upper(numbers) - lower(numbers)) FROM ledger WHERE reason = 5")
                #expect(aggregated > 300, "\(aggregated)")
                #expect(try await cluster.count(Self.counted) == aggregated, "each is in one aggregate")
                #expect(
                    try await cluster.count("SELECT sum(upper(numbers) - lower(numbers)) FROM ledger WHERE reason = 6")
                        == 1)
                // Every line names messages of its own device that are there.
                let unfounded = try await cluster.count(
                    """
                    SELECT count(*) FROM ledger l WHERE l.reason = 5 AND NOT EXISTS (
                        SELECT FROM measurement r JOIN source s ON s.id = r.source JOIN device d ON d.id = r.device_id
                        JOIN source o ON o.id = l.source
                        WHERE s.epoch = l.aggregate_epoch AND s.gateway_id = o.gateway_id AND d.name = l.device
                        AND r.sequence = lower(l.aggregates))
                    """)
                #expect(unfounded == 0)
                let lines = try await cluster.count("SELECT count(*) FROM ledger WHERE reason = 5")
                #expect(lines * 10 < aggregated, "ranges, not messages")
                #expect(try await cluster.count("SELECT count(*) FROM event WHERE bytes = 'no number'") == 1)
                let metrics = try await run(
                    "curl", ["-fsS", "http://127.0.0.1:\(cluster.edgeStatus)/metrics"], within: 5)
                #expect(metrics.output.contains(#"sluice_local_aggregates_total{rule="telemetry"}"#))
                #expect(metrics.output.contains("sluice_local_unreadable_messages_total 1"))
                #expect(metrics.output.contains(#"sluice_local_consumed_messages_total{rule="debugging"} 1"#))
                let page = try await run("curl", ["-fsS", "http://127.0.0.1:\(cluster.edgeStatus)/"], within: 5)
                #expect(page.output.contains("Local work") && page.output.contains("telemetry"))
            }
        }
    }
}
