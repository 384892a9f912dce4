import Flow
import Foundation
import Testing

@testable import Buffer

/// After an fsync that failed, the kernel shows what the disk may never get.
@Suite struct FailedSyncTests {
    /// What is read after a failed fsync stays: a power cut at any call brings back nothing older.
    @Test func whatIsReadFromALogIsOnTheDisk() throws {
        var (kept, lost) = (0, 0)
        for seed in UInt64(1)...120 {
            let directory = NSTemporaryDirectory() + "sluice-failed-sync-\(UUID().uuidString)"
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            defer { try? FileManager.default.removeItem(atPath: directory) }
            let disk = SimulatedDisk(directory: directory, seed: seed)
            let vfs = DiskVFS(disk, name: "failed-sync-\(seed)")
            var configuration = Buffer.Configuration(path: directory + "/buffer.db", gatewayID: World.gateway)
            configuration.vfs = vfs.name
            try FileSystem.create(configuration.path)

            var connection = try Schema.open(configuration, for: .start)
            try connection.execute("CREATE TABLE probe (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL)")
            let insertion = "INSERT INTO probe (bytes) VALUES (randomblob(200 * 1024))"
            for _ in 0..<2 { try connection.execute(insertion) }
            disk.faults.sync = 1_000
            #expect(throws: SQLiteError.self) { try connection.execute(insertion) }
            connection.close(checkpointing: false)
            disk.faults.sync = 0

            disk.callsUntilCut = Int.random(in: 1...40, using: &disk.random)
            var seen: Int64?
            if let opened = try? Schema.open(configuration, for: .goingOn) {
                seen = try? Self.rows(opened)
                try? opened.checkpoint(truncate: true)
                opened.close(checkpointing: false)
            }
            disk.cutPower()
            disk.restore()

            connection = try Schema.open(configuration, for: .goingOn)
            defer { connection.close() }
            let rows = try #require(try Self.rows(connection))
            #expect(seen.map { rows == $0 } ?? (2...3 ~= rows), "seed \(seed): \(rows) rows, \(seen ?? 0) were read")
            #expect(try connection.text("PRAGMA integrity_check") == "ok", "seed \(seed)")
            if seen != nil { kept += 1 } else { lost += 1 }
        }
        #expect(kept > 20 && lost > 20, "\(kept) logs were read, \(lost) were not")
    }

    private static func rows(_ connection: SQLiteConnection) throws -> Int64? {
        try connection.integer("SELECT count(*) FROM probe")
    }
}
