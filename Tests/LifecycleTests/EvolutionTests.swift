import Database
import EventLog
import Lifecycle
import Processor
import SyncModel
import TestSupport
import Testing

@Suite struct EvolutionTests {
    private func worker(_ warehouse: Warehouse, _ status: ProcessorStatus) -> Task<Void, Never> {
        var configuration = ProcessorConfiguration(database: warehouse.url, member: "worker")
        configuration.pollTimeout = .milliseconds(5)
        configuration.backoffBase = .milliseconds(5)
        configuration.backoffCap = .milliseconds(50)
        configuration.maximumRecords = 20
        let processor = Processor(configuration: configuration, log: warehouse.log, status: status, logger: silent)
        return Task { await processor.run() }
    }

    /// The schema goes down and up under a processor that stores all the time: with the newer tables it marks late rows,
    /// without them it is what the release before was.
    @Test func theSchemaWalksUnderAProcessorAndNothingIsLost() async throws {
        let warehouse = try await Warehouse()
        let log = warehouse.log
        for step in 0..<48 as Range<Int64> { await log.publish("{\"n\":\(step),\"s\":\"x\"}", at: march + step * hour) }
        try await warehouse.drain()
        try await warehouse.service(at: march + 2 * day).pass()
        let migrator = try Migrator(path: MigrationFile.directory(given: nil))
        let base = try #require(migrator.files.first { $0.name == "traces" }).version
        let status = ProcessorStatus()
        let processing = worker(warehouse, status)
        let publishing = Task {
            var count: Int64 = 48
            while !Task.isCancelled {
                await log.publish(
                    "{\"n\":\(count),\"s\":\"y\"}", at: march + count * 977 % 48 * hour + count,
                    arrived: march + 2 * day)
                count += 1
                try? await Task.sleep(for: .milliseconds(1))
            }
            return UInt64(count)
        }
        let stored = { status.state.messages }
        for _ in 0..<3 {
            _ = try await FeatureFlags.set(.rollups, enabled: true, on: warehouse.connection)
            var before = stored()
            #expect(try await wait { stored() > before + 50 }, "with the newest schema")
            #expect(try await migrator.down(on: warehouse.connection, to: base).count == migrator.files.count - base)
            before = stored()
            #expect(try await wait { stored() > before + 50 }, "with the schema of the release before")
            #expect(try await migrator.up(on: warehouse.connection).count == migrator.files.count - base)
            #expect(
                try await warehouse.one("SELECT enabled AS e FROM feature_flag WHERE name = 'rollups'") == "false",
                "programs of the release before may be at work")
        }
        publishing.cancel()
        let count = await publishing.value
        #expect(try await wait { status.state.offsets[0] == Int64(count) })
        processing.cancel()
        await processing.value
        let report = try await warehouse.audit()
        #expect(report.sound && report.stored == count && report.rows == 2 * count, "\(report.problems)")
        #expect(
            try await warehouse.one(
                "SELECT concat_ws(' ', count(DISTINCT value), max(value) + 1) AS v FROM measurement")
                == "\(count) \(count)")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM event WHERE body_version <> 1 OR kind = 9") == "0")
        _ = try await FeatureFlags.set(.rollups, enabled: true, on: warehouse.connection)
        try await warehouse.service(at: march + 3 * day).pass()
        #expect(try await warehouse.differences("rollup_hour", width: "1 hour") == [])
    }

    /// A report reads the table for seconds; a migration needs it alone. Writers do not queue behind both.
    @Test func aMigrationThatWaitsLetsWritersGoOn() async throws {
        let warehouse = try await Warehouse()
        await warehouse.log.publish(1, at: march)
        try await warehouse.drain()
        let migrator = try Migrator(path: MigrationFile.directory(given: nil), lockTry: 200)
        let version = try #require(migrator.files.first { $0.name == "evolution" }).version
        let reader = try await warehouse.connect()
        try await reader.run("BEGIN; SELECT 1 FROM event LIMIT 1")
        let down = Task { try await migrator.down(on: warehouse.connection, to: version - 1) }
        let writer = try await warehouse.connect()
        var longest: Duration = .zero
        var count = 0
        let end = ContinuousClock.now + .seconds(2)
        while ContinuousClock.now < end {
            let started = ContinuousClock.now
            try await writer.run(
                """
                INSERT INTO event (time, sequence, device_id, source, part, parts, flags, kind, topic)
                VALUES ('2026-03-01 12:00Z', 1, 1, 99, 0, 1, 0, 1, 't')
                """)
            longest = max(longest, ContinuousClock.now - started)
            count += 1
        }
        #expect(longest < .milliseconds(700) && count > 20, "\(longest), \(count)")
        try await reader.run("COMMIT")
        #expect(try await down.value.isEmpty == false)
    }

    @Test func aProcessorRefusesASchemaThatItDoesNotFit() async throws {
        let warehouse = try await Warehouse()
        let connection = warehouse.connection
        #expect(try await ProgramSchema.check(on: connection) == .fits)
        try await connection.run("UPDATE schema_version SET contracts = true WHERE name = 'sparkplug'")
        #expect(try await ProgramSchema.check(on: connection) == .tooNew(unknown: ["sparkplug"]))
        await warehouse.log.publish(1, at: march)
        let status = ProcessorStatus()
        let processing = worker(warehouse, status)
        try await Task.sleep(for: .milliseconds(300))
        #expect(status.problems.contains("the database cannot be reached"))
        #expect(try await warehouse.one("SELECT count(*) AS n FROM ingest_offset") == "0")
        try await connection.run("UPDATE schema_version SET contracts = false")
        #expect(try await wait { status.state.offsets[0] == 1 })
        processing.cancel()
        await processing.value
        let base = try PostgresCluster.shared().makeDatabase()
        let empty = try await PostgresConnection.connect(.init(url: base, applicationName: "tests"))
        #expect(try await ProgramSchema.check(on: empty) == .tooOld(missing: ProgramSchema.required))
        _ = try await Migrator(path: MigrationFile.directory(given: nil)).up(on: empty, to: 2)
        #expect(
            try await ProgramSchema.check(on: empty) == .tooOld(missing: Array(ProgramSchema.required.dropFirst(2))))
        let error = await #expect(throws: PostgresError.self) { try await ProgramSchema.admit(on: empty) }
        #expect(error?.message.contains("sluice migrate up") == true)
    }

    /// A flag that is set is seen by a watching process at once, and by any other when it matters.
    @Test func flagsAreWatched() async throws {
        let warehouse = try await Warehouse()
        let flags = FeatureFlags()
        #expect(!flags.isOn(.rollups))
        let watch = FlagWatch(database: warehouse.url, flags: flags, interval: .seconds(60), logger: silent)
        let watching = Task { try await watch.run() }
        #expect(try await wait { flags.isOn(.rollups) })
        for enabled in [false, true, false] {
            let started = ContinuousClock.now
            #expect(try await FeatureFlags.set(.rollups, enabled: enabled, on: warehouse.connection))
            #expect(try await FeatureFlags.set(.rollups, enabled: enabled, on: warehouse.connection) == false)
            #expect(try await wait { flags.isOn(.rollups) == enabled })
            #expect(ContinuousClock.now - started < .seconds(5))
        }
        // Its connection is cut: it makes another.
        try await warehouse.connection.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sluice-flags' AND datname = current_database()"
        )
        watching.cancel()
        _ = await watching.result
        let alone = FeatureFlags()
        #expect(try await alone.current(.rollups, on: warehouse.connection) == false)
        _ = try await FeatureFlags.set(.rollups, enabled: true, on: warehouse.connection)
        #expect(try await alone.current(.rollups, on: warehouse.connection) == false, "not older than it may be")
        alone.forget()
        #expect(try await alone.current(.rollups, on: warehouse.connection))
    }

    @Test func whatWasDroppedKeepsTheSchemaFromGoingBack() async throws {
        let warehouse = try await Warehouse()
        await warehouse.log.publish(1, at: march)
        await warehouse.log.publish(1, at: march + 10 * day)
        try await warehouse.drain()
        try await warehouse.service(at: march + 10 * day, hotDays: 1).pass()
        #expect(try await warehouse.audit().retired == 1)
        let migrator = try Migrator(path: MigrationFile.directory(given: nil))
        let version = try #require(migrator.files.first { $0.name == "lifecycle" }).version
        let error = await #expect(throws: MigrationError.self) {
            try await migrator.down(on: warehouse.connection, to: version - 1)
        }
        #expect("\(error!)".contains("days were dropped"))
        #expect(try await warehouse.audit().sound)
    }
}
