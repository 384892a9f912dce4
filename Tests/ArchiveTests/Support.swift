import Database
import Foundation
import NIOCore
import Operations
import TestSupport

@testable import Archive
@testable import ObjectStore

let epochText = "00000000000000010000000000000002"
/// 2026-01-01 and the days after it.
let firstDay = ArchiveDay("2026-01-01")!  // A day of the calendar.
/// Seconds since 1970, in the morning of 2026-03-30: 85 days and more after the end of the first three days.
let march = ArchiveDay("2026-03-30")!.start + 3_600  // A day of the calendar.

/// A migrated database with rows of three days: each message has two measurements and, every fifth, an event.
struct Warehouse: Sendable {
    let url: String
    let connection: PostgresConnection
    let store: any ObjectStore
    let folder: String

    enum Kind: String, Sendable, CaseIterable {
        case folder, s3
    }

    static let kinds: [Kind] = S3Server.shared == nil ? [.folder] : Kind.allCases

    init(_ kind: Kind = .folder, messages: Int = 100) async throws {
        url = try PostgresCluster.shared().makeDatabase()
        connection = try await PostgresConnection.connect(.unlimited(url: url, applicationName: "tests"))
        _ = try await Migrator(path: MigrationFile.directory(given: nil)).up(on: connection)
        // Later than the time of any test: it is not behind.
        try await connection.run(DatabaseClock.set(to: (march + 36_500 * 86_400) * 1_000_000))
        folder = NSTemporaryDirectory() + "sluice-archive-\(UInt64.random(in: 0...UInt64.max))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        switch kind {
        case .folder: store = try FolderObjectStore(path: folder + "/objects")
        case .s3:
            guard let server = S3Server.shared else { throw CocoaError(.featureUnsupported) }
            try server.writeKeys(to: folder + "/keys")
            var s3 = CloudConfiguration.S3(bucket: server.bucket)
            s3.endpoint = server.endpoint
            s3.region = server.region
            s3.prefix = "archive-\(UInt64.random(in: 0...UInt64.max))/"
            s3.credentialsFile = folder + "/keys"
            store = try S3ObjectStore(s3)
        }
        try await connection.run(
            """
            INSERT INTO gateway (name) VALUES (E'g\\\\1');
            INSERT INTO source (gateway_id, epoch) VALUES (1, '\(epochText)');
            INSERT INTO device (name, generation) VALUES (E'd\\t1', 1);
            INSERT INTO metric (device_id, topic, path) VALUES (1, E't\\n', 'n'), (1, E't\\n', E'm\\\\N');
            INSERT INTO deduplication (source, device, numbers) VALUES (1, E'd\\t1', '{}');
            INSERT INTO gateway_epoch (source, last_sequence, closed) VALUES (1, 0, true);
            """)
        for day in 0..<3 { try await add(messages, day: day) }
    }

    func remove() { try? FileManager.default.removeItem(atPath: folder) }

    /// Messages that follow the newest one, in one transaction as the processor stores them. Values are of every kind.
    func add(_ messages: Int, day: Int) async throws {
        let day = ArchiveDay(number: firstDay.number + Int32(day))
        try await connection.run(
            """
            SELECT ensure_partitions('\(day)');
            CREATE TEMPORARY TABLE s ON COMMIT DROP AS SELECT last_sequence + i AS s
                FROM gateway_epoch, generate_series(1, \(messages)) i;
            INSERT INTO measurement (time, sequence, value, device_time, device_id, metric_id, source, part, parts, flags, text)
                SELECT timestamptz '\(day) 00:00:00+00' + s * interval '1.000001 s', s,
                    (ARRAY['NaN', '-0', '0.1', '1e-308', 'Infinity', '5e-324', NULL])[s % 7 + 1]::float8,
                    CASE s % 2 WHEN 0 THEN timestamptz '2026-01-01 12:00:00.123456+00' END, 1, m, 1, m - 1,
                    CASE s % 5 WHEN 0 THEN 3 ELSE 2 END, s % 3,
                    (ARRAY[E'a\\tb', E'\\\\N', '', 'é', E'x\\ny', NULL])[s % 6 + 1]
                FROM s, generate_series(1, 2) m;
            INSERT INTO event (time, sequence, device_id, source, part, parts, flags, kind, topic, body, bytes, reason)
                SELECT timestamptz '\(day) 00:00:00+00' + s * interval '1.000001 s', s, 1, 1, 2, 3, 0,
                    CASE s % 10 WHEN 0 THEN 9 ELSE 1 END, E't\\n',
                    CASE s % 10 WHEN 0 THEN NULL ELSE '{"a": ["b\\\\n", 1.50]}'::jsonb END,
                    CASE s % 10 WHEN 0 THEN E'\\\\x00ff5c0a'::bytea END, CASE s % 10 WHEN 0 THEN E'why\\r' END
                FROM s WHERE s % 5 = 0;
            UPDATE gateway_epoch SET last_sequence = last_sequence + \(messages);
            UPDATE deduplication SET numbers = int8multirange(int8range(1, (SELECT last_sequence + 1 FROM gateway_epoch)));
            """)
    }

    func one(_ sql: String) async throws -> String { try await Self.one(sql, connection) }

    private static func one(_ sql: String, _ connection: isolated PostgresConnection) throws(PostgresError) -> String {
        let rows = try connection.query(sql)
        return rows.rowCount == 0 ? "" : rows.string(0, 0)
    }

    func archiver(
        fileBytes: Int = 4_096, recheck: Int64 = 0, keep: Int64 = 730,
        step: @escaping @Sendable (Archiver.Step) async throws(ArchiveError) -> Void = { _ async throws(ArchiveError) in
        }, _ change: (inout Archiver.Settings) -> Void = { _ in }
    ) -> Archiver {
        var settings = Archiver.Settings(after: 85 * 86_400, keep: keep * 86_400)
        settings.fileBytes = fileBytes
        settings.chunkBytes = 1_024
        settings.recheck = recheck
        change(&settings)
        return Archiver(database: url, store: store, settings: settings, step: step)
    }

    /// Runs `body` while a row of that time is there: days go for their age only where newer data comes.
    ///
    /// - Parameter time: seconds since 1970.
    func witnessed<Value>(at time: Int64, _ body: () async throws -> Value) async throws -> Value {
        let at = "to_timestamp(\(time))"
        try await connection.run(
            """
            SELECT ensure_partitions((\(at) AT TIME ZONE 'UTC')::date);
            INSERT INTO measurement (time, sequence, device_id, metric_id, source, part, parts, flags)
                VALUES (\(at), 0, 1, 1, 1, 0, 1, 0)
            """)
        let value = try await body()
        try await connection.run("DELETE FROM measurement WHERE time = \(at) AND sequence = 0")
        return value
    }

    func archive() async throws -> Archiver.Summary? { try await archiver().run(now: march) }

    func isComplete(_ day: Int) async throws -> Bool {
        try await one("SELECT archive_is_complete('\(ArchiveDay(number: firstDay.number + Int32(day)))')") == "t"
    }

    /// As the lifecycle does when a day is old.
    func drop(day: Int) async throws {
        let day = ArchiveDay(number: firstDay.number + Int32(day))
        for table in ArchiveTable.allCases {
            try await connection.run("DELETE FROM \(table.rawValue) WHERE \(ArchiveTable.condition(day))")
        }
    }

    /// Rows of a table that another does not have in the same number, either way.
    func differences(_ table: ArchiveTable, _ other: String, where condition: String = "true") async throws -> String {
        let columns =
            table == .measurement
            ? "time, sequence, value::text, device_time, device_id, metric_id, source, part, parts, flags, text"
            : "time, sequence, device_time, device_id, source, part, parts, flags, kind, topic, body, bytes, reason"
        let one = "SELECT \(columns) FROM \(table.rawValue) WHERE \(condition)"
        let two = "SELECT \(columns) FROM \(other) WHERE \(condition)"
        return try await self.one(
            "SELECT count(*) FROM ((\(one) EXCEPT ALL \(two)) UNION ALL (\(two) EXCEPT ALL \(one))) d")
    }

    func keys() async throws -> [String] {
        try await store.list(prefix: "archive/", after: nil, maximum: 1_000).map(\.key)
    }
}

/// Ends a run after its n-th step.
actor Breaker {
    private var left: Int
    private(set) var steps: [Archiver.Step] = []

    init(after steps: Int) { left = steps }

    func step(_ step: Archiver.Step) throws(ArchiveError) {
        steps.append(step)
        left -= 1
        if left == 0 { throw .interrupted }
    }
}

extension Archiver {
    func runUntilInterrupted(now: Int64) async throws(ArchiveError) {
        do throws(ArchiveError) {
            _ = try await run(now: now)
        } catch {
            guard case .interrupted = error else { throw error }
        }
    }
}
