import Database
import TestSupport
import Testing

@testable import Archive

/// The archive's objects are the last copy of their rows: a clock that is years ahead deletes none.
@Suite struct WrongClockTests {
    private static let yearsAhead = march + 5 * 365 * 86_400

    private func expectKept(_ house: Warehouse, _ keys: [String]) async throws {
        #expect(try await house.keys() == keys)
        #expect(try await house.one("SELECT count(*) FROM archive_day WHERE deleted_at IS NULL") == "3")
    }

    @Test(arguments: [true, false]) func nothingIsDeletedByAClockThatIsAhead(isDatabaseAhead: Bool) async throws {
        let house = try await Warehouse(messages: 20)
        defer { house.remove() }
        if !isDatabaseAhead { try await house.connection.run(DatabaseClock.set(to: march * 1_000_000)) }
        _ = try await house.archive()
        let keys = try await house.keys()
        #expect(keys.count > 3)
        let summary = try #require(try await house.archiver().run(now: Self.yearsAhead))
        #expect(summary == Archiver.Summary())
        try await expectKept(house, keys)
        // The rows have gone, and there is nothing that could tell the time.
        for day in 0..<3 { try await house.drop(day: day) }
        _ = try await house.archiver().run(now: Self.yearsAhead)
        try await expectKept(house, keys)
        // Newer data comes: the time is over.
        let later = firstDay.next.next.end + 731 * 86_400
        try await house.connection.run(DatabaseClock.set(to: Self.yearsAhead * 1_000_000))
        let deleted = try await house.witnessed(at: later) {
            try await house.archiver().run(now: Self.yearsAhead)
        }
        #expect(deleted?.deletedObjects == keys.count)
    }

    /// Copies made too early would only be made again, but a day is due by the clock that is behind.
    @Test func aDayIsDueByTheEarlierClock() async throws {
        let house = try await Warehouse(messages: 5)
        defer { house.remove() }
        try await house.connection.run(DatabaseClock.set(to: (firstDay.end + 86_400) * 1_000_000))
        #expect(try await house.archiver().due(now: march) == 0)
        #expect(try await house.archive() == Archiver.Summary())
        try await house.connection.run(DatabaseClock.set(to: march * 1_000_000))
        #expect(try await house.archiver().due(now: march) == 3)
        #expect(try await house.archive()?.days == 3)
    }
}
