import Foundation
import Glibc
import Testing

extension EndToEnd {
    /// Days that are old leave the tables for the object store, and the audit closes all the same.
    @Suite(.serialized) struct ColdArchiveTests {
        @Test func anOldDayIsArchivedThroughKillsAndComesBack() async throws {
            try await withCluster(.init(devices: ["sim-0001", "sim-0002"])) { cluster in
                try await cluster.startCloud()
                try await cluster.startEdge()
                try await Binaries.sluice(
                    "simulate", "--host", "localhost", "--port", String(cluster.mqttPort), "--pki", cluster.pki,
                    "--devices", "2", "--rate", "20", "--qos", "1", "--version", "5", "--seconds", "2", "--journal",
                    cluster.journal)
                let honest = try await cluster.settledAudit(journal: false, within: 30)
                #expect(honest.status == 0 && honest["stored"] > 20, "\(honest)")
                await cluster.killCloud()

                // As if it had been a hundred days ago.
                let day = try await cluster.query("SELECT (now() AT TIME ZONE 'UTC')::date - 100")[0][0]
                try await cluster.query(
                    """
                    SELECT ensure_partitions('\(day)');
                    \(Self.moved("measurement", to: day)); \(Self.moved("event", to: day))
                    """)
                let before = try await cluster.query(Self.content("measurement"))
                let file = cluster.cloudConfiguration
                let text = try String(contentsOf: file, encoding: .utf8)
                try (text + "\nobjects: { folder: { path: \(cluster.folder.path)/objects } }\narchive: {}\n")
                    .write(to: file, atomically: true, encoding: .utf8)
                for milliseconds in [60, 150, 250, 350] {
                    try await cluster.startCloud(waiting: false)
                    try await Task.sleep(for: .milliseconds(milliseconds))
                    await cluster.killCloud()
                }
                try await cluster.startCloud()
                _ = try await eventually("the day is archived", within: 20) { () -> Bool? in
                    try await cluster.query(
                        "SELECT archive_is_complete('\(day)') AND EXISTS (SELECT FROM archive_day WHERE day = '\(day)')"
                    ) == [["t"]] ? true : nil
                }
                let list = try await Binaries.sluice("archive", "list", "--config", file.path)
                #expect(list.contains(day) && !list.contains("addendum"), "\(list)")

                try await cluster.query("DELETE FROM measurement; DELETE FROM event")
                let audit = try AuditResult(
                    await run(
                        Binaries.path("sluice"),
                        [
                            "audit", "--database", cluster.database, "--buffer", cluster.buffer, "--config", file.path,
                            "--closed", "--json",
                        ]))
                #expect(audit.status == 0 && audit["archived"] == honest["stored"], "\(audit)")
                #expect(audit["rows"] == honest["rows"] && audit["stored"] == honest["stored"], "\(audit)")

                let restored = try await Binaries.sluice(
                    "archive", "restore", day, "--config", file.path, "--database", cluster.database, "--schema", "old")
                #expect(restored.contains("rows in old.measurement"), "\(restored)")
                #expect(try await cluster.query(Self.content("old.measurement")) == before)
                let none = try await run(
                    Binaries.path("sluice"), ["archive", "restore", "2001-01-01", "--config", file.path])
                #expect(none.status != 0 && none.output.contains("2001-01-01 is not in the archive"), "\(none)")
            }
        }

        /// An update does not take a row from one of TimescaleDB's chunks to another.
        private static func moved(_ table: String, to day: String) -> String {
            """
            CREATE TEMP TABLE moved_\(table) AS SELECT * FROM \(table); DELETE FROM \(table);
            UPDATE moved_\(table) SET time = '\(day) 12:00:00+00'; INSERT INTO \(table) SELECT * FROM moved_\(table)
            """
        }

        private static func content(_ table: String) -> String {
            "SELECT count(*), md5(string_agg(r::text, ' ' ORDER BY source, sequence, part)) FROM \(table) r"
        }
    }
}
