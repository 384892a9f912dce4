import Database
import EventLog
import Flow
import Logging
import NIOCore
import ObjectStore
import Processor
import SyncModel
import TestSupport

/// A log in memory with as many readers as a test wants; each gets every partition, as two processors that do not know
/// of each other would.
actor MemoryLog: EventLog {
    private(set) var partitions: [[StoredLogRecord]]
    private var first: [Int64]
    private var identity = "memory-1"
    let now: Int64

    init(partitions: Int = 2, now: Int64 = 1_700_000_000_000_000) {
        self.partitions = Array(repeating: [], count: partitions)
        first = Array(repeating: 0, count: partitions)
        self.now = now
    }

    func incarnation() -> String { identity }
    func partitionCount() -> Int32 { Int32(partitions.count) }
    func close() {}

    func append(_ records: [LogRecord]) {
        for record in records {
            let partition = record.key.utf8.reduce(0) { $0 + Int($1) } % partitions.count
            partitions[partition].append(
                StoredLogRecord(
                    partition: Int32(partition), offset: Int64(partitions[partition].count), appendTime: now,
                    record: record))
        }
    }

    func append(_ entries: LogEntry...) { append(entries) }

    func append(_ entries: [LogEntry]) {
        append(entries.map { LogRecord(key: $0.routingKey, value: $0.encoded()) })
    }

    func bounds() -> [PartitionBounds] {
        partitions.indices.map {
            PartitionBounds(partition: Int32($0), first: first[$0], next: Int64(partitions[$0].count))
        }
    }

    func makeReader(group: String, member: String) -> any EventLogReader { MemoryReader(log: self) }

    /// Keys move, as with Kafka; what is there already stays where it is.
    func grow(to count: Int) {
        first += Array(repeating: 0, count: count - partitions.count)
        partitions += Array(repeating: [], count: count - partitions.count)
    }

    func become(_ incarnation: String) { identity = incarnation }
    func forget(before offset: Int64, partition: Int) { first[partition] = offset }

    fileprivate func read(_ positions: [Int32: Int64], _ maximum: Int) -> [StoredLogRecord] {
        var found: [StoredLogRecord] = []
        for (partition, position) in positions.sorted(by: { $0.key < $1.key }) {
            found += partitions[Int(partition)].dropFirst(Int(position)).prefix(max(0, maximum - found.count))
        }
        return found
    }
}

actor MemoryReader: EventLogReader {
    private let log: MemoryLog
    private var assigned: Int32 = 0
    private var positions: [Int32: Int64] = [:]

    init(log: MemoryLog) { self.log = log }

    func next(maximumRecords: Int, maximumBytes: Int, timeout: Duration) async throws(EventLogError) -> EventLogEvent {
        let count = await log.partitionCount()
        if assigned > 0, assigned != count {
            defer { assigned = 0 }
            positions = [:]
            return .revoked(Array(0..<assigned))
        }
        if assigned == 0 {
            assigned = count
            return .assigned(Array(0..<count))
        }
        let records = await log.read(positions, maximumRecords)
        if records.isEmpty {
            try? await Task.sleep(for: .milliseconds(2))
            return .idle
        }
        for record in records { positions[record.partition] = record.offset + 1 }
        return .records(records)
    }

    func seek(partition: Int32, to offset: Int64) { positions[partition] = offset }
    func commit(partition: Int32, next: Int64) {}
    func close() {}
}

/// A migrated database of its own, and connections to it.
struct Warehouse {
    let url: String
    let connection: PostgresConnection

    init() async throws { try await self.init(url: PostgresCluster.shared().makeDatabase()) }

    init(url: String) async throws {
        self.url = url
        connection = try await PostgresConnection.connect(.init(url: url, applicationName: "tests"))
        _ = try await Migrator(path: MigrationFile.directory(given: nil)).up(on: connection)
    }

    /// Rows as lines, columns with `|`.
    func lines(_ sql: String) async throws -> [String] { try await Self.lines(sql, on: connection) }

    func one(_ sql: String) async throws -> String { try await lines(sql).first ?? "" }

