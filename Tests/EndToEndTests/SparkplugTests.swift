import Foundation
import TestSupport
import Testing

extension EndToEnd {
    /// Sparkplug from a client to the rows, with payloads that are written byte by byte.
    @Suite(.serialized) struct SparkplugTests {
        private func publish(_ cluster: Cluster, _ topic: String, _ payload: [UInt8]) async throws {
            let file = cluster.folder.appendingPathComponent("payload")
            try Data(payload).write(to: file)
            let result = try await run(
                "mosquitto_pub",
                [
                    "-h", "127.0.0.1", "-p", String(cluster.plaintextPort), "-q", "1", "-i", "edge-node", "-t",
                    "spBv1.0/\(topic)", "-f", file.path,
                ], within: 20)
            try #require(result.status == 0, "\(result.output)")
        }

        private func page(_ cluster: Cluster) async throws -> String {
            try await run("curl", ["-fsS", "http://127.0.0.1:\(cluster.edgeStatus)/"]).output
        }

        @Test func aNodesLifeBecomesRowsAndIsOnTheStatusPage() async throws {
            try await withCluster { cluster in
                let configuration = try String(contentsOf: cluster.edgeConfiguration, encoding: .utf8)
                try configuration.replacingOccurrences(
                    of: "access:\n", with: "access:\n  - { allow: all, topic: \"spBv1.0/#\" }\n"
                ).write(to: cluster.edgeConfiguration, atomically: true, encoding: .utf8)
                try await cluster.startCloud()
                try await cluster.startEdge()
                let now = UInt64(Date().timeIntervalSince1970 * 1_000)
                let bdSeq = SparkplugBytes.Metric("bdSeq", datatype: 8, .long(1))
                try await publish(
                    cluster, "Plant/NBIRTH/Line 1",
                    SparkplugBytes.payload(
                        timestamp: now, seq: 0,
                        [bdSeq, .init("Temperature", alias: 7, timestamp: now, datatype: 2, .int(65_535))]))
                _ = try await eventually("the birth's alias is stored", within: 20) {
                    try await cluster.count("SELECT count(*) FROM sparkplug_birth") == 1 ? true : nil
                }
                #expect(try await page(cluster).contains("<td>Plant/Line 1</td><td><span class=\"badge good\">online"))
                // What the cloud knows of aliases is in the database alone.
                #expect(try await cluster.stopCloud() == 0)
                try await publish(
                    cluster, "Plant/NDATA/Line 1",
                    SparkplugBytes.payload(
                        timestamp: now + 1, seq: 3, [.init(alias: 7, timestamp: now + 1, .int(65_534))]))
                try await publish(
                    cluster, "Plant/NDEATH/Line 1", SparkplugBytes.payload(timestamp: now, [bdSeq]))
                try await cluster.startCloud()
                let rows = try await eventually("all rows", within: 20) {
                    let rows = try await cluster.query(
                        """
                        SELECT r.sequence, m.topic, m.path, r.value FROM measurement r
                        JOIN metric m ON m.id = r.metric_id ORDER BY r.sequence, r.part
                        """)
                    return rows.count == 6 ? rows : nil
                }
                let topic = "spBv1.0/Plant/Line 1"
                #expect(
                    rows == [
                        ["1", topic, "bdSeq", "1"], ["1", topic, "Temperature", "-1"], ["1", topic, "online", "1"],
                        ["2", topic, "Temperature", "-2"], ["3", topic, "bdSeq", "1"], ["3", topic, "online", "0"],
                    ])
                #expect(try await page(cluster).contains("<td>Plant/Line 1</td><td><span class=\"badge bad\">offline"))
                let metrics = try await Metrics.edge(cluster)
                #expect(metrics["sluice_sparkplug_lost_messages_total"] == 2)
                #expect(metrics["sluice_sparkplug_nodes_online"] == 0)
                #expect(try await cluster.settledAudit(journal: false, within: 20).status == 0)
            }
        }
    }
}
