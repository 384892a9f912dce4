import NIOCore
import TestSupport
import Testing

@testable import ObjectStore

/// What holds for every object store.
@Suite struct ObjectStoreTests {
    @Test(.enabled(if: S3Server.shared != nil, "\(S3Server.reason)")) func theSuiteRunsOverS3() {
        #expect(StoreUnderTest.kinds == StoreUnderTest.Kind.allCases)
    }

    private func bytes(_ text: String) -> ByteBuffer { ByteBuffer(string: text) }

    @Test(arguments: StoreUnderTest.kinds) func anObjectIsCreatedOnceAndStays(kind: StoreUnderTest.Kind) async throws {
        let test = try StoreUnderTest(kind)
        #expect(try await test.store.read("a/b=1/c", maximumBytes: 100) == nil)
        #expect(try await test.store.create("a/b=1/c", bytes("first")))
        #expect(try await !test.store.create("a/b=1/c", bytes("second")))
        #expect(try await test.store.read("a/b=1/c", maximumBytes: 5) == bytes("first"))
        try await test.store.delete("a/b=1/c")
        try await test.store.delete("a/b=1/c")
        #expect(try await test.store.read("a/b=1/c", maximumBytes: 100) == nil)
        #expect(try await test.store.create("a/b=1/c", bytes("third")))
        #expect(try await test.store.create("empty", bytes("")))
        #expect(try await test.store.read("empty", maximumBytes: 0) == bytes(""))
    }

    @Test(arguments: StoreUnderTest.kinds) func oneOfManyWins(kind: StoreUnderTest.Kind) async throws {
        let test = try StoreUnderTest(kind)
        let winners = try await withThrowingTaskGroup(of: Int?.self) { group in
            for number in 0..<8 {
                group.addTask { try await test.store.create("k", ByteBuffer(string: "\(number)")) ? number : nil }
            }
            return try await group.reduce(into: [Int]()) { if let number = $1 { $0.append(number) } }
        }
        try #require(winners.count == 1)
        #expect(try await test.store.read("k", maximumBytes: 10) == bytes("\(winners[0])"))
    }

    @Test(arguments: StoreUnderTest.kinds) func listsAreInTheOrderOfBytesAndPaged(kind: StoreUnderTest.Kind)
        async throws
    {
        let test = try StoreUnderTest(kind)
        let keys = ["a/1", "a/2", "a-1", "a.b/x", "a=1/z", "aB", "ab", "b/c/d", "b/c0", "B"]
        for key in keys { #expect(try await test.store.create(key, bytes(key))) }
        let sorted = keys.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        let all = try await test.store.list(prefix: "", after: nil, maximum: 1_000)
        #expect(all.map(\.key) == sorted)
        #expect(all.map(\.bytes) == sorted.map(\.utf8.count))
        for size in [1, 2, 3, 7] {
            var paged: [String] = []
            while true {
                let page = try await test.store.list(prefix: "", after: paged.last, maximum: size)
                paged += page.map(\.key)
                if page.count < size { break }
            }
            #expect(paged == sorted)
        }
        #expect(try await test.store.list(prefix: "a/", after: nil, maximum: 9).map(\.key) == ["a/1", "a/2"])
        #expect(try await test.store.list(prefix: "b/c", after: nil, maximum: 9).map(\.key) == ["b/c/d", "b/c0"])
        #expect(try await test.store.list(prefix: "b/c", after: "b/c/d", maximum: 9).map(\.key) == ["b/c0"])
        #expect(try await test.store.list(prefix: "none/", after: nil, maximum: 9).isEmpty)
    }

    @Test(arguments: StoreUnderTest.kinds) func largeOnesAreRefusedBeforeTheyAreRead(
        kind: StoreUnderTest.Kind
    ) async throws {
        let test = try StoreUnderTest(kind)
        let large = ByteBuffer(repeating: 7, count: 3 << 20)
        #expect(try await test.store.create("large", large))
        #expect(try await test.store.read("large", maximumBytes: 3 << 20) == large)
        await #expect(throws: ObjectStoreError.tooLarge(key: "large", maximumBytes: (3 << 20) - 1)) {
            _ = try await test.store.read("large", maximumBytes: (3 << 20) - 1)
        }
    }

    @Test(arguments: StoreUnderTest.kinds) func badKeysGoNowhere(kind: StoreUnderTest.Kind) async throws {
        let test = try StoreUnderTest(kind)
        let bad = [
            "", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/.", "ä", "a b", "a\n", "~writing/x", "a\\b", "a%2e",
            String(repeating: "a", count: 256), String(repeating: "a/", count: 450) + "a",
        ]
        for key in bad {
            await #expect(throws: ObjectStoreError.badKey(String(key.prefix(100))), "\(key)") {
                _ = try await test.store.create(key, ByteBuffer())
            }
            await #expect(throws: ObjectStoreError.self) { _ = try await test.store.read(key, maximumBytes: 1) }
            await #expect(throws: ObjectStoreError.self) { try await test.store.delete(key) }
        }
        await #expect(throws: ObjectStoreError.self) {
            _ = try await test.store.list(prefix: "../", after: nil, maximum: 1)
        }
    }
}
