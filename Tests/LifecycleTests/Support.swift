import Audit
import Database
import EventLog
import Lifecycle
import Logging
import NIOCore
import Processor
import SyncModel
import TestSupport

/// Microseconds.
let hour: Int64 = 3_600_000_000
let day: Int64 = 24 * hour
/// 2026-03-01 00:00 UTC.
let march: Int64 = 1_772_323_200_000_000
/// Later than the time of any test: its database is not behind.
let farFuture = march + 36_500 * day

/// A log in memory whose append times a test chooses; one partition.
actor TimedLog: EventLog {
    private var records: [StoredLogRecord] = []
    private var next: UInt64 = 1

    func incarnation() -> String { "timed" }
    func partitionCount() -> Int32 { 1 }
    func close() {}
    func append(_ records: [LogRecord]) {}
    func bounds() -> [PartitionBounds] { [PartitionBounds(partition: 0, first: 0, next: Int64(records.count))] }
    func makeReader(group: String, member: String) -> any EventLogReader { TimedReader(log: self) }

    /// A message with one number, whose gateway's time is `time`.
    func publish(
        _ value: Double, at time: Int64, device: String = "d1", arrived: Int64? = nil, isSynchronised: Bool = true
    ) {
        publish("{\"n\":\(value)}", at: time, device: device, arrived: arrived, isSynchronised: isSynchronised)
    }

    func publish(
        _ payload: String, at time: Int64, device: String = "d1", arrived: Int64? = nil, isSynchronised: Bool = true
    ) {
        var message = SyncedMessage(
            sequence: next, number: next, qos: 1, wallTime: time, topic: ByteBuffer(string: "t"),
            payload: ByteBuffer(string: payload))
        message.isClockSynchronised = isSynchronised
        next += 1
        let entry = LogEntry.messages(
            DeviceMessages(
                gateway: "g1", epoch: Epoch(high: 1, low: 1), device: device, lane: .live, messages: [message]))
        append(entry, arrived: arrived ?? time)
    }

    /// All records once more, as a gateway sends them that has no answer.
    func repeatAll() {
        for record in records { append(record.record, arrived: record.appendTime) }
    }

    private func append(_ entry: LogEntry, arrived: Int64) {
        append(LogRecord(key: entry.routingKey, value: entry.encoded()), arrived: arrived)
    }

    private func append(_ record: LogRecord, arrived: Int64) {
        records.append(
            StoredLogRecord(partition: 0, offset: Int64(records.count), appendTime: arrived, record: record))
    }

    func read(_ position: Int64, _ maximum: Int) -> [StoredLogRecord] {
        Array(records.dropFirst(Int(position)).prefix(maximum))
    }
}

actor TimedReader: EventLogReader {
    private let log: TimedLog
    private var isAssigned = false
    private var position: Int64 = 0

    init(log: TimedLog) { self.log = log }

    func next(maximumRecords: Int, maximumBytes: Int, timeout: Duration) async throws(EventLogError) -> EventLogEvent {
        if !isAssigned {
            isAssigned = true
            return .assigned([0])
        }
        let records = await log.read(position, maximumRecords)
        if records.isEmpty {
            try? await Task.sleep(for: .milliseconds(2))
            return .idle
        }
        position += Int64(records.count)
        return .records(records)
    }

    func seek(partition: Int32, to offset: Int64) { position = offset }
    func commit(partition: Int32, next: Int64) {}
    func close() {}
}

let silent = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

/// A migrated database, a log, and what works on them.
struct Warehouse {
    let url: String
    let connection: PostgresConnection
    let log: TimedLog

    init() async throws { try await self.init(url: try PostgresCluster.shared().makeDatabase()) }

    init(url: String) async throws {
        self.url = url
        log = TimedLog()
        connection = try await PostgresConnection.connect(.init(url: url, applicationName: "tests"))
        _ = try await Migrator(path: MigrationFile.directory(given: nil)).up(on: connection)
        try await connection.run(DatabaseClock.set(to: farFuture))
    }

