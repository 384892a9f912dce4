import Database
import Foundation
import NIOCore
import TestSupport
import Testing

/// A folder of migrations, removed at the end of the test.
final class MigrationFolder {
    let path: String

    init(_ files: [String: String]) throws {
        path = NSTemporaryDirectory() + "sluice-migrations-\(UInt64.random(in: 0...UInt64.max))"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        for (name, text) in files { try write(name, text) }
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ name: String, _ text: String) throws {
        try text.write(toFile: "\(path)/\(name)", atomically: true, encoding: .utf8)
    }
}

@Suite struct MigratorTests {
    static let two = [
        "0001_first.up.sql": "CREATE TABLE a (i int)", "0001_first.down.sql": "DROP TABLE a",
        "0002_second.up.sql": "CREATE TABLE b (i int); INSERT INTO b VALUES (1)",
        "0002_second.down.sql": "DROP TABLE b",
    ]

    @Test func theShippedSchemaGoesUpDownAndUp() async throws {
        let connection = try await freshConnection()
        let path = try MigrationFile.directory(given: nil)
        let migrator = try Migrator(path: path)
        let objects = """
            SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE nspname = 'public' AND relkind IN ('r', 'p', 'i', 'I', 'S')
            """
        #expect(try await migrator.up(on: connection).count == migrator.files.count)
        let first = try await connection.scalar(objects)
        #expect(first.contains("measurement") && first.contains("deduplication"))
        #expect(try await migrator.up(on: connection).isEmpty)
        #expect(try await migrator.down(on: connection, to: 0).count == migrator.files.count)
        #expect(try await connection.scalar(objects) == "schema_version,schema_version_pkey")
        #expect(
            try await connection.scalar(
                """
                SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'public'
                    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
                """)
                == "0")
        #expect(try await migrator.up(on: connection).count == migrator.files.count)
        #expect(try await connection.scalar(objects) == first)
        #expect(try await migrator.status(on: connection).allSatisfy { $0.appliedAt != nil })
    }

    @Test func partitionsAreMadeOnceForADay() async throws {
        let connection = try await freshConnection()
        _ = try await Migrator(path: MigrationFile.directory(given: nil)).up(on: connection)
        let insert = """
            INSERT INTO event (time, sequence, device_id, source, part, parts, flags, kind, topic)
            VALUES ('2026-03-01 23:59:59.999999+00', 1, 1, 1, 0, 1, 0, 1, 't')
            """
        // TimescaleDB makes its chunks by itself.
        if try await connection.scalar("SELECT relkind FROM pg_class WHERE oid = 'event'::regclass") != "p" {
            #expect(try await connection.scalar("SELECT ensure_partitions('2026-03-01')") == "f")
            try await connection.run(insert)
            let days = "SELECT string_agg((range_start AT TIME ZONE 'UTC')::date::text, ',') FROM"
            #expect(try await connection.scalar("\(days) timescaledb_information.chunks") == "2026-03-01")
            return
        }
        let refused = await #expect(throws: PostgresError.self) { try await connection.run(insert) }
        #expect(refused?.sqlState == "23514", "without a partition nothing is stored anywhere")
        #expect(try await connection.scalar("SELECT ensure_partitions('2026-03-01')") == "t")
        #expect(try await connection.scalar("SELECT ensure_partitions('2026-03-01')") == "f")
        try await connection.run(insert)
        #expect(try await connection.scalar("SELECT count(*) FROM event_20260301") == "1")
    }

    @Test func oneStepDownIsTheDefaultAndTargetsAreChecked() async throws {
        let folder = try MigrationFolder(Self.two)
        let connection = try await freshConnection()
        let migrator = try Migrator(path: folder.path)
        #expect(try await migrator.up(on: connection, to: 1).map(\.version) == [1])
        #expect(try await migrator.status(on: connection).map { $0.appliedAt != nil } == [true, false])
        #expect(try await migrator.up(on: connection).map(\.version) == [2])
        #expect(try await migrator.down(on: connection).map(\.version) == [2])
        #expect(try await connection.scalar("SELECT to_regclass('b') IS NULL AND to_regclass('a') IS NOT NULL") == "t")
        await #expect(throws: MigrationError.self) { try await migrator.up(on: connection, to: 3) }
    }

    @Test func aFailingFileLeavesNothingBehind() async throws {
        let folder = try MigrationFolder(Self.two)
        try folder.write("0002_second.up.sql", "CREATE TABLE b (i int); SELECT 1/0")
        let connection = try await freshConnection()
        let error = await #expect(throws: MigrationError.self) {
            try await Migrator(path: folder.path).up(on: connection)
        }
        #expect("\(error!)".contains("0002_second.up.sql failed and was rolled back"))
        #expect(try await connection.scalar("SELECT count(*) || to_regclass('b')::text FROM schema_version") == "")
        #expect(try await connection.scalar("SELECT max(version) FROM schema_version") == "1")
        try folder.write("0002_second.up.sql", "CREATE TABLE b (i int); COMMIT")
        let ended = await #expect(throws: MigrationError.self) {
            try await Migrator(path: folder.path).up(on: connection)
        }
        #expect("\(ended!)".contains("COMMIT"))
    }

    @Test func aChangedOrVanishedFileIsAnError() async throws {
        let folder = try MigrationFolder(Self.two)
        let connection = try await freshConnection()
        _ = try await Migrator(path: folder.path).up(on: connection)
        try folder.write("0001_first.up.sql", "CREATE TABLE a (i bigint)")
        let changed = await #expect(throws: MigrationError.self) {
            try await Migrator(path: folder.path).up(on: connection)
        }
        #expect("\(changed!)".contains("migration 1 (first) was changed"))
        let sum = try await connection.scalar("SELECT encode(checksum, 'hex') FROM schema_version WHERE version = 1")
        try folder.write("0001_first.up.sql", "-- formerly: \(sum)\nCREATE TABLE IF NOT EXISTS a (i int)")
        #expect(try await Migrator(path: folder.path).up(on: connection).isEmpty)
        let older = try MigrationFolder(Self.two.filter { $0.key.hasPrefix("0001") })
        let unknown = await #expect(throws: MigrationError.self) {
            try await Migrator(path: older.path).status(on: connection)
        }
        #expect("\(unknown!)".contains("version 2 (second)"))
        try await connection.run("DELETE FROM schema_version WHERE version = 1")
        let gap = await #expect(throws: MigrationError.self) {
            try await Migrator(path: folder.path).status(on: connection)
        }
        #expect("\(gap!)".contains("version 1 is missing"))
    }

    @Test(arguments: [
        (
            ["0001_a.up.sql": "", "0001_a.down.sql": "", "0003_b.up.sql": "", "0003_b.down.sql": ""],
            "version 2 is missing"
        ),
        (["0001_a.up.sql": ""], "0001_a.down.sql is missing"),
        (["0001_a.down.sql": ""], "0001_a.up.sql is missing"),
        (["1_a.up.sql": "", "1_a.down.sql": ""], "NNNN_name"),
        (
            ["0001_a.up.sql": "", "0001_a.down.sql": "", "0001_b.up.sql": "", "0001_b.down.sql": ""],
            "used twice"
        ),
        ([:], "no migrations found"),
    ])
    func foldersAreChecked(files: [String: String], message: String) throws {
        let folder = try MigrationFolder(files)
        let error = #expect(throws: MigrationError.self) { try Migrator(path: folder.path) }
        #expect("\(error!)".contains(message))
    }

    @Test func twoMigratorsDoTheWorkOnce() async throws {
        let url = try PostgresCluster.shared().makeDatabase()
        let folder = try MigrationFolder(Self.two)
        let path = folder.path
        let applied = try await withThrowingTaskGroup(of: Int.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    let connection = try await PostgresConnection.connect(.init(url: url, applicationName: "m"))
                    return try await Migrator(path: path).up(on: connection).count
                }
            }
            return try await group.reduce(0, +)
        }
        #expect(applied == 2)
        withExtendedLifetime(folder) {}
    }

    @Test func aMigratorThatWaitsTooLongSaysSo() async throws {
        let url = try PostgresCluster.shared().makeDatabase()
        let folder = try MigrationFolder(Self.two)
        let holder = try await PostgresConnection.connect(.init(url: url, applicationName: "holder"))
        _ = try await holder.scalar("SELECT pg_advisory_lock($1)", [.int8(0x736C_7569_6365)])
        let connection = try await PostgresConnection.connect(.init(url: url, applicationName: "m"))
        let error = await #expect(throws: MigrationError.self) {
            try await Migrator(path: folder.path, lockWait: 1).up(on: connection)
        }
        #expect("\(error!)".contains("another migration"))
    }
}
