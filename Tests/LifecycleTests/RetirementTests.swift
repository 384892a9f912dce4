import Audit
import Database
import Foundation
import SyncModel
import Testing

@testable import Lifecycle

@Suite struct RetirementTests {
    /// Ten days of rows from 1 March 2026: a number and a text an hour.
    private func fill(_ warehouse: Warehouse) async throws {
        for step in 0..<240 as Range<Int64> {
            await warehouse.log.publish("{\"n\":\(step),\"s\":\"x\"}", at: march + step * hour)
        }
        try await warehouse.drain()
    }

    /// Two hot days, and the four that a record may wait: on 11 March, days before 5 March go.
    private func service(_ warehouse: Warehouse, _ change: (inout LifecycleConfiguration) -> Void = { _ in })
        -> LifecycleService
    {
        warehouse.service(at: march + 10 * day, hotDays: 2) {
            $0.daysPerPass = 100
            change(&$0)
        }
    }

    private func days(_ warehouse: Warehouse) async throws -> [String] {
        try await warehouse.lines(
            "SELECT DISTINCT to_char(time AT TIME ZONE 'UTC', 'DD') AS d FROM measurement ORDER BY 1")
    }

    /// Other tests' tables of this database.
    private func tables(_ warehouse: Warehouse) async throws -> [String] {
        try await warehouse.lines(
            "SELECT relname AS n FROM pg_class WHERE relname ~ '^(measurement|event)_2026030[1-5](_[0-9])?$' ORDER BY 1"
        )
    }