    private init(url: String, log: TimedLog, connection: PostgresConnection) {
        self.url = url
        self.log = log
        self.connection = connection
    }

    /// The same after its server has been away.
    func reconnected() async throws -> Warehouse { Warehouse(url: url, log: log, connection: try await connect()) }

    func connect() async throws -> PostgresConnection {
        try await PostgresConnection.connect(.init(url: url, applicationName: "tests"))
    }

    /// The database has TimescaleDB, so chunks instead of partitions.
    func isHypertable() async throws -> Bool {
        try await one("SELECT relkind <> 'p' AS h FROM pg_class WHERE oid = 'measurement'::regclass") == "true"
    }

    /// Rows as lines, columns with `|`.
    func lines(_ sql: String) async throws -> [String] { try await Self.lines(sql, on: connection) }

    func one(_ sql: String) async throws -> String { try await lines(sql).first ?? "" }

    private static func lines(
        _ sql: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [String] {
        let rows = try connection.query(
            "SELECT concat_ws('|', VARIADIC ARRAY(SELECT value FROM jsonb_each_text(to_jsonb(q)))) FROM (\(sql)) q")
        return (0..<rows.rowCount).map { rows.string($0, 0) }
    }

    /// Runs a processor until everything in the log is stored.
    func drain(hotDays: Int = 90) async throws {
        var configuration = ProcessorConfiguration(database: url, member: "test")
        configuration.pollTimeout = .milliseconds(5)
        configuration.backoffBase = .milliseconds(2)
        configuration.backoffCap = .milliseconds(20)
        configuration.hotDays = hotDays
        let status = ProcessorStatus()
        let processor = Processor(configuration: configuration, log: log, status: status, logger: silent)
        let running = Task { await processor.run() }
        let isDrained = try await wait { status.state.offsets[0] == (await log.bounds())[0].next }
        running.cancel()
        await running.value
        if !isDrained { throw NotDrained(problems: status.problems) }
    }

    struct NotDrained: Error { var problems: [String] }

    func service(
        at now: Int64, hotDays: Int32 = 90, logger: Logger = silent,
        _ change: (inout LifecycleConfiguration) -> Void = { _ in }
    ) -> LifecycleService {
        var configuration = LifecycleConfiguration(database: url, hotDays: hotDays)
        configuration.closeDelay = .zero
        configuration.againDelay = .zero
        configuration.flagDelay = .zero
        configuration.quietTimeout = .seconds(5)
        change(&configuration)
        return LifecycleService(configuration: configuration, logger: logger, now: { now })
    }

    func audit() async throws -> AuditReport { try await Audit(database: url).run() }

    /// The roll-ups of an hour or day as they should be, from the rows that are there, and as they are; empty: the same.
    func differences(_ table: String, width: String) async throws -> [String] {
        try await lines(
            """
            WITH expected AS (
                SELECT metric_id, date_bin('\(width)', time, timestamptz 'epoch') AS bucket, count(*) AS count,
                    min(value) AS min, max(value) AS max, sum(value) AS sum,
                    (array_agg(value ORDER BY time, value))[1] AS first,
                    (array_agg(value ORDER BY time DESC, value DESC))[1] AS last
                FROM measurement WHERE value IS NOT NULL GROUP BY 1, 2
            ), found AS (SELECT metric_id, bucket, count, min, max, sum, first, last FROM \(table))
            (SELECT 'missing' AS a, * FROM (TABLE expected EXCEPT TABLE found) e)
            UNION ALL (SELECT 'wrong' AS a, * FROM (TABLE found EXCEPT TABLE expected) f)
            """)
    }
}

func wait(_ condition: () async throws -> Bool) async throws -> Bool {
    for _ in 0..<4_000 {
        if try await condition() { return true }
        try await Task.sleep(for: .milliseconds(5))
    }
    return false
}
