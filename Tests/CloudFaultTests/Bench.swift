import Audit
import Database
import EventLog
import Flow
import Foundation
import Logging
import NIOCore
import ObjectStore
import Processor
import SyncModel
import TestSupport
import Testing

/// Appends traffic until it is told to stop, as gateways do: what was not taken is sent again.
actor Load {
    private(set) var traffic: Traffic
    private let log: any EventLog
    private let pause: Duration
    private let senders: Int
    private var isStopping = false
    /// Appends that the log refused, by what it said.
    private(set) var refusals: [EventLogError] = []

    init(_ traffic: Traffic, into log: any EventLog, pause: Duration = .milliseconds(10), senders: Int = 4) {
        self.traffic = traffic
        self.log = log
        self.pause = pause
        self.senders = senders
    }

    func run() async throws {
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for _ in 0..<senders { tasks.addTask { try await self.sendUntilStopped() } }
            try await tasks.waitForAll()
        }
        try await send(traffic.rest())
    }

    private func sendUntilStopped() async throws {
        while !isStopping {
            try await send(traffic.next(12))
            try await Task.sleep(for: pause)
        }
    }

    func stop() { isStopping = true }

    private func send(_ entries: [LogEntry]) async throws {
        let deadline = ContinuousClock.now + .seconds(40)
        while true {
            do throws(EventLogError) {
                return try await log.append(entries)
            } catch {
                if refusals.count < 1_000 { refusals.append(error) }
                if ContinuousClock.now > deadline { throw error }
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }
}

/// A processor in this process, and what it says.
struct Worker: Sendable {
    let status = ProcessorStatus()
    let lines = LogLines()
    private let task: Task<Void, Never>

    init(_ configuration: ProcessorConfiguration, log: any EventLog, objects: (any ObjectStore)? = nil) {
        let processor = Processor(
            configuration: configuration, log: log, status: status, objects: objects, logger: lines.logger)
        task = Task { await processor.run() }
    }

    func stop() async {
        task.cancel()
        await task.value
    }
}

/// A transaction that holds what others wait for.
struct Holder: Sendable {
    private let connection: PostgresConnection

    init(_ url: String, _ sql: String) async throws {
        connection = try await PostgresConnection.connect(.unlimited(url: url, applicationName: "tests"))
        try await connection.run("BEGIN; \(sql)")
    }

    func release() async { await connection.close() }
}

/// A database and a log, load into the log, and the proof at the end that each message ended once.
struct Bench: Sendable {
    let database: String
    let log: any EventLog

    /// A migrated database of its own.
    static func database(on cluster: PostgresCluster) async throws -> String {
        let url = try await blocking { try cluster.makeDatabase() }
        try await migrate(url)
        return url
    }

    static func migrate(_ url: String) async throws {
        let connection = try await PostgresConnection.connect(.unlimited(url: url, applicationName: "tests"))
        _ = try await Migrator(path: MigrationFile.directory(given: nil)).up(on: connection)
        await connection.close()
    }

    func configuration(
        _ member: String = "one", _ change: (inout ProcessorConfiguration) -> Void = { _ in }
    ) -> ProcessorConfiguration {
        var configuration = ProcessorConfiguration(database: database, member: member)
        configuration.fallback.breaker.waitInOpen = 200_000
        configuration.pollTimeout = .milliseconds(20)
        configuration.backoffBase = .milliseconds(20)
        configuration.backoffCap = .milliseconds(300)
        configuration.reclaimDelay = .milliseconds(500)
        // Small transactions, so that a fault meets many of them.
        configuration.maximumRecords = 200
        change(&configuration)
        return configuration
    }

    /// Load before, while and after the fault; then everything must end.
    ///
    /// - Returns: what was sent.
    @discardableResult
    func underLoad(
        _ traffic: Traffic = Traffic(seed: 1), pause: Duration = .milliseconds(10),
        before: Duration = .milliseconds(300),
        after: Duration = .milliseconds(300), drainedWithin seconds: Double = 40, _ fault: (Load) async throws -> Void
    ) async throws -> Traffic {
        let load = Load(traffic, into: log, pause: pause)
        let running = Task { try await load.run() }
        do {
            try await Task.sleep(for: before)
            try await fault(load)
            try await Task.sleep(for: after)
        } catch {
            await load.stop()
            running.cancel()
            throw error
        }
        await load.stop()
        try await running.value
        try await drained(within: seconds)
        return await load.traffic
    }

    /// Everything that the log holds is stored.
    func drained(within seconds: Double = 40) async throws {
        try await eventually("the log is processed", within: seconds) {
            let bounds = try await log.bounds()
            guard let offsets = try? await offsets() else { return false }
            return bounds.allSatisfy { $0.next == 0 || offsets[$0.partition] == $0.next }
        }
    }

    func offsets() async throws -> [Int32: Int64] {
        var offsets: [Int32: Int64] = [:]
        for row in try await rows("SELECT partition::int8, next_offset FROM ingest_offset") {
            offsets[Int32(row[0]) ?? -1] = Int64(row[1])
        }
        return offsets
    }

    /// The real audit, and a count of its own over the tables.
    func expectExactlyOnce(_ traffic: Traffic, sourceLocation: SourceLocation = #_sourceLocation) async throws {
        let report = try await Audit(database: database, log: log, accounting: { traffic.accounting }).run()
        #expect(report.closed, "\(report)", sourceLocation: sourceLocation)
        #expect(report.problems == [], sourceLocation: sourceLocation)
        #expect(report.lost == 0 && report.duplicated == 0, sourceLocation: sourceLocation)
        #expect(report.stored == UInt64(traffic.messageCount), sourceLocation: sourceLocation)
        #expect(report.dropped.values.reduce(0, +) == traffic.dropped, sourceLocation: sourceLocation)
        #expect(report.deadLettered == traffic.refused, sourceLocation: sourceLocation)
        try await expectRows(traffic, sourceLocation)
    }

    private func expectRows(_ traffic: Traffic, _ sourceLocation: SourceLocation) async throws {
        var wanted = traffic.messages
        var wrong: [String] = []
        let found = try await rows(
            """
            SELECT g.name, replace(s.epoch::text, '-', ''), r.sequence, count(*), count(DISTINCT r.part),
                coalesce(max(r.n), 0)::int8
            FROM (
                SELECT source, sequence, part, CASE WHEN m.path IN ('n', 'value') THEN value END AS n
                FROM measurement JOIN metric m ON m.id = metric_id
                UNION ALL SELECT source, sequence, part, NULL FROM event) r
            JOIN source s ON s.id = r.source JOIN gateway g ON g.id = s.gateway_id GROUP BY 1, 2, 3
            """)
        for row in found {
            guard let epoch = Epoch(hex: row[1]), let sequence = UInt64(row[2]) else {
                wrong.append("\(row)")
                continue
            }
            let source = Traffic.Source(gateway: row[0], epoch: epoch)
            let expected = wanted[source]?.removeValue(forKey: sequence)
            let seen = Traffic.Expected(n: Int64(row[5]) ?? -1, rows: Int64(row[3]) ?? -1)
            if expected != seen || row[3] != row[4] {
                wrong.append("\(row) instead of \(String(describing: expected))")
            }
        }
        let missing = wanted.values.reduce(0) { $0 + $1.count }
        #expect(missing == 0, "messages have no row", sourceLocation: sourceLocation)
        #expect(wrong.prefix(5) == [], "\(wrong.count) messages have other rows", sourceLocation: sourceLocation)
    }

    // MARK: SQL

    func rows(_ sql: String) async throws -> [[String]] { try await Self.rows(sql, database) }

    func one(_ sql: String) async throws -> String { try await rows(sql).first?.first ?? "" }

    func run(_ sql: String) async throws { try await Self.run(sql, database) }

    static func run(_ sql: String, _ url: String) async throws {
        let connection = try await PostgresConnection.connect(.init(url: url, applicationName: "tests"))
        defer { Task { await connection.close() } }
        try await connection.run(sql)
    }

    static func rows(_ sql: String, _ url: String) async throws -> [[String]] {
        let connection = try await PostgresConnection.connect(.init(url: url, applicationName: "tests"))
        defer { Task { await connection.close() } }
        return try await texts(sql, connection)
    }

    /// Columns as texts.
    private static func texts(
        _ sql: String, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> [[String]] {
        let found = try connection.query(
            """
            SELECT array_to_string(ARRAY(SELECT value FROM json_each_text(row_to_json(q))), E'\\x1f', '') FROM (\(sql)) q
            """)
        return (0..<found.rowCount).map { row in
            found.string(row, 0).split(separator: "\u{1F}", omittingEmptySubsequences: false).map { String($0) }
        }
    }
}

/// An embedded log in a folder that goes with it.
final class EmbeddedFile: Sendable {
    let folder: String
    var path: String { folder + "/log.db" }

    init() throws {
        folder = NSTemporaryDirectory() + "sluice-faults-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func open(partitions: Int32 = 8) throws -> EmbeddedEventLog {
        try EmbeddedEventLog.open(path: path, partitions: partitions, logger: quietLogger)
    }
}

let quietLogger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

struct NotInTime: Error, CustomStringConvertible { var description: String }

func eventually(_ what: String, within seconds: Double = 20, _ condition: () async throws -> Bool) async throws {
    let deadline = ContinuousClock.now + .seconds(seconds)
    while try await !condition() {
        guard ContinuousClock.now < deadline else { throw NotInTime(description: "not within \(seconds) s: \(what)") }
        try await Task.sleep(for: .milliseconds(20))
    }
}

/// For calls that wait for another program.
func blocking<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        DispatchQueue.global().async { continuation.resume(with: Result { try body() }) }
    }
}
