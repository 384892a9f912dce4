import CSQLite
import EventLog
import Foundation
import NIOConcurrencyHelpers
import NIOCore
import Testing

/// SQLite's own file layer with one change: while told so, every sync or write fails as a broken disk's does.
private enum FaultyDisk {
    enum Fault: Sendable { case none, sync, full }

    static let name = "sluice-faulty"
    static let fault = NIOLockedValueBox(Fault.none)

    /// SQLite keeps pointers into these for the life of the process; made once, under the locks below.
    private struct Layer: @unchecked Sendable {
        let original: UnsafeMutablePointer<sqlite3_vfs>
        let faulty: UnsafeMutablePointer<sqlite3_vfs>
    }

    /// A database and its WAL have tables of methods of their own; their sync and write are the same functions.
    private struct Methods: @unchecked Sendable {
        let original: UnsafePointer<sqlite3_io_methods>
        let faulty: UnsafeMutablePointer<sqlite3_io_methods>
    }

    private static let layer: Layer = {
        let original = sqlite3_vfs_find(nil)!
        let faulty = UnsafeMutablePointer<sqlite3_vfs>.allocate(capacity: 1)
        faulty.initialize(to: original.pointee)
        faulty.pointee.zName = UnsafePointer(strdup(name))
        faulty.pointee.pNext = nil
        faulty.pointee.xOpen = { _, path, file, flags, outFlags in
            let original = FaultyDisk.layer.original
            let code = original.pointee.xOpen(original, path, file, flags, outFlags)
            if code == SQLITE_OK, let file { FaultyDisk.patch(file) }
            return code
        }
        return Layer(original: original, faulty: faulty)
    }()

    static let isRegistered = sqlite3_vfs_register(layer.faulty, 0) == SQLITE_OK

    private static let patched = NIOLockedValueBox<[Methods]>([])

    private static func patch(_ file: UnsafeMutablePointer<sqlite3_file>) {
        let original = file.pointee.pMethods!
        let methods = patched.withLockedValue { patched in
            if let known = patched.first(where: { $0.original == original }) { return known }
            let made = Methods(original: original, faulty: .allocate(capacity: 1))
            made.faulty.initialize(to: original.pointee)
            made.faulty.pointee.xSync = { file, flags in
                // SQLITE_IOERR_FSYNC, a macro that Swift cannot import.
                if FaultyDisk.fault.withLockedValue({ $0 == .sync }) { return SQLITE_IOERR | 4 << 8 }
                return FaultyDisk.original(of: file).pointee.xSync(file, flags)
            }
            made.faulty.pointee.xWrite = { file, bytes, count, offset in
                if FaultyDisk.fault.withLockedValue({ $0 == .full }) { return SQLITE_FULL }
                return FaultyDisk.original(of: file).pointee.xWrite(file, bytes, count, offset)
            }
            patched.append(made)
            return made
        }
        file.pointee.pMethods = UnsafePointer(methods.faulty)
    }

    private static func original(
        of file: UnsafeMutablePointer<sqlite3_file>?
    ) -> UnsafePointer<sqlite3_io_methods> {
        patched.withLockedValue { patched in
            patched.first { UnsafePointer($0.faulty) == file?.pointee.pMethods }!.original
        }
    }
}

/// Serialized: the faulty disk's switch is one for all.
@Suite(.serialized) struct EmbeddedFailureTests {
    private func open(_ path: String) throws -> EmbeddedEventLog {
        #expect(FaultyDisk.isRegistered)
        var options = EmbeddedEventLog.Options()
        options.partitions = 2
        options.vfs = FaultyDisk.name
        return try EmbeddedEventLog.open(path: path, options: options, logger: quietLogger)
    }

    @Test func afterAFailedSyncNothingIsAnsweredUntilARestart() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let log = try open(path)
        try await log.append([record("one", "good")])
        let reader = try await log.makeReader(group: "g", member: "m")
        #expect(try await collect(reader, 1).map(\.text) == ["good"])

