import Foundation
import Glibc
import Testing

extension EndToEnd {
    /// The audit closes on an honest run, and does not on tables that were tampered with.
    @Suite(.serialized) struct AuditTests {
        private func simulate(_ cluster: Cluster, devices: Int = 4, qos: String, version: String) async throws {
            try await Binaries.sluice(
                "simulate", "--host", "localhost", "--port", String(cluster.mqttPort), "--pki", cluster.pki,
                "--devices", String(devices), "--rate", "20", "--qos", qos, "--version", version, "--seconds", "2",
                "--journal", cluster.journal)
        }

        @Test func tamperedTablesAreFound() async throws {
            try await withCluster(.init(devices: (1...4).map { "sim-000\($0)" })) { cluster in
                try await cluster.startCloud()
                try await cluster.startEdge()
                try await simulate(cluster, qos: "mixed", version: "5")
                let honest = try await cluster.settledAudit(within: 30)
                #expect(honest.status == 0, "\(honest)")
                #expect(honest["published"] > 50 && honest["acknowledged"] == honest["published"], "\(honest)")
                #expect(honest["lost"] == 0 && honest["duplicated"] == 0 && honest["redelivered"] == 0, "\(honest)")
                #expect(
                    try await cluster.count("SELECT count(*) FROM measurement")
                        + cluster.count("SELECT count(*) FROM event") == honest["rows"])

                // One row of many that a message has.
                try await cluster.query("CREATE TABLE kept AS SELECT * FROM measurement ORDER BY sequence LIMIT 1")
                let same = "(r.source, r.sequence, r.part) IN (SELECT source, sequence, part FROM kept)"
                try await cluster.query("DELETE FROM measurement r WHERE \(same)")
                let deleted = try await cluster.audit()
                #expect(deleted.status != 0, "\(deleted)")

                try await cluster.query("INSERT INTO measurement SELECT * FROM kept")
                #expect(try await cluster.audit().status == 0)

                try await cluster.query("INSERT INTO measurement SELECT * FROM kept")
                let doubled = try await cluster.audit()
                #expect(doubled.status != 0 && doubled["duplicated"] >= 1, "\(doubled)")
                try await cluster.query(
                    "DELETE FROM measurement r WHERE ctid IN (SELECT ctid FROM measurement r WHERE \(same) LIMIT 1)")
                #expect(try await cluster.audit().status == 0)

                // A whole message.
                try await cluster.query(
                    "DELETE FROM measurement r WHERE (r.source, r.sequence) IN (SELECT source, sequence FROM kept)")
                let lost = try await cluster.audit()
                #expect(lost.status != 0 && lost["lost"] >= 1, "\(lost)")
            }
        }

        /// With no journal the gateway's own accounting is what the tables are held against.
        @Test func theGatewaysAccountingFindsALostMessageToo() async throws {
            try await withCluster(.init(devices: ["sim-0001"])) { cluster in
                try await cluster.startCloud()
                try await cluster.startEdge()
                try await simulate(cluster, devices: 1, qos: "1", version: "4")
                let honest = try await cluster.settledAudit(journal: false, within: 30)
                #expect(honest.status == 0 && honest["stored"] > 20, "\(honest)")
                try await cluster.query(
                    "DELETE FROM measurement WHERE sequence = (SELECT max(sequence) / 2 FROM measurement)")
                let lost = try await cluster.audit(journal: false)
                #expect(lost.status != 0 && lost["lost"] == 1, "\(lost)")
            }
        }
    }
}
