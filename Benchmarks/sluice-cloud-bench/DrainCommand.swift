import ArgumentParser
import Database
import EventLog
import Logging
import Operations
import Processor
import SyncModel

/// The log is filled first; then the processor starts, and its time to the last offset is taken.
struct DrainCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain",
        abstract: "Fill the event log with messages of one number each, then measure how fast they become rows.",
        discussion: """
            With --mock the log is librdkafka's mock cluster, which forgets what is beyond 5 MiB a partition: then the \
            messages go through it in pieces, and only the processor's time counts.
            """)

    @Option(help: "URL of an empty database with the schema in it.") var database: String
    @Option(help: "File of an embedded event log that is made.") var log: String?
    @Option(help: "Brokers of a Kafka.") var brokers: String?
    @Option(help: "An empty topic of that Kafka.") var topic = "sensor-data"
    @Flag(help: "A mock cluster in this process.") var mock = false
    @Option(help: "Messages.") var messages = 2_000_000
    @Option(help: "Messages that are in the log at a time; all by default, 400,000 with --mock.") var piece: Int?
    @Flag(help: "Print one line of JSON.") var json = false

    func validate() throws {
        guard [log != nil, brokers != nil, mock].filter({ $0 }).count == 1 else {
            throw ValidationError("Give one of --log, --brokers and --mock.")
        }
        guard (1...1_000_000_000).contains(messages) else { throw ValidationError("--messages is 1 to 1000000000.") }
        guard piece.map({ $0 > 0 }) ?? true else { throw ValidationError("--piece is 1 or more.") }
    }

    func run() async throws {
        let cluster = mock ? try MockCluster(partitions: 32) : nil
        let log = try openLog(cluster)
        var workload = Workload(start: SystemClock.wallMicroseconds() - Int64(messages / 20) * 1_000)
        var remaining = messages
        var seconds = 0.0
        while remaining > 0 {
            let now = min(remaining, piece ?? (mock ? 400_000 : messages))
            try await fill(log, &workload, now)
            seconds += try await drain(log)
            remaining -= now
        }
        if mock, try await log.bounds().contains(where: { $0.first > 0 }) {
            throw Failure(text: "the mock cluster forgot records: give a smaller --piece")
        }
        await log.close()
        let rate = Double(messages) / seconds
        print(
            json
                ? "{\"messages\":\(messages),\"seconds\":\(seconds),\"rate\":\(Int(rate))}"
                : "\(messages) messages became rows in \(seconds) s: \(Int(rate)) a second")
    }

    private func openLog(_ cluster: MockCluster?) throws -> any EventLog {
        let logger = Logger(label: "bench")
        if let path = self.log {
            return try EmbeddedEventLog.open(
                path: path, partitions: 32, retention: .seconds(72 * 3_600), logger: logger)
        }
        var configuration = KafkaConfiguration(brokers: brokers ?? cluster?.brokers ?? "")
        configuration.topic = topic
        configuration.linger = .milliseconds(20)
        return try KafkaEventLog.open(configuration, logger: logger)
    }

    private func fill(_ log: any EventLog, _ workload: inout Workload, _ messages: Int) async throws {
        var left = messages
        while left > 0 {
            let batch = workload.batch(limit: left)
            left -= batch.frames.reduce(0) { $0 + $1.records.count }
            try await log.append(
                batch.logEntries().map { LogRecord(key: $0.routingKey, value: $0.encoded()) })
        }
    }

    /// - Returns: seconds from the first partition that the processor got to the end of the log.
    private func drain(_ log: any EventLog) async throws -> Double {
        let ends = try await log.bounds().filter { $0.next > $0.first }
        let status = ProcessorStatus()
        var logger = Logger(label: "bench")
        logger.logLevel = .warning
        let processor = Processor(
            configuration: ProcessorConfiguration(database: database, member: "bench"), log: log, status: status,
            logger: logger)
        let running = Task { await processor.run() }
        var start: ContinuousClock.Instant?
        while true {
            let state = status.state
            guard state.stopped.isEmpty else { throw Failure(text: "\(status.problems)") }
            if start == nil, !state.offsets.isEmpty { start = .now }
            if let start, ends.allSatisfy({ state.offsets[$0.partition] == $0.next }) {
                let seconds = (ContinuousClock.now - start) / .seconds(1)
                running.cancel()
                await running.value
                return seconds
            }
            try await Task.sleep(for: .milliseconds(2))
        }
    }
}

struct Failure: Error, CustomStringConvertible {
    var text: String
    var description: String { text }
}