    @Test func daysBeyondTheirTimeAreDroppedAndTheAuditCloses() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        #expect(try await service(warehouse).pass())
        #expect(try await days(warehouse) == ["05", "06", "07", "08", "09", "10"])
        let report = try await warehouse.audit()
        #expect(
            report.sound && report.stored == 240 && report.retired == 96 && report.rows == 480, "\(report.problems)")
        #expect(try await warehouse.one("SELECT sum(count) AS n FROM rollup_day") == "240")
        #expect(
            try await warehouse.one(
                "SELECT count(*) AS n FROM pg_inherits WHERE inhparent = 'measurement'::regclass AND inhdetachpending")
                == "0")
        if try await warehouse.isHypertable() {
            let chunks = "FROM timescaledb_information.chunks WHERE range_start <= '2026-03-05Z' ORDER BY 1"
            #expect(
                try await warehouse.lines(
                    "SELECT concat_ws(' ', hypertable_name, (range_start AT TIME ZONE 'UTC')::date) AS c \(chunks)")
                    == ["event 2026-03-05", "measurement 2026-03-05"])
            return
        }
        #expect(try await tables(warehouse) == ["event_20260305", "measurement_20260305"])
        // Partitions for the next days are there.
        #expect(try await warehouse.one("SELECT to_regclass('measurement_20260314') IS NOT NULL AS t") == "true")
    }

    /// Another process, which has an archive, says so while this one's pass is at work.
    @Test func theArchivesFlagIsReadWhenADayIsDropped() async throws {
        let warehouse = try await Warehouse()
        if try await warehouse.isHypertable() { return }
        try await fill(warehouse)
        let connection = warehouse.connection
        let first = Int32(march / day)
        let tables = try await RetirementStore.tables(on: connection).filter { $0.day == first }
        #expect(tables.count == 2)
        let retirement = Retirement(hasArchive: false)
        try await retirement.detach(first, tables, computedBefore: .max, on: connection)
        #expect(try await FeatureFlags.set(.archive, enabled: true, on: connection))
        await #expect(throws: Retirement.Obstacle.notArchived) {
            try await retirement.drop(first, tables, on: connection)
        }
        #expect(try await days(warehouse).first == "01")
        #expect(try await FeatureFlags.set(.archive, enabled: false, on: connection))
        try await retirement.detach(first, tables, computedBefore: .max, on: connection)
        try await retirement.drop(first, tables, on: connection)
        #expect(try await days(warehouse).first == "02")
    }

    @Test func nothingIsLeftToHideALoss() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        // One message has lost a row, one has a row twice, before they go.
        try await warehouse.connection.run(
            """
            DELETE FROM event WHERE sequence = 10;
            INSERT INTO event SELECT * FROM event WHERE sequence = 20
            """)
        try await service(warehouse).pass()
        let report = try await warehouse.audit()
        #expect(report.lost == 1 && report.duplicated == 1 && report.gaps.map(\.first) == [10], "\(report.problems)")
    }

    @Test func aMessageOfTwoDaysIsWhole() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        // As Sparkplug's metrics may be: one part on 4 March, one on the 5th.
        try await warehouse.connection.run(
            """
            CREATE TEMP TABLE moved AS SELECT * FROM event WHERE sequence = 96; DELETE FROM event WHERE sequence = 96;
            UPDATE moved SET time = '2026-03-05 01:00Z'; INSERT INTO event SELECT * FROM moved
            """)
        try await service(warehouse).pass()
        let report = try await warehouse.audit()
        #expect(report.sound && report.stored == 240 && report.retired == 95, "\(report.problems)")
        await warehouse.log.publish(1, at: march + 12 * day - hour)
        try await warehouse.drain()
        try await warehouse.service(at: march + 12 * day, hotDays: 2) { $0.daysPerPass = 100 }.pass()
        let later = try await warehouse.audit()
        #expect(later.sound && later.stored == 241 && later.retired == 95 + 48, "\(later.problems)")
    }

    @Test func rowsOfADroppedDayAreStoredOnceAndAddedToItsSums() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        try await service(warehouse).pass()
        // Long in the log: everything again, and two messages that are new.
        await warehouse.log.repeatAll()
        await warehouse.log.publish(1_000, at: march + 2 * hour + 1, arrived: march + 2 * hour + 1)
        await warehouse.log.publish(-5, at: march + 2 * hour - 1, arrived: march + 2 * hour + 1)
        try await warehouse.drain()
        #expect(try await days(warehouse).first == "01")
        var report = try await warehouse.audit()
        #expect(report.sound && report.stored == 242, "\(report.problems)")
        try await service(warehouse).pass()
        #expect(try await days(warehouse).first == "05")
        report = try await warehouse.audit()
        #expect(report.sound && report.stored == 242 && report.retired == 98, "\(report.problems)")
        #expect(
            try await warehouse.one(
                """
                SELECT count = 2 AND first = 2 AND last = 1000 AND sum = 1002 AND max = 1000 AS r FROM rollup_hour
                WHERE bucket = '2026-03-01 02:00Z'
                """) == "true")
        #expect(
            try await warehouse.one(
                "SELECT count = 26 AND min = -5 AND max = 1000 AS r FROM rollup_day WHERE bucket = '2026-03-01 00:00Z'")
                == "true")
        // Once is once.
        try await service(warehouse).pass()
        #expect(try await warehouse.one("SELECT sum(count) AS n FROM rollup_day") == "242")
    }

    /// Lines of a processor whose partitions are taken away after it has looked for them.
    @Test func aProcessorWhoseDayIsDroppedMakesItAgain() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        let connection = warehouse.connection
        let dropping = Task {
            for _ in 0..<20 {
                try await connection.run("DROP TABLE IF EXISTS measurement_20260301, event_20260301")
                try await Task.sleep(for: .milliseconds(7))
            }
        }
        let count = try await warehouse.one("SELECT count(*) AS n FROM event WHERE kind = 9")
        for step in 0..<2_000 as Range<Int64> {
            await warehouse.log.publish(Double(step), at: march + step, arrived: march + step)
        }
        try await warehouse.drain()
        try await dropping.value
        #expect(count == "0")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM event WHERE kind = 9") == "0")
    }

    @Test(arguments: [
        "DETACH PARTITION measurement_20260302 CONCURRENTLY", "DETACH PARTITION measurement_20260302",
    ])
    func whatACrashLeftIsFinished(statement: String) async throws {
        let warehouse = try await Warehouse()
        // Chunks go in one transaction.
        if try await warehouse.isHypertable() { return }
        try await fill(warehouse)
        try await warehouse.service(at: march + 10 * day).pass()
        if statement.hasSuffix("CONCURRENTLY") {
            // A reader of the table keeps the second half from happening, until the time is over: it stays pending.
            let reader = try await warehouse.connect()
            try await reader.run("BEGIN; SELECT 1 FROM measurement LIMIT 1")
            try await warehouse.connection.run("SET statement_timeout = '300ms'")
            await #expect(throws: PostgresError.self) {
                try await warehouse.connection.run("ALTER TABLE measurement \(statement)")
            }
            try await warehouse.connection.run("SET statement_timeout = '10s'")
            await reader.close()
            #expect(try await warehouse.one("SELECT count(*) AS n FROM pg_inherits WHERE inhdetachpending") == "1")
        } else {
            try await warehouse.connection.run("ALTER TABLE measurement \(statement)")
        }
        // The audit finds the rows of a partition that is neither here nor there.
        #expect(try await days(warehouse).contains("02") == false)
        #expect(try await warehouse.audit().sound)
        try await service(warehouse).pass()
        #expect(try await tables(warehouse) == ["event_20260305", "measurement_20260305"])
        let report = try await warehouse.audit()
        #expect(report.sound && report.stored == 240 && report.retired == 96, "\(report.problems)")
    }

    @Test func withoutRollUpsNothingIsDropped() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        #expect(try await FeatureFlags.set(.rollups, enabled: false, on: warehouse.connection))
        try await service(warehouse).pass()
        #expect(try await days(warehouse).count == 10)
    }

    @Test func aLongReaderPutsItOff() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        let reader = try await PostgresConnection.connect(.unlimited(url: warehouse.url, applicationName: "reader"))
        try await reader.run("BEGIN; SELECT 1 FROM measurement LIMIT 1")
        try await Task.sleep(for: .milliseconds(10_100))
        try await service(warehouse).pass()
        #expect(try await days(warehouse).count == 10)
        await reader.close()
        #expect(
            try await wait {
                try await service(warehouse).pass()
                return try await days(warehouse).count == 6
            })
    }

    /// While days go, a writer of other days is never kept waiting: each of its transactions is short.
    @Test func writersGoOnWhileDaysGo() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        let writer = try await warehouse.connect()
        let writing = Task {
            var longest: Duration = .zero
            var count = 0
            while !Task.isCancelled {
                let started = ContinuousClock.now
                try await writer.run(
                    """
                    INSERT INTO event (time, sequence, device_id, source, part, parts, flags, kind, topic)
                    VALUES ('2026-03-10 12:00Z', 1, 1, 99, 0, 1, 0, 1, 't')
                    """)
                longest = max(longest, ContinuousClock.now - started)
                count += 1
            }
            return (longest, count)
        }
        try await service(warehouse).pass()
        writing.cancel()
        let (longest, count) = try await writing.value
        #expect(longest < .milliseconds(1_000) && count > 10, "\(longest), \(count)")
        #expect(try await days(warehouse).count == 6)
    }

    @Test func hourlyRollUpsGoLater() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        try await service(warehouse).pass()
        let later = { (days: Int64) in
            warehouse.service(at: march + days * day, hotDays: 2) { $0.rollupDays = 60 }
        }
        // Nothing goes for its age where no newer data has come.
        await warehouse.log.publish("{\"s\":\"x\"}", at: march + 62 * day - hour)
        try await warehouse.drain()
        try await later(59).pass()
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_hour") == "240")
        try await later(62).pass()
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_hour") == "192")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_day") == "10")
    }
}
