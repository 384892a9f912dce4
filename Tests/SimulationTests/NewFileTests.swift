import Foundation
import Testing

@testable import Buffer

/// The first moments of a buffer's file.
@Suite struct NewFileTests {
    /// SQLite says that the mode is changed before it is. In the old one a power cut brings back a journal that was deleted, and
    /// with it what was before an acknowledged commit.
    @Test func aFileThatDoesNotGetItsLogIsNotOpened() throws {
        var (opened, refused) = (0, 0)
        for seed in UInt64(1)...150 {
            let directory = NSTemporaryDirectory() + "sluice-new-file-\(UUID().uuidString)"
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            defer { try? FileManager.default.removeItem(atPath: directory) }
            let disk = SimulatedDisk(directory: directory, seed: seed)
            let vfs = DiskVFS(disk, name: "new-file-\(seed)")
            var configuration = Buffer.Configuration(path: directory + "/buffer.db", gatewayID: World.gateway)
            configuration.vfs = vfs.name
            try FileSystem.create(configuration.path)
            disk.faults.sync = 120
            do {
                let connection = try Schema.open(configuration, for: .start)
                disk.faults.sync = 0
                opened += 1
                let mode = try connection.text("PRAGMA journal_mode")
                #expect(mode == "wal", "seed \(seed)")
                let header = SimulatedDisk.contents(configuration.path).prefix(20).suffix(2)
                #expect(Array(header) == [2, 2], "seed \(seed): the file says how it is read and written")
                connection.close()
            } catch is BufferError {
                refused += 1
            }
        }
        #expect(opened > 20 && refused > 20, "\(opened) opened, \(refused) refused")
    }
}
