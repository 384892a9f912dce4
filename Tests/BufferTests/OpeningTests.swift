import Foundation
import MQTTSession
import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import Buffer

@Suite struct OpeningTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private func failure(_ open: () throws -> Void) -> String {
        do {
            try open()
            return "opened"
        } catch {
            return "\(error)"
        }
    }

    @Test func theFileBelongsToItsOwnerAlone() async throws {
        let buffer = try scratch.open()
        try await buffer.commit(drafts([0]))
        for suffix in ["", "-wal", ".lock"] {
            let attributes = try FileManager.default.attributesOfItem(atPath: scratch.path + suffix)
            #expect(attributes[.posixPermissions] as? Int == 0o600, "\(suffix)")
        }
        await buffer.close()
    }

    @Test func aSecondDaemonIsRefusedByPid() async throws {
        let buffer = try scratch.open()
        let message = failure { _ = try scratch.open(epoch: 2) }
        #expect(message.contains("process \(getpid());"), "\(message)")
        #expect(failure { _ = try Buffer.offlineAccounting(path: scratch.path) }.contains("process \(getpid());"))
        await buffer.close()
        let second = try scratch.open(epoch: 2)
        await second.close()
    }

    @Test(arguments: 1..<Schema.layouts.count) func anOlderFileIsBroughtUpToDate(layout: Int) async throws {
        let old = try scratch.open()
        try await old.commit(drafts([0, 1]))
        await old.close()
        try rewrite(inLayout: layout)
        #expect(try Buffer.offlineAccounting(path: scratch.path).bufferedMessages == 2)
        let buffer = try scratch.open(epoch: 2)
        let record = SessionRecord(
            id: 1, key: SessionKey(deviceID: "d", clientID: "c"), version: .v5, expiryInterval: 60)
        let will = Will(topic: "w", payload: ByteBuffer(string: "gone"))
        try await buffer.commit([], changes: [.sessionSaved(record), .willSaved(1, will)])
        #expect(try await buffer.accounting().bufferedMessages == 2)
        await buffer.close()
    }

    /// What an earlier program would have written.
    private func rewrite(inLayout layout: Int) throws {
        let older = scratch.path + ".older"
        try Data().write(to: URL(fileURLWithPath: older))
        let connection = try SQLiteConnection(path: older)
        try connection.execute(
            """
            \(Schema.layouts[..<layout].joined()) PRAGMA user_version = \(layout);
            ATTACH '\(scratch.path)' AS now;
            """)
        let columns = [
            "progress": "id, gateway, answered_frame, answered_messages, answered_bytes, last_cut",
            "epoch": "id, epoch, last_sequence, first_frame, last_frame, closed, reported",
            "frame": """
            id, epoch, first_sequence, count, bytes, total_messages, total_bytes, wall_time, header, records
            """,
        ]
        for (table, names) in columns {
            try connection.execute("INSERT INTO \(table) (\(names)) SELECT \(names) FROM now.\(table)")
        }
        connection.close()
        try FileManager.default.removeItem(atPath: scratch.path)
        try FileManager.default.moveItem(atPath: older, toPath: scratch.path)
    }

    @Test func aFileThatCannotBeUsedSaysWhy() async throws {
        let buffer = try scratch.open()
        await buffer.close()
        let newer = Schema.version + 1
        try SQLiteConnection(path: scratch.path).execute("PRAGMA user_version = \(newer)")
        #expect(failure { _ = try scratch.open() }.contains("layout \(newer), this program knows \(Schema.version)"))
        try SQLiteConnection(path: scratch.path).execute("PRAGMA user_version = \(Schema.version)")
        let other = failure { _ = try scratch.open(epoch: 3) { $0.gatewayID = "plant-8" } }
        #expect(other.contains("belongs to the gateway plant-7") && other.contains("plant-8"), "\(other)")
        let again = try scratch.open(epoch: 4)
        try await again.commit(drafts([0]))
        await again.close()
        #expect(failure { _ = try scratch.open(epoch: 4) }.contains("UNIQUE"), "an epoch is never used twice")

        let garbage = scratch.directory + "/garbage.db"
        try Data(repeating: 0x41, count: 10_000).write(to: URL(fileURLWithPath: garbage))
        let unread = failure { _ = try Buffer.offlineAccounting(path: garbage) }
        #expect(unread.contains("cannot be read as a buffer") && unread.contains("start the daemon"), "\(unread)")
        let missing = failure {
            var configuration = scratch.configuration()
            configuration.path = scratch.directory + "/no/buffer.db"
            _ = try Buffer.open(configuration, epoch: Epoch(high: 0, low: 1), logger: quiet)
        }
        #expect(missing.contains("No such file") && missing.contains("directory must exist"), "\(missing)")
        #expect(failure { _ = try Buffer.offlineAccounting(path: scratch.directory + "/no.db") }.contains("no buffer"))
    }

    @Test func anotherDatabaseIsNotTakenForABuffer() throws {
        try FileSystem.create(scratch.path)
        try SQLiteConnection(path: scratch.path).execute("CREATE TABLE other (id)")
        #expect(failure { _ = try scratch.open() }.contains("layout 0"))
        #expect(!FileManager.default.fileExists(atPath: scratch.path + "-wal"), "it is left as it was")
    }

    @Test func framesThatAreMissingAreNoticed() async throws {
        let buffer = try scratch.open()
        try await buffer.commit(drafts([0, 1]))
        await buffer.close()
        try SQLiteConnection(path: scratch.path).execute("DELETE FROM frame")
        #expect(failure { _ = try Buffer.offlineAccounting(path: scratch.path) }.contains("consistency check"))
        let again = try scratch.open(epoch: 2)
        #expect(again.salvage?.cause.contains("consistency check") == true)
        await again.close()
    }

    /// After the first answer that the file cannot be trusted, nothing is read or written any more.
    @Test func aDamagedFileStopsEverything() async throws {
        let buffer = try scratch.open()
        for _ in 0..<4 { try await buffer.commit(drafts([0], payload: 200_000)) }
        await buffer.close()
        let handle = try #require(FileHandle(forWritingAtPath: scratch.path))
        // Inside the first frame's chain of overflow pages: the tables' pages come before, the others' after. The chain
        // is whole, so that only the frame's checksum tells.
        try handle.seek(toOffset: 30 * 4_096 + 100)
        try handle.write(contentsOf: Data([0]))
        try handle.close()

        let damaged = try scratch.open(epoch: 2)
        let cut = try #require(try await damaged.nextCut(maximumBytes: 1 << 30, maximumMessages: 100))
        var failures: [BufferError] = []
        do { _ = try await damaged.contents(of: cut) } catch { failures.append(error) }
        do { try await damaged.commit(drafts([0])) } catch { failures.append(error) }
        do { try await damaged.acknowledge(cut) } catch { failures.append(error) }
        #expect(failures.count == 3 && Set(failures.map(\.description)).count == 1)
        guard case .corrupt(let what)? = failures.first else {
            Issue.record("not corrupt: \(failures)")
            return
        }
        #expect(what.contains("restart the daemon"))
        await damaged.close()
    }
}