    /// The UTC day of the partition, or of TimescaleDB's chunk, that has the row of a message.
    func dayOfTable(holding sequence: Int) async throws -> String {
        let table = "(SELECT tableoid FROM measurement WHERE sequence = \(sequence))"
        if try await one("SELECT relkind AS k FROM pg_class WHERE oid = 'measurement'::regclass") == "p" {
            return try await one("SELECT replace(relname, 'measurement_', '') AS d FROM pg_class WHERE oid = \(table)")
        }
        return try await one(
            """
            SELECT to_char(range_start AT TIME ZONE 'UTC', 'YYYYMMDD') AS d FROM timescaledb_information.chunks
            WHERE to_regclass(format('%I.%I', chunk_schema, chunk_name)) = \(table)
                AND range_end = range_start + interval '1 day'
            """)
    }

    private static func lines(
        _ sql: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [String] {
        let rows = try connection.query(
            "SELECT concat_ws('|', VARIADIC ARRAY(SELECT value FROM jsonb_each_text(to_jsonb(q)))) FROM (\(sql)) q")
        return (0..<rows.rowCount).map { rows.string($0, 0) }
    }

    func configuration(_ change: (inout ProcessorConfiguration) -> Void = { _ in }) -> ProcessorConfiguration {
        var configuration = ProcessorConfiguration(database: url, member: "test")
        configuration.pollTimeout = .milliseconds(5)
        configuration.backoffBase = .milliseconds(2)
        configuration.backoffCap = .milliseconds(20)
        configuration.fallback.breaker.waitInOpen = 20_000
        change(&configuration)
        return configuration
    }

    /// Runs a processor until `condition` holds or 20 s are over.
    func process(
        _ log: any EventLog, _ configuration: ProcessorConfiguration? = nil, status: ProcessorStatus = .init(),
        objects: (any ObjectStore)? = nil, logger: Logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
        until condition: @escaping @Sendable (ProcessorStatus) async throws -> Bool
    ) async throws -> Bool {
        let processor = Processor(
            configuration: configuration ?? self.configuration(), log: log, status: status, objects: objects,
            logger: logger)
        let running = Task { await processor.run() }
        let holds = try await wait { try await condition(status) }
        running.cancel()
        await running.value
        return holds
    }

    /// Until everything in the log is processed.
    @discardableResult
    func drain(
        _ log: MemoryLog, _ change: (inout ProcessorConfiguration) -> Void = { _ in }
    ) async throws -> ProcessorStatus {
        let status = ProcessorStatus()
        let isDrained = try await process(log, configuration(change), status: status) { status in
            let bounds = await log.bounds()
            return bounds.allSatisfy { status.state.offsets[$0.partition] == $0.next }
        }
        if !isDrained { throw NotDrained(problems: status.problems) }
        return status
    }

    struct NotDrained: Error { var problems: [String] }
}

func wait(_ condition: () async throws -> Bool) async throws -> Bool {
    for _ in 0..<4_000 {
        if try await condition() { return true }
        try await Task.sleep(for: .milliseconds(5))
    }
    return false
}

let epochOne = Epoch(high: 1, low: 1)

func entry(
    of device: String = "d1", epoch: Epoch = epochOne, first: UInt64 = 1, number: UInt64? = nil,
    at time: Int64 = 1_700_000_000_000_000, topic: String = "t", bytes payloads: [[UInt8]]
) -> LogEntry {
    .messages(
        DeviceMessages(
            gateway: "g1", epoch: epoch, device: device, lane: .live,
            messages: payloads.enumerated().map { index, payload in
                SyncedMessage(
                    sequence: first + UInt64(index), number: (number ?? first) + UInt64(index), qos: 1,
                    wallTime: time + Int64(index), topic: ByteBuffer(string: topic), payload: ByteBuffer(bytes: payload)
                )
            }))
}

func entry(
    of device: String = "d1", epoch: Epoch = epochOne, first: UInt64 = 1, number: UInt64? = nil,
    at time: Int64 = 1_700_000_000_000_000, topic: String = "t", _ payloads: String...
) -> LogEntry {
    entry(
        of:
            device, epoch: epoch, first: first, number: number, at: time, topic: topic,
        bytes: payloads.map { Array($0.utf8) })
}
