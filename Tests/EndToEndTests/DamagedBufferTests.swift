import Foundation
import Glibc
import Testing

extension EndToEnd {
    /// The buffer's file is damaged, or an older one is put in its place: the daemon starts, and the audit closes.
    @Suite(.serialized) struct DamagedBufferTests {
        private func simulate(_ cluster: Cluster, seconds: Int) async throws {
            try await Binaries.sluice(
                "simulate", "--host", "localhost", "--port", String(cluster.mqttPort), "--pki", cluster.pki,
                "--devices", "4", "--rate", "30", "--qos", "mixed", "--version", "5", "--seconds", String(seconds),
                "--journal", cluster.journal)
        }

        private func buffer(_ cluster: Cluster) -> String { cluster.folder.path + "/edge/buffer.db" }

        private func overwrite(_ path: String, at offset: Int, with bytes: [UInt8]) throws {
            let handle = try #require(FileHandle(forWritingAtPath: path))
            try handle.seek(toOffset: UInt64(offset))
            try handle.write(contentsOf: Data(bytes))
            try handle.close()
        }

        private func size(_ path: String) throws -> Int {
            try #require(try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int)
        }

        @Test func aDamagedBacklogIsSalvagedAndAccountedFor() async throws {
            try await withCluster(.init(devices: (1...4).map { "sim-000\($0)" })) { cluster in
                try await cluster.startEdge()
                try await simulate(cluster, seconds: 4)
                await cluster.killEdge()
                let path = buffer(cluster)
                // In the middle of the file, where frames are, and once in the log.
                let pages = try size(path) / 4_096
                try #require(pages > 16)
                try overwrite(path, at: pages / 2 * 4_096, with: [UInt8](repeating: 0, count: 2 * 4_096))
                let log = try size(path + "-wal")
                if log > 100_000 { try overwrite(path + "-wal", at: log / 2, with: [0x55]) }

                try await cluster.startEdge()
                #expect(cluster.edgeLog.contains("buffer was damaged and salvaged"))
                let kept = try FileManager.default.contentsOfDirectory(atPath: cluster.folder.path + "/edge")
                    .filter { $0.hasPrefix("buffer.db.damaged-") }
                #expect(!kept.isEmpty)
                try await cluster.startCloud()
                try await simulate(cluster, seconds: 1)
                let audit = try await cluster.settledAudit(within: 60)
                #expect(audit.status == 0, "\(audit)")
                #expect(audit["buffered"] == 0 && audit["duplicated"] == 0 && audit["stored"] > 100, "\(audit)")
            }
        }

        /// A backup is played back, or a virtual machine's snapshot: what the cloud has had since is not doubled.
        @Test func anOlderCopyLosesAndDoublesNothing() async throws {
            try await withCluster(.init(devices: (1...4).map { "sim-000\($0)" })) { cluster in
                let path = buffer(cluster)
                let copy = cluster.folder.path + "/copy.db"
                try await cluster.startEdge()
                try await simulate(cluster, seconds: 2)
                #expect(try await cluster.stopEdge() == 0)
                try FileManager.default.copyItem(atPath: path, toPath: copy)

                try await cluster.startCloud()
                try await cluster.startEdge()
                try await simulate(cluster, seconds: 2)
                let before = try await cluster.settledAudit(within: 60)
                #expect(before.status == 0 && before["stored"] > 200, "\(before)")
                #expect(try await cluster.stopEdge() == 0)

                for suffix in ["", "-wal"] { try? FileManager.default.removeItem(atPath: path + suffix) }
                try FileManager.default.moveItem(atPath: copy, toPath: path)
                try await cluster.startEdge()
                #expect(!cluster.edgeLog.contains("salvaged"), "an older file is no damaged one")
                try await simulate(cluster, seconds: 1)
                let after = try await cluster.settledAudit(within: 60)
                #expect(after.status == 0, "\(after)")
                #expect(after["duplicated"] == 0 && after["lost"] == 0, "\(after)")
                #expect(after["stored"] > before["stored"], "what came after the copy was put back is there too")
            }
        }
    }
}
