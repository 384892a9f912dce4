import EventLog
import Foundation
import Glibc
import Logging
import NIOCore
import SyncModel
import TestSupport
import Testing

/// `sluice-cloud --role process` as processes on one topic and one database, and a sender of messages.
actor KafkaGroup {
    enum Broker: String, Sendable, CustomTestStringConvertible {
        case mock, real
        var testDescription: String { rawValue }

        static let available: [Broker] = KafkaGroup.realBrokers == nil ? [.mock] : [.mock, .real]
    }

    static let realBrokers = ProcessInfo.processInfo.environment["SLUICE_TEST_KAFKA"]

    nonisolated let folder: URL
    nonisolated let database: String
    nonisolated let configuration: KafkaConfiguration
    nonisolated let log: KafkaEventLog
    private let mock: MockKafka?
    private let session: Int
    private var processes: [Int: (child: ChildProcess, port: Int)] = [:]
    private var nextValue = 1
    private var numbers: [Int: UInt64] = [:]
    private var sequence: UInt64 = 0

    /// - Parameter brokers: others than those of the environment, for `real`.
    init(_ broker: Broker, partitions: Int, brokers: String? = nil) async throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-group-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        database = try await Postgres.database()
        try await Binaries.sluice("migrate", "up", "--database", database)
        switch broker {
        case .mock:
            let mock = try MockKafka(partitions: Int32(partitions))
            self.mock = mock
            configuration = mock.configuration()
            session = 6
        case .real:
            mock = nil
            var settings = KafkaConfiguration(brokers: brokers ?? Self.realBrokers ?? "")
            settings.topic = "sluice-test-\(UUID().uuidString)"
            configuration = settings
            session = 10
        }
        let settings = configuration
        log = try KafkaEventLog.open(settings, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        if broker == .real { try await declare(partitions: partitions) }
    }

    /// `sluice topics apply` with this many partitions.
    func declare(partitions: Int) async throws {
        let topics = folder.appendingPathComponent("topics.yaml")
        let declared = try String(contentsOfFile: Repository.path("cloud/topics.yaml"), encoding: .utf8)
            .replacingOccurrences(of: "name: sensor-data", with: "name: \(configuration.topic)")
            .replacingOccurrences(of: "partitions: 32", with: "partitions: \(partitions)")
        try declared.write(to: topics, atomically: true, encoding: .utf8)
        try write(configuration: 0, port: 0)
        try await Binaries.sluice(
            "topics", "apply", "--config", path(0), "--topics", topics.path, "--replication", "1")
    }

    private nonisolated func path(_ index: Int) -> String { folder.path + "/cloud-\(index).yaml" }

    private nonisolated func write(configuration index: Int, port: Int) throws {
        try """
        eventLog:
          kafka:
            brokers: ["\(configuration.brokers)"]
            topic: \(configuration.topic)
            sessionTimeout: \(session)s
        database: { url: "\(database)" }
        processor: { member: "\(folder.lastPathComponent.suffix(8))-\(index)" }
        status: { address: 127.0.0.1, port: \(port) }
        """.write(toFile: path(index), atomically: true, encoding: .utf8)
    }

    // MARK: Processes

    func start(_ index: Int) throws {
        let port = try Ports.free(1)[0]
        try write(configuration: index, port: port)
        let child = try ChildProcess(
            Binaries.path("sluice-cloud"), ["--config", path(index), "--role", "process"],
            output: folder.appendingPathComponent("cloud-\(index).log"))
        processes[index] = (child, port)
    }

    /// Starts another process with the same member name in the place of this one, which goes on.
    func logOfTwin(_ index: Int) throws -> ChildProcess? {
        let first = processes[index]?.child
        try start(index)
        return first
    }

    func kill(_ index: Int) { processes.removeValue(forKey: index)?.child.kill() }

    /// SIGSTOP, SIGCONT
    func signal(_ index: Int, _ number: Int32) { processes[index]?.child.signal(number) }

    func killAll() {
        for index in processes.keys.sorted() { kill(index) }
    }

    /// SIGTERM, and the exit code.
    func stop(_ index: Int) async throws -> Int32 {
        guard let process = processes.removeValue(forKey: index) else { return -1 }
        process.child.signal(SIGTERM)
        return try await process.child.wait(seconds: 30)
    }

    func metrics(_ index: Int) async throws -> String {
        guard let process = processes[index] else { return "" }
        return try await run("curl", ["-fsS", "-m", "2", "http://127.0.0.1:\(process.port)/metrics"], within: 5).output
    }

    func metric(_ name: String, _ index: Int) async throws -> Double? {
        let line = try await metrics(index).split(separator: "\n").first { $0.hasPrefix(name + " ") }
        return line.flatMap { $0.split(separator: " ").last.flatMap { Double($0) } }
    }

    /// Waits until each process has as many partitions.
    nonisolated func settle(_ counts: [Int: Int], within seconds: Double = 60) async throws {
        _ = try await eventually("partitions are shared as \(counts)", within: seconds) { () -> Bool? in
            for (index, count) in counts
            where try await self.metric("sluice_processor_assigned_partitions", index) != Double(count) { return nil }
            return true
        }
    }

    // MARK: Messages

    /// Messages of 40 devices, each with the next whole number as its value.
    func send(_ count: Int, by log: KafkaEventLog? = nil) async throws {
        var records: [LogRecord] = []
        for _ in 0..<count {
            let device = nextValue % 40
            sequence += 1
            numbers[device, default: 0] += 1
            let message = SyncedMessage(
                sequence: sequence, number: numbers[device] ?? 0, qos: 1,
                wallTime: Int64(Date().timeIntervalSince1970 * 1e6), topic: ByteBuffer(string: "t"),
                payload: ByteBuffer(string: "{\"n\":\(nextValue)}"))
            let entry = LogEntry.messages(
                DeviceMessages(
                    gateway: "g1", epoch: Epoch(high: 1, low: 1), device: "d\(device)", lane: .live, messages: [message]
                ))
            records.append(LogRecord(key: entry.routingKey, value: entry.encoded()))
            nextValue += 1
        }
        // As a gateway: the same again until it is acknowledged.
        let end = ContinuousClock.now + .seconds(90)
        while true {
            do { return try await (log ?? self.log).append(records) } catch {
                repeats += 1
                guard ContinuousClock.now < end else { throw error }
                try await Task.sleep(for: .milliseconds(100))
            }
        }
    }

    /// Sends that were not acknowledged, and sent again.
    private(set) var repeats = 0

    var sent: Int { nextValue - 1 }

    nonisolated func query(_ sql: String) async throws -> String {
        let result = try await run(
            "psql", ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
        guard result.status == 0 else { throw ChildProcess.Failure(description: "psql: \(result.output)") }
        return result.output.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// Waits until what was sent by now is stored, and proves that each is stored once; more may come meanwhile.
    ///
    /// - Returns: seconds that it took.
    @discardableResult
    func stored(within seconds: Double) async throws -> Double {
        let start = ContinuousClock.now
        let last = sent
        let expected = "\(last) \(last) 1 \(last)"
        var found = ""
        while ContinuousClock.now - start < .seconds(seconds) {
            found = try await query(
                """
                SELECT concat_ws(' ', count(*), count(DISTINCT value), min(value), max(value)) FROM measurement
                WHERE value <= \(last)
                """)
            if found == expected {
                let took = ContinuousClock.now - start
                return Double(took.components.seconds) + Double(took.components.attoseconds) / 1e18
            }
            try await Task.sleep(for: .milliseconds(50))
        }
        throw ChildProcess.Failure(description: "after \(seconds) s the table has \(found), not \(expected)")
    }

    // MARK: End

    func remove(failed: Bool) async throws {
        let logs = processes.keys.sorted()
        for index in logs where !failed {
            let status = try await stop(index)
            if status != 0 { throw ChildProcess.Failure(description: "process \(index) ended with \(status)") }
        }
        if failed {
            for index in logs { print("--- \(index)\n\(processes[index]?.child.log.suffix(2_000) ?? "")") }
        }
        killAll()
        await log.close()
        try? FileManager.default.removeItem(at: folder)
        if !failed { try mock?.end() }
    }
}

func withKafkaGroup(
    _ broker: KafkaGroup.Broker, partitions: Int, brokers: String? = nil, _ body: (KafkaGroup) async throws -> Void
) async throws {
    let group = try await KafkaGroup(broker, partitions: partitions, brokers: brokers)
    do {
        try await body(group)
    } catch {
        try? await group.remove(failed: true)
        throw error
    }
    try await group.remove(failed: false)
}
