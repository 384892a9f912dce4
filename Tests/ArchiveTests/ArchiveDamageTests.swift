import Audit
import Database
import NIOCore
import SyncModel
import TestSupport
import Testing

@testable import Archive
@testable import ObjectStore

/// Objects that are not what was written, each named.
@Suite struct ArchiveDamageTests {
    private func replace(_ key: String, _ house: Warehouse, _ change: (inout ByteBuffer) -> Void) async throws {
        var bytes = try #require(try await house.store.read(key, maximumBytes: 1 << 20))
        try await house.store.delete(key)
        change(&bytes)
        #expect(try await house.store.create(key, bytes))
    }

    private func error(_ house: Warehouse) async throws -> String {
        let restore = try ArchiveRestore(database: house.url, store: house.store)
        let error = await #expect(throws: ArchiveError.self) { _ = try await restore.restore(firstDay) }
        #expect(try await house.one("SELECT to_regclass('measurement_restored')::text") == "")
        return error?.description ?? ""
    }

    @Test func aFileThatIsDamagedOrGone() async throws {
        let house = try await Warehouse(messages: 20)
        defer { house.remove() }
        _ = try await house.archive()
        let file = try #require(try await ArchiveCatalog(house.store).manifests(firstDay)[0].content.files.last)
        try await replace(file.key, house) { $0.setInteger(UInt8(0xAA), at: $0.writerIndex - 20) }
        #expect(
            try await error(house) == "the object \(file.key) is damaged: its SHA-256 is not the one in its manifest")
        try await replace(file.key, house) { $0.writeString("more") }
        #expect(try await error(house).contains("\(file.key) is damaged: it has more than"))
        try await house.store.delete(file.key)
        #expect(try await error(house).contains("\(file.key) is not there"))
    }

    @Test func aManifestThatIsDamagedOrGone() async throws {
        let house = try await Warehouse(messages: 20)
        defer { house.remove() }
        _ = try await house.archive()
        for day in 0..<3 { try await house.drop(day: day) }
        let key = ArchiveKeys.manifest(firstDay, 0)
        #expect(try await Audit(database: house.url, objects: house.store).run().closed)
        try await replace(key, house) { $0.writeString(" ") }
        #expect(try await error(house).contains("\(key) is damaged: its digest is not the one in the table"))
        for isGone in [false, true] {
            if isGone { try await house.store.delete(key) }
            let report = try await Audit(database: house.url, objects: house.store).run()
            #expect(!report.sound && report.lost == 20 && report.problems.contains { $0.contains(key) })
            #expect(report.gaps.first.map { $0.first == 1 && $0.last == 20 } == true)
            // Without the store the database's memory counts.
            #expect(try await Audit(database: house.url).run().closed)
        }
    }

    @Test func aRowWithoutItsSourceStopsTheDay() async throws {
        let house = try await Warehouse(messages: 5)
        defer { house.remove() }
        try await house.connection.run("UPDATE measurement SET source = 77 WHERE sequence = 3")
        let error = await #expect(throws: ArchiveError.self) { _ = try await house.archive() }
        #expect(error?.description.contains("of a source that the table source does not have") == true)
        #expect(try await ArchiveCatalog(house.store).days().isEmpty)
    }

    @Test func manifestsThatContradictThemselves() throws {
        var manifest = ArchiveManifest(day: firstDay, number: 0)
        let good = try manifest.encoded()
        #expect(try ArchiveManifest(good, day: firstDay, number: 0) == manifest)
        #expect(throws: ArchiveError.self) { try ArchiveManifest(good, day: firstDay.next, number: 0) }
        #expect(throws: ArchiveError.self) { try ArchiveManifest(good, day: firstDay, number: 1) }
        #expect(throws: ArchiveError.self) { try ArchiveManifest(ByteBuffer(string: "{}"), day: firstDay, number: 0) }
        manifest.measurementRows = 1
        #expect(throws: ArchiveError.self) { try ArchiveManifest(manifest.encoded(), day: firstDay, number: 0) }
        manifest.measurementRows = 0
        manifest.version = 2
        #expect(throws: ArchiveError.self) { try ArchiveManifest(manifest.encoded(), day: firstDay, number: 0) }
    }

    @Test(arguments: ["public", "pg_catalog", "a; DROP TABLE x", "", "1a", "A"]) func badSchemas(name: String)
        async throws
    {
        let house = try await Warehouse(messages: 1)
        defer { house.remove() }
        #expect(throws: ArchiveError.self) { try ArchiveRestore(database: house.url, store: house.store, schema: name) }
    }
}
