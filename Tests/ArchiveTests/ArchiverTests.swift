import Audit
import Database
import NIOCore
import SyncModel
import TestSupport
import Testing

@testable import Archive
@testable import ObjectStore

@Suite struct ArchiverTests {
    @Test(.enabled(if: S3Server.shared != nil, "\(S3Server.reason)")) func theArchiveRunsOverS3() {
        #expect(Warehouse.kinds == Warehouse.Kind.allCases)
    }

    @Test(arguments: Warehouse.kinds) func whatIsRestoredIsWhatWasThere(kind: Warehouse.Kind) async throws {
        let house = try await Warehouse(kind)
        defer { house.remove() }
        #expect(try await !house.isComplete(0))
        let summary = try #require(try await house.archive())
        #expect(summary.days == 3 && summary.addenda == 0)
        #expect(summary.rows == [.measurement: 600, .event: 60])
        for day in 0..<3 { #expect(try await house.isComplete(day)) }
        #expect(try await house.archive() == Archiver.Summary())
        let manifests = try await ArchiveCatalog(house.store).manifests(firstDay)
        #expect(manifests.count == 1 && manifests[0].content.files.count > 4)
        #expect(manifests[0].content.sources.count == 1)
        let source = manifests[0].content.sources[0]
        #expect(source.gateway == "g\\1" && source.epoch == epochText && source.sequences == [[1, 100]])
        #expect(source.messages == 100 && source.rows == 220 && source.refused == 10)

        let restore = try ArchiveRestore(database: house.url, store: house.store)
        let schema = try ArchiveRestore(database: house.url, store: house.store, schema: "old")
        for _ in 0..<2 {
            for day in try await ArchiveCatalog(house.store).days() {
                let restored = try await restore.restore(day)
                #expect(restored.measurementRows == 200 && restored.eventRows == 20)
                _ = try await schema.restore(day)
            }
            for table in ArchiveTable.allCases {
                #expect(try await house.differences(table, restore.target(table)) == "0")
                #expect(try await house.differences(table, schema.target(table)) == "0")
            }
        }
    }

    @Test func aDayThatIsTooYoungStays() async throws {
        let house = try await Warehouse()
        defer { house.remove() }
        // The end of the first day, and 85 days; the second ends a second too late.
        let now = firstDay.end + 85 * 86_400
        #expect(try await house.archiver().due(now: now - 1) == 0)
        #expect(try await house.archiver().due(now: now + 86_399) == 1)
        let summary = try #require(try await house.archiver().run(now: now + 86_399))
        #expect(summary.days == 1)
        #expect(try await house.isComplete(0))
        #expect(try await !house.isComplete(1))
        #expect(try await ArchiveCatalog(house.store).days() == [firstDay])
    }

    @Test(arguments: Warehouse.kinds) func lateRowsBecomeAddenda(kind: Warehouse.Kind) async throws {
        let house = try await Warehouse(kind)
        defer { house.remove() }
        _ = try await house.archive()
        for number in 1...2 {
            try await house.add(30, day: 1)
            #expect(try await !house.isComplete(1))
            #expect(try await house.isComplete(0))
            // Not counted again before its time.
            #expect(try await house.archiver(recheck: 1 << 40).run(now: march) == Archiver.Summary())
            let summary = try #require(try await house.archive())
            #expect(summary.addenda == 1 && summary.days == 0 && summary.rows == [.measurement: 60, .event: 6])
            #expect(try await house.isComplete(1))
            #expect(try await ArchiveCatalog(house.store).manifests(firstDay.next).count == number + 1)
        }
        let restore = try ArchiveRestore(database: house.url, store: house.store)
        for day in try await ArchiveCatalog(house.store).days() { _ = try await restore.restore(day) }
        for table in ArchiveTable.allCases {
            #expect(try await house.differences(table, restore.target(table)) == "0")
        }
    }

    /// Ends the run after each of its steps in turn, with rows that come between it and the next.
    @Test func aRunMayEndAnywhere() async throws {
        var seen: Set<Archiver.Step> = []
        for ending in 1... {
            let house = try await Warehouse(messages: 20)
            defer { house.remove() }
            _ = try await house.archiver(fileBytes: 2_048).run(now: firstDay.end + 86 * 86_400 - 1)
            try await house.add(10, day: 0)
            var isOver = false
            // The second run meets what the first one left, and ends after as many steps.
            for run in 1...2 {
                let breaker = Breaker(after: ending)
                try await house.archiver(fileBytes: 2_048) { step async throws(ArchiveError) in
                    try await breaker.step(step)
                }.runUntilInterrupted(now: march)
                seen.formUnion(await breaker.steps)
                if run == 1 { isOver = await breaker.steps.count < ending }
                // The next run's files are others than those of the run that ended.
                for day in 0..<3 { try await house.add(5, day: day) }
            }
            for _ in 0..<2 { _ = try await house.archive() }
            for day in 0..<3 { #expect(try await house.isComplete(day), "after step \(ending)") }
            let catalog = ArchiveCatalog(house.store)
            var named: Set<String> = []
            for day in try await catalog.days() {
                let manifests = try await catalog.manifests(day)
                named.formUnion(manifests.flatMap { $0.content.files.map(\.key) })
                named.formUnion(manifests.indices.map { ArchiveKeys.manifest(day, $0) })
                _ = try await ArchiveRestore(database: house.url, store: house.store).restore(day)
            }
            #expect(Set(try await house.keys()) == named, "after step \(ending)")
            for table in ArchiveTable.allCases {
                #expect(try await house.differences(table, "\(table.rawValue)_restored") == "0", "after step \(ending)")
            }
            for day in 0..<3 { try await house.drop(day: day) }
            let report = try await Audit(database: house.url, objects: house.store).run()
            #expect(report.closed && report.stored == 100, "after step \(ending): \(report.problems)")
            if isOver { break }
        }
        #expect(seen.isSuperset(of: [.fileWritten, .manifestWritten, .manifestAdopted, .leftoverDeleted]))
    }

    @Test func leftoversGoWithTheNextManifest() async throws {
        let house = try await Warehouse(messages: 50)
        defer { house.remove() }
        let breaker = Breaker(after: 3)
        await #expect(throws: ArchiveError.self) {
            _ = try await house.archiver { step async throws(ArchiveError) in try await breaker.step(step) }.run(
                now: march)
        }
        #expect(try await house.keys().count == 3)
        // Its lines begin with other rows, so all its files are others.
        try await house.connection.run("UPDATE measurement SET flags = flags + 1")
        _ = try await house.archive()
        let first = try await ArchiveCatalog(house.store).manifests(firstDay)[0].content
        let files = try await house.keys().filter { $0.hasPrefix(ArchiveKeys.folder(firstDay)) && $0.hasSuffix(".zst") }
        #expect(Set(files) == Set(first.files.map(\.key)))
    }

    @Test func oneArchiverWorksAtATime() async throws {
        let house = try await Warehouse(messages: 5)
        defer { house.remove() }
        _ = try await house.one("SELECT pg_advisory_lock(hashtext('sluice archive'))")
        #expect(try await house.archive() == nil)
        _ = try await house.one("SELECT pg_advisory_unlock(hashtext('sluice archive'))")
        #expect(try await house.archive()?.days == 3)
    }

    @Test(arguments: Warehouse.kinds) func oldDaysAreDeletedAndStayKnown(kind: Warehouse.Kind) async throws {
        let house = try await Warehouse(kind, messages: 20)
        defer { house.remove() }
        _ = try await house.archive()
        for day in 0..<3 { try await house.drop(day: day) }
        // The first two days end more than 730 days before.
        let later = firstDay.next.end + 730 * 86_400
        for ending in 1... {
            let breaker = Breaker(after: ending)
            try await house.witnessed(at: later) {
                try await house.archiver { step async throws(ArchiveError) in try await breaker.step(step) }
                    .runUntilInterrupted(now: later)
            }
            let report = try await Audit(database: house.url, objects: house.store).run()
            #expect(report.closed && report.stored == 60 && report.archived == 60, "\(ending): \(report.problems)")
            if await breaker.steps.isEmpty { break }
        }
        let last = ArchiveDay(number: firstDay.number + 2)
        #expect(try await ArchiveCatalog(house.store).days() == [last])
        #expect(try await house.keys().allSatisfy { $0.hasPrefix(ArchiveKeys.folder(last)) })
        let restore = try ArchiveRestore(database: house.url, store: house.store)
        await #expect(throws: ArchiveError.self) { _ = try await restore.restore(firstDay) }
    }

    @Test func theDatabaseMayBeOlderThanTheArchive() async throws {
        let house = try await Warehouse(messages: 20)
        defer { house.remove() }
        _ = try await house.archive()
        let before = try await house.keys()
        // As after a restore to the time before the archive's run.
        try await house.connection.run(
            "DELETE FROM archive_range; DELETE FROM archive_manifest; DELETE FROM archive_day")
        let summary = try #require(try await house.archive())
        #expect(summary.days == 3 && summary.rows.isEmpty)
        #expect(try await house.keys() == before)
        #expect(try await house.isComplete(2))
    }
}
