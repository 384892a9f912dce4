import Database
import DeadLetters
import EventLog
import Flow
import Logging
import ObjectStore
import Operations
import ServiceLifecycle
import Sparkplug

/// Moves records from the log into the database, each message exactly once. One reader, one connection; while a batch
/// is being stored, the next one is read and prepared.
package actor Processor: Service {
    /// A batch whose first attempt runs.
    struct Flight {
        var records: [StoredLogRecord]
        var batch: PreparedBatch
        var task: Task<WriteOutcome, Never>
        var started: ContinuousClock.Instant
        var permit: CircuitBreaker.Permit
        /// Microseconds of the monotonic clock.
        var startedAt: Int64
    }

    let configuration: ProcessorConfiguration
    let log: any EventLog
    let status: ProcessorStatus
    let logger: Logger
    let metrics: ProcessorMetrics
    let writer: BatchWriter
    let preparer: BatchPreparer
    var reader: (any EventLogReader)?
    var connection: PostgresConnection?
    var incarnation = ""
    /// Partitions whose records are processed.
    var claims: [Int32: PartitionClaim] = [:]
    /// Partitions that the reader gives us, claimed or not.
    var assigned: Set<Int32> = []
    /// When partitions that another processor took are claimed again, should they still be assigned to this one.
    var reclaims: [Int32: ContinuousClock.Instant] = [:]
    var flight: Flight?
    /// Decides which calls the database may get.
    var fallback: DatabaseFallback
    /// While dead letters are written.
    var diversion: Diversion?
    /// Where they are written.
    let deadLetters: DeadLetterFiles?
    /// Reads again what was stored as a sample; `nil` while nothing was.
    var complement: Complement?
    /// Ranges that were stored as samples, as far as is known.
    var samplesWaiting: Int64 = 0
    /// Of these, those whose rest could not be stored, until the next maintenance.
    var rangesGivenUp: [SampleRange] = []
    /// Something of several ranges cannot be stored: they are tried one by one.
    var isComplementSingle = false
    /// Samples are stored at most so often.
    var nextSample = ContinuousClock.now
    /// What was wrong with the database last.
    var lastTrouble = ""
    var backoff: Backoff
    var generator = SystemRandomNumberGenerator()
    var nextMaintenance = ContinuousClock.now
    /// Sparkplug's nodes and devices that made room for others since that was logged.
    var forgottenEntities = 0
    /// Sparkplug's births that came after data which they would have named otherwise, since that was logged; and of whom
    /// the last was.
    var lateBirths: (count: Int, last: SparkplugKey?) = (0, nil)
    /// Messages that were stored without the names of their births since that was logged.
    var unresolved = 0
    var group: GroupWatch
    /// When gateways that are silent are looked for again.
    var nextSilence = ContinuousClock.now

    package init(
        configuration: ProcessorConfiguration, log: any EventLog, status: ProcessorStatus,
        objects: (any ObjectStore)? = nil, flags: FeatureFlags = FeatureFlags(), logger: Logger,
        registry: MetricRegistry = MetricRegistry()
    ) {
        metrics = ProcessorMetrics(registry)
        group = GroupWatch(registry)
        self.configuration = configuration
        self.log = log
        self.status = status
        self.logger = logger
        writer = BatchWriter(
            maximumRanges: configuration.maximumRanges, maximumSparkplugEntities: configuration.sparkplugEntities,
            flags: flags)
        preparer = BatchPreparer(configuration: configuration)
        fallback = DatabaseFallback(configuration.fallback)
        deadLetters = objects.map(DeadLetterFiles.init)
        backoff = Backoff(
            base: configuration.backoffBase.wholeMicroseconds, cap: configuration.backoffCap.wholeMicroseconds)
    }

    /// Runs until graceful shutdown or cancellation. What is not stored by then stays in the log.
    package func run() async {
        metrics.breaker(isOpen: false)
        while !isStopping {
            do { try await step() } catch { await recover(from: error) }
        }
        // A transaction under way ends by itself; whether it committed stands in the database.
        if let flight, case .stored(let summary) = await flight.task.value {
            finish(flight.batch, summary, since: flight.started)
        }
        flight = nil
        await complement?.reader.leave()
        await reader?.leave()
        await connection?.close()
    }

    var isStopping: Bool { Task.isCancelled || Task.isShuttingDownGracefully }

    func step() async throws {
        if diversion != nil { return try await stepDiverted() }
        let reader = try await opened()
        guard try await upkeep(reader) else { return }
        if samplesWaiting > 0 { try await storeComplement() }
        let event = try await reader.next(
            maximumRecords: configuration.maximumRecords, maximumBytes: configuration.maximumBytes,
            // With a batch under way its end must not wait for the next records.
            timeout: flight == nil ? configuration.pollTimeout : .milliseconds(1))
        status.update { $0.isLogReachable = true }
        switch event {
        case .assigned(let partitions):
            await settle()
            assigned.formUnion(partitions)
            group.isGiven(assigned.count, at: .now)
            // Claimed in the next step, and again after a failure, by `maintain`.
            for partition in partitions { reclaims[partition] = .now }
        case .revoked(let partitions):
            await settle()
            assigned.subtract(partitions)
            if assigned.isEmpty { group.isWithoutPartitions(since: .now) }
            for partition in partitions { forget(partition) }
        case .records(let records):
            await process(records)
        case .idle:
            await settle()
        }
    }

    /// Connecting, claims and maintenance, where they are due, as one call of the database.
    ///
    /// - Returns: whether records can be read now.
    private func upkeep(_ reader: any EventLogReader) async throws -> Bool {
        let isConnected = await connection?.isUsable ?? false
        if isConnected, !dueClaims.isEmpty || nextMaintenance <= .now {
            // Not within the call: it may need one of its own.
            await settle()
        } else if isConnected {
            return true
        }
        switch ask() {
        case .call(let permit):
            let started = SystemClock.monotonicMicroseconds()
            do {
                try await maintain(try await connected(), reader)
                ended(permit, .answered, since: started)
            } catch {
                ended(permit, judged(error), since: started)
                throw error
            }
            return true
        case .wait(let microseconds):
            await pause(microseconds)
            return false
        case .deadLetter:
            divert()
            return false
        case .sample: return true
        }
    }
}
