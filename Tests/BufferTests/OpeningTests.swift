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

    @Test func aFileThatACrashLeftWithoutTablesIsNew() async throws {
        try FileSystem.create(scratch.path)
        let connection = try SQLiteConnection(path: scratch.path)
        #expect(try connection.text("PRAGMA journal_mode = WAL") == "wal")
        connection.close()
        #expect(try FileManager.default.attributesOfItem(atPath: scratch.path)[.size] as? Int == 4_096)
        let buffer = try scratch.open()
        #expect(buffer.salvage == nil)
        await buffer.close()
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
        #expect(failure { _ = try Buffer.offlineAccounting(path: scratch.path) }.contains("start it first"))
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

    enum Loss: CaseIterable { case emptied, zeroed, cut, removed }

    /// SQLite takes each of these for a log that was never longer.
    @Test(arguments: Loss.allCases) func aLogThatHasLostItsEndIsMissed(_ loss: Loss) async throws {
        let buffer = try scratch.open { $0.checkpointPages = 1 << 20 }
        for _ in 0..<20 { try await buffer.commit(drafts([0])) }
        var files = try BufferFiles(at: scratch.path)
        let lock = try Data(contentsOf: URL(fileURLWithPath: scratch.path + ".lock"))
        await buffer.close()
        switch loss {
        case .emptied: files.log = []
        case .zeroed: files.log = [UInt8](repeating: 0, count: files.log.count)
        case .cut: files.log.removeLast(files.log.count / 2)
        case .removed: files.log = []
        }
        try files.put(to: scratch.path)
        if loss == .emptied { try Data().write(to: URL(fileURLWithPath: scratch.path + "-wal")) }
        try lock.write(to: URL(fileURLWithPath: scratch.path + ".lock"))
        let after = try scratch.open(epoch: 2)
        let salvage = try #require(after.salvage)
        #expect(UInt64(salvage.messages) + salvage.missing == 20 && salvage.missing > 0, "\(salvage)")
        var drained = Drained()
        try await drained.drain(after)
        #expect(drained.ledger.reduce(0) { $0 + UInt64($1.numbers.count) } == salvage.missing)
        await after.close()
        let third = try scratch.open(epoch: 3)
        #expect(third.salvage == nil)
        await third.close()
    }

    @Test func aFileThatGoesUnderTheDaemonIsMissed() async throws {
        let buffer = try scratch.open()
        try await buffer.commit(drafts([0]))
        try FileManager.default.moveItem(atPath: scratch.path, toPath: scratch.path + ".moved")
        try await Task.sleep(for: .seconds(1.2))
        _ = try? await buffer.commit(drafts([0]))
        let told = await #expect(throws: BufferError.self) { try await buffer.commit(drafts([0])) }
        #expect("\(String(describing: told))".contains("moved or deleted"))
        await buffer.close()
        let after = try scratch.open(epoch: 2)
        #expect(after.salvage?.messages == 2, "the log is still there")
        await after.close()
    }

    @Test func aFileOfSomebodyElseIsLeftAlone() throws {
        let path = scratch.directory + "/notes.txt"
        let text = Data("what I must not forget\n".utf8)
        try text.write(to: URL(fileURLWithPath: path))
        #expect(failure { _ = try scratch.open { $0.path = path } }.contains("is no buffer"))
        #expect(
            failure { _ = try Buffer.statsOffline(path: scratch.directory + "/notes2.txt") }.contains("there is no"))
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == text)
    }

    /// A start that upgrades it, or a second that takes it for damaged and moves it, would take it from its owner.
    @Test func aDatabaseOfAnotherProgramIsLeftAlone() throws {
        let path = scratch.directory + "/other.db"
        #expect(FileManager.default.createFile(atPath: path, contents: nil))
        try SQLiteConnection(path: path).execute(
            """
            PRAGMA application_id=7; CREATE TABLE segment(id INTEGER PRIMARY KEY, data BLOB); PRAGMA user_version=1;
            INSERT INTO segment VALUES (1, 'what somebody needs')
            """)
        let before = try Data(contentsOf: URL(fileURLWithPath: path))
        for epoch in 1...2 as ClosedRange<UInt64> {
            let told = failure { _ = try scratch.open(epoch: epoch) { $0.path = path } }
            #expect(told.contains("is a SQLite file of another program") && told.count < 300, "\(told)")
        }
        #expect(failure { _ = try Buffer.statsOffline(path: path) }.contains("of another program"))
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == before)
    }

    @Test func theFileIsAFileOfItsOwn() async throws {
        let link = scratch.directory + "/link.db"
        let target = scratch.directory + "/elsewhere"
        try FileManager.default.createDirectory(atPath: target, withIntermediateDirectories: true)
        let first = try scratch.open { $0.path = target + "/buffer.db" }
        await first.close()
        try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: target + "/buffer.db")
        let linked = try scratch.open(epoch: 2) { $0.path = link }
        try await linked.commit(drafts([0]))
        let names = try FileManager.default.contentsOfDirectory(atPath: target)
        #expect(Set(names).isSuperset(of: ["buffer.db", "buffer.db-wal", "buffer.db.lock"]), "\(names)")
        await linked.close()

        #expect(failure { _ = try scratch.open(epoch: 3) { $0.path = target } }.contains("is no regular file"))
        let dangling = scratch.directory + "/dangling.db"
        try FileManager.default.createSymbolicLink(atPath: dangling, withDestinationPath: target + "/nothing")
        #expect(failure { _ = try scratch.open(epoch: 3) { $0.path = dangling } }.contains("leads nowhere"))
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
        #expect(unread.contains("its header does not say") && unread.contains("is no buffer"), "\(unread)")
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
        #expect(failure { _ = try scratch.open() }.contains("of another program"))
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
        // While it is open: a start looks at the frames of a small file. The cache is too small to hold them.
        let damaged = try scratch.open(epoch: 2) { $0.cacheBytes = 64 * 1024 }
        let handle = try #require(FileHandle(forWritingAtPath: scratch.path))
        // Inside the first frame's chain of overflow pages: the tables' pages come before, the others' after. The chain
        // is whole, so that only the frame's checksum tells.
        try handle.seek(toOffset: 60 * 4_096 + 100)
        try handle.write(contentsOf: Data([0]))
        try handle.close()

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
