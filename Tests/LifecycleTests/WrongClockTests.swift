import Database
import SyncModel
import TestSupport
import Testing

@testable import Lifecycle

/// Clocks that are ahead. What is deleted does not come back when they do.
@Suite struct WrongClockTests {
    private static let ahead = march + 120 * day

    /// Ten days of rows from 1 March 2026, and a trace context that belongs to one.
    private func filled(isSynchronised: Bool = true) async throws -> Warehouse {
        let warehouse = try await Warehouse()
        for step in 0..<40 as Range<Int64> {
            await warehouse.log.publish(Double(step), at: march + step * 6 * hour, isSynchronised: isSynchronised)
        }
        try await warehouse.drain(hotDays: 30)
        try await warehouse.connection.run(
            """
            INSERT INTO message_trace (source, sequence, trace_id, traceparent, stored_at)
            SELECT 1, 1, '00000000-0000-0000-0000-000000000001', 'x', '2026-03-10 00:00Z'
            """)
        return warehouse
    }

    private func pass(_ warehouse: Warehouse, at now: Int64, _ lines: LogLines = LogLines()) async throws {
        let service = warehouse.service(at: now, hotDays: 30, logger: lines.logger) {
            $0.rollupDays = 60
            $0.daysPerPass = 100
        }
        for _ in 0..<2 { #expect(try await service.pass()) }
    }

    /// The rows before the clock's error, the roll-ups of their hours, and the contexts.
    private func kept(_ warehouse: Warehouse) async throws -> String {
        try await warehouse.one(
            """
            SELECT (SELECT count(*) FROM measurement WHERE time < '2026-04-01Z') || ' '
                || (SELECT count(*) FROM rollup_hour WHERE bucket < '2026-04-01Z') || ' '
                || (SELECT count(*) FROM message_trace) AS c
            """)
    }

    @Test func aProcessThatIsAheadDeletesNothing() async throws {
        let warehouse = try await filled()
        try await pass(warehouse, at: march + 10 * day)
        #expect(try await kept(warehouse) == "40 40 1")
        try await warehouse.connection.run(DatabaseClock.set(to: march + 10 * day))
        let lines = LogLines()
        try await pass(warehouse, at: Self.ahead, lines)
        #expect(try await kept(warehouse) == "40 40 1")
        let warnings = lines.all.filter { $0.contains("The clock is ahead of all evidence") }
        #expect(warnings.count == 1, "\(lines.all)")
        #expect(warnings.allSatisfy { $0.contains("this clock says 2026-06-29") }, "\(warnings)")
        #expect(warnings.allSatisfy { $0.contains("the database's 2026-03-11") }, "\(warnings)")
    }

    /// The database is on the same machine.
    @Test func theDatabaseIsAheadTogetherWithIt() async throws {
        let warehouse = try await filled()
        try await pass(warehouse, at: march + 10 * day)
        try await pass(warehouse, at: Self.ahead)
        #expect(try await kept(warehouse) == "40 40 1")
    }

    /// And the embedded log too: what comes has its time, but gateways know better.
    @Test func theLogIsAheadTogetherWithThem() async throws {
        let warehouse = try await filled()
        try await pass(warehouse, at: march + 10 * day)
        for step in 0..<20 as Range<Int64> {
            let time = march + 10 * day + step * 12 * hour
            await warehouse.log.publish(1, at: time, arrived: time + 110 * day)
        }
        try await warehouse.drain(hotDays: 30)
        try await pass(warehouse, at: march + 130 * day)
        #expect(try await kept(warehouse) == "40 40 1")

        // The clocks are set. Rows of the time that never was say nothing, and what is old goes.
        let now = march + 40 * day
        await warehouse.log.publish(2, at: now - hour)
        try await warehouse.drain(hotDays: 30)
        try await warehouse.connection.run(DatabaseClock.set(to: now))
        let lines = LogLines()
        try await pass(warehouse, at: now, lines)
        #expect(try await warehouse.one("SELECT to_char(min(time), 'MM-DD') AS d FROM measurement") == "03-07")
        #expect(!lines.all.contains { $0.contains("ahead") }, "\(lines.all)")
        #expect(try await warehouse.audit().sound)
    }

    /// No gateway has a clock, so there is only the log's: it is believed when it has been right for days.
    @Test func aStepThatNobodyWitnessesIsBelievedLate() async throws {
        let warehouse = try await filled(isSynchronised: false)
        try await pass(warehouse, at: march + 10 * day)
        let send = { (days: Int64) in
            await warehouse.log.publish(
                1, at: march, arrived: Self.ahead + days * day, isSynchronised: false)
            try await warehouse.drain(hotDays: 30)
        }
        for days in 0..<4 as Range<Int64> {
            try await send(days)
            try await pass(warehouse, at: Self.ahead + days * day + hour)
            #expect(try await kept(warehouse) == "40 40 1", "\(days)")
        }
        try await pass(warehouse, at: Self.ahead + 4 * day + hour)
        #expect(try await kept(warehouse) == "0 0 0")
        #expect(try await warehouse.audit().sound)
    }

    @Test func aProcessThatIsBehindKeepsAllAndMakesWhatIsMissing() async throws {
        let warehouse = try await filled()
        try await pass(warehouse, at: march - 365 * day)
        #expect(try await kept(warehouse) == "40 0 1")
        await warehouse.log.publish(1, at: march + 20 * day)
        try await warehouse.drain(hotDays: 30)
        #expect(try await kept(warehouse) == "41 0 1")
        try await pass(warehouse, at: march + 21 * day)
        #expect(try await kept(warehouse) == "41 41 1")
    }

    /// The next days' partitions are made by the process's own clock, whatever the data says.
    @Test func partitionsAreMadeByTheClock() async throws {
        let warehouse = try await filled()
        if try await warehouse.isHypertable() { return }
        try await pass(warehouse, at: march + 90 * day)
        #expect(try await warehouse.one("SELECT to_regclass('measurement_20260602') IS NOT NULL AS t") == "true")
    }
}
