import Foundation
import NIOCore
import TestSupport
import Testing

@testable import ObjectStore

@Suite struct FolderObjectStoreTests {
    @Test func leftoversOfACrashAreNoObjectsAndGo() async throws {
        let folder = try Folder()
        let writing = folder.path + "/o/~writing"
        let store = try FolderObjectStore(path: folder.path + "/o/")
        let manager = FileManager.default
        #expect(!manager.fileExists(atPath: writing))
        #expect(try await store.list(prefix: "", after: nil, maximum: 10).isEmpty)
        #expect(try await store.create("j", ByteBuffer(string: "first")))
        #expect(manager.createFile(atPath: writing + "/1", contents: Data("half".utf8)))
        #expect(manager.createFile(atPath: writing + "/2", contents: Data("half".utf8)))
        try manager.setAttributes(
            [.modificationDate: Date(timeIntervalSinceNow: -90_000)], ofItemAtPath: writing + "/1")
        #expect(try await store.list(prefix: "", after: nil, maximum: 10).map(\.key) == ["j"])
        let file = try folder.write("", to: "file")
        #expect(throws: ObjectStoreError.refused("\(file) is no folder")) { try FolderObjectStore(path: file) }
        let again = try FolderObjectStore(path: folder.path + "/o")
        #expect(try manager.contentsOfDirectory(atPath: writing) == ["2"])
        #expect(try await again.create("k", ByteBuffer(string: "whole")))
        #expect(try manager.contentsOfDirectory(atPath: writing) == ["2"])
    }

    @Test func anObjectIsNoFolder() async throws {
        let folder = try Folder()
        let store = try FolderObjectStore(path: folder.path)
        #expect(try await store.create("a/b", ByteBuffer()))
        for key in ["a", "a/b/c"] {
            let error = await #expect(throws: ObjectStoreError.self) { _ = try await store.create(key, ByteBuffer()) }
            guard case .refused = error else {
                Issue.record("\(String(describing: error))")
                continue
            }
        }
        #expect(try await store.read("a", maximumBytes: 1) == nil)
        #expect(try await store.read("a/b/c", maximumBytes: 1) == nil)
        try await store.delete("a")
        #expect(try await store.list(prefix: "", after: nil, maximum: 10).map(\.key) == ["a/b"])
    }

    @Test(.enabled(if: SmallDisk.isPossible, "needs the right to mount")) func aFullDiskLosesNothing() async throws {
        let disk = try SmallDisk(bytes: 1 << 20)
        let store = try FolderObjectStore(path: disk.path + "/o")
        #expect(try await store.create("first", ByteBuffer(string: "kept")))
        let error = await #expect(throws: ObjectStoreError.self) {
            _ = try await store.create("large", ByteBuffer(repeating: 1, count: 2 << 20))
        }
        guard case .unavailable(let why) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(why.contains("No space left"))
        #expect(try await store.read("large", maximumBytes: 4 << 20) == nil)
        #expect(try await store.read("first", maximumBytes: 10) == ByteBuffer(string: "kept"))
        #expect(try await store.create("large", ByteBuffer(string: "smaller")))
    }
}
