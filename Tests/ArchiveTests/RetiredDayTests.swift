import Audit
import Database
import Lifecycle
import Logging
import SyncModel
import TestSupport
import Testing

@testable import Archive

/// Days leave the tables when the archive has them, whoever is at work on them, and also when late rows come.
@Suite struct RetiredDayTests {
    private static let second = ArchiveDay(number: firstDay.number + 1)
    private static let silent = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    /// A processor's work on the life of data, when the three days are to go.
    @discardableResult
    private func pass(_ house: Warehouse, hasArchive: Bool = true) async throws -> [String] {
        var configuration = LifecycleConfiguration(database: house.url, hotDays: 80)
        configuration.hasArchive = hasArchive
        configuration.closeDelay = .zero
        configuration.againDelay = .zero
        configuration.flagDelay = .zero
        configuration.daysPerPass = 100
        let now = march * 1_000_000
        let service = LifecycleService(configuration: configuration, logger: Self.silent, now: { now })
        #expect(try await house.witnessed(at: march) { try await service.pass() })
        return try await days(house)
    }

    private func days(_ house: Warehouse) async throws -> [String] {
        try await house.one(
            """
            SELECT string_agg(DISTINCT to_char(time AT TIME ZONE 'UTC', 'DD'), ' ' ORDER BY to_char(time AT TIME ZONE 'UTC', 'DD'))
            FROM (SELECT time FROM measurement UNION ALL SELECT time FROM event) r
            """
        ).split(separator: " ").map(String.init)
    }

    private func expectClosed(
        _ house: Warehouse, stored: UInt64, _ place: String, sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
        for objects in [house.store, nil] {
            let report = try await Audit(database: house.url, objects: objects).run()
            #expect(
                report.closed && report.stored == stored, "\(place): \(report.stored), \(report.problems)",
                sourceLocation: sourceLocation)
        }
    }

    @Test func aDayStaysUntilTheArchiveHasIt() async throws {
        let house = try await Warehouse()
        defer { house.remove() }
        #expect(try await pass(house) == ["01", "02", "03"])
        _ = try await house.archive()
        try await expectClosed(house, stored: 300, "archived")
        #expect(try await pass(house) == [])
        try await expectClosed(house, stored: 300, "dropped")
        #expect(try await house.one("SELECT count(*) FROM retired_messages") == "0", "manifests name them")
    }

    /// Metrics of a message may have times of their own. Its other rows are in the archive, which does not name parts.
    @Test(arguments: [0, 1]) func aRowOfTheNextDayIsMissedThoughTheArchiveHasTheMessage(part: Int) async throws {
        let house = try await Warehouse()
        defer { house.remove() }
        try await house.connection.run(
            """
            CREATE TABLE moved AS SELECT * FROM measurement WHERE sequence = 98 AND part = \(part);
            DELETE FROM measurement WHERE sequence = 98 AND part = \(part);
            UPDATE moved SET time = '\(Self.second) 12:00:00+00';
            INSERT INTO measurement SELECT * FROM moved;
            """)
        _ = try await house.archive()
        try await house.drop(day: 0)
        try await expectClosed(house, stored: 300, "the first day is dropped")
        try await house.connection.run("DELETE FROM measurement WHERE sequence = 98")
        let report = try await Audit(database: house.url, objects: house.store).run()
        #expect(report.lost == 1 && !report.sound && report.problems.contains { $0.contains("cold archive") })
        // The manifests tell; the database's memory of them does not.
        #expect(try await Audit(database: house.url).run().closed)
        try await house.connection.run("INSERT INTO measurement SELECT * FROM moved")
        try await expectClosed(house, stored: 300, "it is back")
        for day in 1...2 { try await house.drop(day: day) }
        try await expectClosed(house, stored: 300, "all days are dropped")
    }

    /// The other process of the same database may have none in its configuration.
    @Test func aProcessWithoutAnArchiveWaitsForThatOfOthers() async throws {
        let house = try await Warehouse()
        defer { house.remove() }
        try await pass(house)
        #expect(try await pass(house, hasArchive: false) == ["01", "02", "03"])
        // Whoever has given the archive up says so.
        #expect(try await FeatureFlags.set(.archive, enabled: false, on: house.connection))
        #expect(try await pass(house) == ["01", "02", "03"], "one that is configured is waited for")
        #expect(try await pass(house, hasArchive: false) == [])
        try await expectClosed(house, stored: 300, "dropped without an archive")
    }

    /// A replay after weeks, and the day was dropped long ago.
    @Test func lateRowsOfADayThatIsGoneAreArchivedToo() async throws {
        let house = try await Warehouse()
        defer { house.remove() }
        _ = try await house.archive()
        #expect(try await pass(house) == [])
        for round in 1...2 as ClosedRange<UInt64> {
            try await house.add(10, day: 1)
            try await expectClosed(house, stored: 300 + 10 * round, "late rows, round \(round)")
            #expect(try await !house.isComplete(1))
            #expect(try await pass(house) == ["02"], "they are not archived")
            let summary = try #require(try await house.archive())
            #expect(summary.addenda == 1 && summary.rows == [.measurement: 20, .event: 2])
            try await expectClosed(house, stored: 300 + 10 * round, "addendum, round \(round)")
            #expect(try await pass(house) == [])
            try await expectClosed(house, stored: 300 + 10 * round, "dropped again, round \(round)")
        }
        #expect(try await ArchiveCatalog(house.store).manifests(Self.second).count == 3)
    }

    /// After the first look, and before nobody reaches the tables any more.
    @Test func rowsThatComeBetweenTheLooksBringTheDayBack() async throws {
        let house = try await Warehouse()
        defer { house.remove() }
        _ = try await house.archive()
        try await house.add(10, day: 1)
        let name = "measurement_" + Self.second.description.filter { $0 != "-" }
        try await house.connection.run("ALTER TABLE measurement DETACH PARTITION \(name)")
        try await house.connection.run("DELETE FROM event WHERE sequence > 300")
        #expect(try await pass(house) == ["02"])
        _ = try await house.archive()
        #expect(try await pass(house) == [])
    }

    /// An operator's hand, or a policy of TimescaleDB.
    @Test func whatOthersDropIsCountedByItsManifests() async throws {
        let house = try await Warehouse()
        defer { house.remove() }
        _ = try await house.archive()
        try await house.drop(day: 1)
        try await expectClosed(house, stored: 300, "deleted")
        try await house.add(10, day: 1)
        #expect(try await !house.isComplete(1))
        #expect(try await house.archive()?.addenda == 1)
        #expect(try await house.isComplete(1))
    }

    /// What is in the archive is not noted a second time.
    @Test func anArchiveThatIsGivenUpKeepsWhatItHas() async throws {
        let house = try await Warehouse()
        defer { house.remove() }
        _ = try await house.archive()
        try await house.add(10, day: 1)
        #expect(try await pass(house, hasArchive: false) == [])
        try await expectClosed(house, stored: 310, "dropped without waiting")
        #expect(try await house.one("SELECT sum(messages) FROM retired_messages") == "10")
    }
}
