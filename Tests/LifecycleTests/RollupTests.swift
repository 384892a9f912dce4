import Database
import Lifecycle
import Testing

@Suite struct RollupTests {
    /// Three devices, several values an hour, over two days from 1 March 2026.
    private func fill(_ warehouse: Warehouse, hours: Int64 = 48) async throws {
        for step in 0..<hours * 4 {
            for device in 1...3 {
                await warehouse.log.publish(
                    Double((step * 37 + Int64(device) * 11) % 100), at: march + step * hour / 4 + Int64(device) * 1_000,
                    device: "d\(device)")
            }
        }
        try await warehouse.drain()
    }

    private func same(_ warehouse: Warehouse) async throws {
        #expect(try await warehouse.differences("rollup_hour", width: "1 hour") == [])
        #expect(try await warehouse.differences("rollup_day", width: "1 day") == [])
    }

    @Test func hoursAndDaysAreWhatTheRowsSay() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        #expect(try await warehouse.service(at: march + 2 * day).pass())
        try await same(warehouse)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_hour") == "144")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_day") == "6")
        // Nothing is done twice: the same pass changes no row.
        let before = try await warehouse.lines("SELECT xmin::text, ctid::text FROM rollup_hour ORDER BY 2")
        #expect(try await warehouse.service(at: march + 2 * day).pass())
        #expect(try await warehouse.lines("SELECT xmin::text, ctid::text FROM rollup_hour ORDER BY 2") == before)
    }

    @Test func anOpenHourAndDayWait() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse, hours: 30)
        try await warehouse.service(at: march + 29 * hour + hour / 2).pass()
        #expect(
            try await warehouse.one(
                "SELECT max(bucket) = '2026-03-02 04:00Z' AS m, count(DISTINCT bucket) FROM rollup_hour")
                == "true|29")
        #expect(try await warehouse.one("SELECT count(DISTINCT bucket) AS n FROM rollup_day") == "1")
        #expect(
            try await warehouse.one("SELECT computed_before = '2026-03-02 05:00Z' AS c FROM rollup_progress") == "true")
    }

    @Test func lateRowsHaveTheirHoursRolledUpAgain() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        try await warehouse.service(at: march + 2 * day).pass()
        // Into the middle of a known hour, into one before all others, and into one that is still open.
        await warehouse.log.publish(1_000, at: march + 5 * hour, arrived: march + 2 * day)
        await warehouse.log.publish(-1_000, at: march - 3 * day, arrived: march + 2 * day)
        await warehouse.log.publish(7, at: march + 2 * day + 1, arrived: march + 2 * day + 1)
        try await warehouse.drain()
        #expect(
            try await warehouse.lines("SELECT DISTINCT to_char(hour, 'MMDDHH24') AS h FROM rollup_dirty ORDER BY 1")
                == ["022600", "030105"])
        // Not before their time.
        try await warehouse.service(at: march + 2 * day) { $0.againDelay = .seconds(3_600) }.pass()
        #expect(try await warehouse.differences("rollup_hour", width: "1 hour").isEmpty == false)
        try await warehouse.service(at: march + 3 * day).pass()
        try await same(warehouse)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_dirty") == "0")
    }

    @Test func repeatedMessagesMarkNothing() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse, hours: 3)
        try await warehouse.service(at: march + day).pass()
        await warehouse.log.repeatAll()
        try await warehouse.drain()
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_dirty") == "0")
        try await same(warehouse)
    }

    /// A writer has read that its hour is open, has stored its row, and commits after the hour is closed.
    @Test func anHourWaitsForTransactionsThatSawItOpen() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse, hours: 3)
        try await warehouse.service(at: march).pass()
        let writer = try await warehouse.connect()
        // As the processor does it: a first write, the rows, the marks.
        try await writer.run(
            """
            BEGIN; UPDATE ingest_offset SET updated_at = now();
            INSERT INTO measurement SELECT time + interval '1 second', 9999, 4242, device_time, device_id, metric_id, source,
                part, parts, flags, text FROM measurement LIMIT 1;
            INSERT INTO rollup_dirty (hour)
                SELECT h FROM rollup_progress p, (SELECT timestamptz '2026-03-01 00:00Z' AS h) w WHERE h < p.closed_before
            """)
        // It is not waited for for ever, and nothing is rolled up without it.
        try await warehouse.service(at: march + day) { $0.quietTimeout = .milliseconds(200) }.pass()
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_hour") == "0")
        #expect(
            try await warehouse.one("SELECT closed_before = '2026-03-02 00:00Z' AS c FROM rollup_progress") == "true")
        let service = warehouse.service(at: march + day) { $0.quietTimeout = .seconds(30) }
        async let isDone = service.pass()
        try await Task.sleep(for: .milliseconds(200))
        // Who comes now sees it closed and marks; its commit need not be waited for.
        let second = try await warehouse.connect()
        try await second.run(
            """
            BEGIN; CREATE TEMP TABLE first_write (i int);
            INSERT INTO measurement SELECT time + interval '2 seconds', 9998, 4343, device_time, device_id, metric_id, source,
                part, parts, flags, text FROM measurement LIMIT 1;
            INSERT INTO rollup_dirty (hour)
                SELECT h FROM rollup_progress p, (SELECT timestamptz '2026-03-01 00:00Z' AS h) w WHERE h < p.closed_before
            """)
        try await writer.run("COMMIT")
        #expect(try await isDone)
        try await same(warehouse)
        #expect(try await warehouse.one("SELECT max(max) AS m FROM rollup_hour") == "4242")
        try await second.run("COMMIT")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_dirty") == "1")
        try await warehouse.service(at: march + day).pass()
        try await same(warehouse)
        #expect(try await warehouse.one("SELECT max(max) AS m FROM rollup_hour") == "4343")
    }

    /// The connection is cut at each statement of the roll-up in turn.
    @Test(arguments: ["rollup_hour", "rollup_day", "rollup_progress", "rollup_dirty"])
    func aConnectionCutAtAStatement(table: String) async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse, hours: 26)
        try await warehouse.service(at: march + 26 * hour).pass()
        for step in 0..<3 {
            await warehouse.log.publish(Double(500 + step), at: march + Int64(step) * hour, arrived: march + 26 * hour)
        }
        for step in 0..<22 { await warehouse.log.publish(Double(step), at: march + Int64(26 + step) * hour) }
        try await warehouse.drain()
        try await warehouse.connection.run(
            """
            CREATE SEQUENCE cut_count;
            CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('cut_count') IN (1, 3) THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER cut AFTER INSERT OR UPDATE OR DELETE ON \(table) FOR EACH STATEMENT EXECUTE FUNCTION cut();
            """)
        var failures = 0
        for _ in 0..<6 {
            do { try await warehouse.service(at: march + 2 * day).pass() } catch { failures += 1 }
        }
        #expect(failures == 2)
        try await same(warehouse)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_dirty") == "0")
    }

    /// Writers store late rows while the roll-up runs over and over.
    @Test func rollUpsAreRightBesideWriters() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse, hours: 5)
        let log = warehouse.log
        let publisher = Task {
            for step in 0..<600 {
                await log.publish(
                    Double(step % 90), at: march + Int64(step * 7 % 300) * hour / 60, arrived: march + day)
                if step % 20 == 0 { try await Task.sleep(for: .milliseconds(10)) }
            }
        }
        let roller = Task {
            var passes = 0
            while !Task.isCancelled {
                try await warehouse.service(at: march + Int64(passes % 24) * hour).pass()
                passes += 1
            }
            return passes
        }
        for _ in 0..<5 { try await warehouse.drain() }
        try await publisher.value
        try await warehouse.drain()
        roller.cancel()
        _ = await roller.result
        try await warehouse.service(at: march + day).pass()
        try await same(warehouse)
    }

    @Test func oneProcessWorksAtATime() async throws {
        let warehouse = try await Warehouse()
        let other = try await warehouse.connect()
        try await other.run("SELECT pg_advisory_lock(\(0x736C_7569_6366))")
        #expect(try await warehouse.service(at: march).pass() == false)
        await other.close()
        #expect(try await wait { try await warehouse.service(at: march).pass() })
    }

    @Test func withoutMarksAllHoursAreRolledUpAgain() async throws {
        let warehouse = try await Warehouse()
        try await fill(warehouse)
        try await warehouse.service(at: march + 2 * day).pass()
        #expect(try await FeatureFlags.set(.rollups, enabled: false, on: warehouse.connection))
        await warehouse.log.publish(5_000, at: march + 5 * hour, arrived: march + 2 * day)
        try await warehouse.drain()
        #expect(try await warehouse.one("SELECT count(*) AS n FROM rollup_dirty") == "0")
        // Nothing is rolled up while nobody marks.
        try await warehouse.service(at: march + 3 * day).pass()
        #expect(
            try await warehouse.one("SELECT closed_before = '2026-03-03 00:00Z' AS c FROM rollup_progress") == "true")
        #expect(try await FeatureFlags.set(.rollups, enabled: true, on: warehouse.connection))
        // Not before every writer has seen the flag.
        try await warehouse.service(at: march + 3 * day) { $0.flagDelay = .seconds(60) }.pass()
        #expect(try await warehouse.differences("rollup_hour", width: "1 hour").isEmpty == false)
        try await warehouse.service(at: march + 3 * day).pass()
        try await same(warehouse)
    }

    @Test func largeValuesHaveNoSum() async throws {
        let warehouse = try await Warehouse()
        for value in ["1.7e308", "1.7e308", "-1.7e308"] { await warehouse.log.publish("{\"n\":\(value)}", at: march) }
        await warehouse.log.publish(3, at: march, device: "d2")
        try await warehouse.drain()
        try await warehouse.service(at: march + day).pass()
        for table in ["rollup_hour", "rollup_day"] {
            #expect(
                try await warehouse.one("SELECT count(*) AS n FROM \(table) WHERE sum IS NULL AND count = 3") == "1")
            #expect(try await warehouse.one("SELECT count(*) AS n FROM \(table) WHERE sum = 3 AND count = 1") == "1")
        }
    }
}