        FaultyDisk.fault.withLockedValue { $0 = .sync }
        let first = await eventLogError { try await log.append([record("one", "lost")]) }
        FaultyDisk.fault.withLockedValue { $0 = .none }
        guard case .unavailable(let reason) = first else {
            Issue.record("\(String(describing: first)) instead of unavailable")
            return
        }
        #expect(reason.contains("restart"))
        // The disk is well again, but the file stays out of trust.
        for error in [
            await eventLogError { try await log.append([record("one", "later")]) },
            await eventLogError { _ = try await log.bounds() },
            await eventLogError { _ = try await log.incarnation() },
            await eventLogError { _ = try await log.makeReader(group: "h", member: "m") },
            await eventLogError {
                _ = try await reader.next(maximumRecords: 1, maximumBytes: 1, timeout: .seconds(5))
            },
        ] { #expect(error == first) }
        await reader.close()
        await log.close()

        let again = try open(path)
        try await again.append([record("one", "after")])
        let next = try await again.makeReader(group: "g", member: "m")
        let texts = try await collect(next, 2).map(\.text)
        #expect(texts.first == "good" && texts.contains("after"))
        await next.close()
        await again.close()
    }

    @Test func aFullDiskIsBusyAndPasses() async throws {
        let folder = try TemporaryFolder()
        let log = try open(folder.file("events.db"))
        try await log.append([record("one", "before")])
        FaultyDisk.fault.withLockedValue { $0 = .full }
        let error = await eventLogError { try await log.append([record("one", "while full")]) }
        FaultyDisk.fault.withLockedValue { $0 = .none }
        guard case .busy = error else {
            Issue.record("\(String(describing: error)) instead of busy")
            return
        }
        try await log.append([record("one", "after")])
        let reader = try await log.makeReader(group: "g", member: "m")
        #expect(try await collect(reader, 2).map(\.text) == ["before", "after"])
        await reader.close()
        await log.close()
    }

    @Test func damagedBytesAreAnErrorAndNoTrap() async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let log = try open(path)
        try await log.append([record("one", "whole")])
        try await log.append([record("one", "damaged")])
        await log.close()
        try damage(path)
        let again = try open(path)
        let reader = try await again.makeReader(group: "g", member: "m")
        // What lies before the damage is given, then the error, and again the error.
        #expect(try await collect(reader, 1).map(\.text) == ["whole"])
        for _ in 0..<2 {
            let error = await eventLogError { _ = try await collect(reader, 1) }
            #expect(error == .other("the event log is damaged at segment 2"))
        }
        await reader.close()
        await again.close()
    }

    private func damage(_ path: String) throws {
        var handle: OpaquePointer?
        #expect(sqlite3_open(path, &handle) == SQLITE_OK)
        let code = sqlite3_exec(
            handle, "UPDATE segment SET data = x'00ffffffffffffffffff7f' WHERE id = 2", nil, nil, nil)
        #expect(code == SQLITE_OK)
        sqlite3_close_v2(handle)
    }

    /// Whatever was answered before SIGKILL is there afterwards, and nothing is there twice.
    @Test(arguments: [60, 150, 400])
    func whatWasAnsweredSurvivesSIGKILL(_ milliseconds: Int) async throws {
        let folder = try TemporaryFolder()
        let path = folder.file("events.db")
        let journal = folder.file("answered")
        for _ in 0..<2 {
            await #expect(processExitsWith: .signal(SIGKILL)) {
                [path = path as String, journal = journal as String, milliseconds] in
                try await appendUntilKilled(path: path, journal: journal, after: milliseconds)
            }
        }
        let answered = try String(contentsOfFile: journal, encoding: .utf8).split(separator: "\n").map(String.init)
        #expect(!answered.isEmpty)
        let log = try EmbeddedEventLog.open(path: path, partitions: 4, logger: quietLogger)
        let stored = Int(try await log.bounds().map(\.next).reduce(0, +))
        let reader = try await log.makeReader(group: "g", member: "m")
        let texts = try await collect(reader, stored).map(\.text)
        #expect(Set(answered).isSubset(of: Set(texts)))
        #expect(Set(texts).count == texts.count)
        await reader.close()
        await log.close()
    }
}

/// Runs in a process of its own: appends from several tasks, journals what was answered, and kills itself.
private func appendUntilKilled(path: String, journal: String, after milliseconds: Int) async throws {
    let log = try EmbeddedEventLog.open(path: path, partitions: 4, logger: quietLogger)
    let descriptor = open(journal, O_WRONLY | O_CREAT | O_APPEND, 0o600)
    Thread.detachNewThread {
        usleep(UInt32(milliseconds) * 1000)
        kill(getpid(), SIGKILL)
    }
    await withTaskGroup(of: Void.self) { tasks in
        for task in 0..<8 {
            tasks.addTask {
                while true {
                    let text = "\(task) \(UUID().uuidString)"
                    guard (try? await log.append([record("d\(task)", text)])) != nil else { return }
                    let line = Array((text + "\n").utf8)
                    _ = line.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
                }
            }
        }
    }
}
