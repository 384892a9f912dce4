import Metrics
import NIOConcurrencyHelpers
import Operations
import SyncModel

/// The processor's counters; one set a process.
struct ProcessorMetrics: Sendable {
    private let messages = Counter(label: MetricName.processorMessages.rawValue)
    private let rows = Counter(label: MetricName.processorRows.rawValue)
    private let duplicates = Counter(label: MetricName.processorDuplicates.rawValue)
    private let dropped = Counter(label: MetricName.processorLedger.rawValue)
    private let undecodable = Counter(label: MetricName.processorUndecodable.rawValue)
    private let rejected = Counter(label: MetricName.processorRejected.rawValue)
    private let forgottenEntities = Counter(
        label: MetricName.processorSparkplugForgotten.rawValue, dimensions: [("kind", "entity")])
    private let forgottenBirths = Counter(
        label: MetricName.processorSparkplugForgotten.rawValue, dimensions: [("kind", "birth")])
    private let lateBirths = Counter(label: MetricName.processorSparkplugLate.rawValue)
    private let unresolved = Counter(label: MetricName.processorSparkplugUnresolved.rawValue)
    private let failures = Counter(label: MetricName.processorFailures.rawValue)
    private let batchSeconds = Recorder(label: MetricName.processorBatchSeconds.rawValue)
    private let stopped = Gauge(label: MetricName.processorStopped.rawValue)
    private let endToEnd: MetricHistogram
    // Written by the processor, read at each scrape; never held over a call.
    private let newest = NIOLockedValueBox(NewestByGateway())

    /// Seconds; 10 is what the service level asks for.
    private static let endToEndBounds = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800]

    init(_ registry: MetricRegistry) {
        endToEnd = registry.histogram(.processorEndToEnd, bounds: Self.endToEndBounds)
        registry.gauges(.processorNewestAge) { [newest] in
            newest.withLockedValue { $0.ages(at: SystemClock.wallMicroseconds()) }
                .map { ([(name: "gateway", value: $0.gateway)], $0.seconds) }
        }
    }

    func stored(_ summary: WriteSummary, seconds: Double) {
        messages.increment(by: summary.messages)
        rows.increment(by: summary.rows)
        duplicates.increment(by: summary.duplicates)
        dropped.increment(by: summary.dropped)
        undecodable.increment(by: summary.undecodable)
        forgottenEntities.increment(by: summary.forgottenEntities)
        forgottenBirths.increment(by: summary.forgottenBirths)
        batchSeconds.record(seconds)
    }

    func stored(_ changes: SparkplugChanges) {
        lateBirths.increment(by: changes.late.count)
        unresolved.increment(by: changes.unresolved)
    }

    func failed() { failures.increment() }

    private let breakerOpen = Gauge(label: MetricName.processorBreakerOpen.rawValue)
    private let letterObjects = Counter(label: MetricName.deadLetterObjects.rawValue)
    private let letterFailures = Counter(label: MetricName.deadLetterFailures.rawValue)
    private let lettersWaiting = Gauge(label: MetricName.deadLettersWaiting.rawValue)
    private let samplesWaiting = Gauge(label: MetricName.sampleRangesWaiting.rawValue)
    private let samplesAge = Gauge(label: MetricName.sampleRangesAge.rawValue)

    func breaker(isOpen: Bool) { breakerOpen.record(isOpen ? 1 : 0) }

    func breaker(entered state: String) {
        Counter(label: MetricName.processorBreakerTransitions.rawValue, dimensions: [("to", state)]).increment()
    }

    /// - Parameter gateways: with times in microseconds since 1970.
    func silent(_ gateways: [(gateway: String, time: Int64)]) {
        newest.withLockedValue { $0.recall(gateways) }
    }

    func letterWritten() { letterObjects.increment() }

    func letterFailed() { letterFailures.increment() }

    func waiting(letters: Int64, samples: SampleTable.Waiting) {
        lettersWaiting.record(letters)
        samplesWaiting.record(samples.ranges)
        samplesAge.record(samples.age)
    }

    func refused(messages: Int) { rejected.increment(by: messages) }

    func stopped(partitions: Int) { stopped.record(partitions) }

    /// - Parameter now: microseconds since 1970, when the batch was committed.
    func stored(_ batch: PreparedBatch, at now: Int64) {
        newest.withLockedValue { newest in
            for (gateway, time) in batch.newest { newest.note(gateway, time) }
        }
        for item in batch.items {
            // What a gateway kept while it was offline is late by itself.
            guard case .messages(_, let entry, _, _, let appendTime, _) = item, entry.lane == .live else { continue }
            endToEnd.observe(Double(max(0, now &- appendTime)) / 1e6, count: UInt64(entry.messages.count))
        }
    }
}

/// The newest message of each gateway. Bounded: those that are silent for longest make room, as do all that were for
/// `maximumAge`, since a gateway that was taken away is silent for ever.
struct NewestByGateway: Sendable {
    static let maximumGateways = 10_000
    /// Microseconds: 30 days.
    static let maximumAge: Int64 = 30 * 86_400_000_000

    private let maximum: Int
    /// Microseconds since 1970.
    private var times: [String: Int64] = [:]
    /// Of gateways that this process has stored nothing of, by the database.
    private var recalled: [String: Int64] = [:]

    init(maximum: Int = Self.maximumGateways) { self.maximum = maximum }

    mutating func note(_ gateway: String, _ time: Int64) {
        if times[gateway] == nil, times.count >= maximum, let oldest = times.min(by: { $0.value < $1.value }) {
            guard oldest.value < time else { return }
            times[oldest.key] = nil
        }
        times[gateway] = max(times[gateway] ?? .min, time)
        recalled[gateway] = nil
    }

    /// What the database knows of gateways that are silent, in place of what it knew before. What was stored here is
    /// known better.
    mutating func recall(_ gateways: [(gateway: String, time: Int64)]) {
        recalled = [:]
        for (gateway, time) in gateways.prefix(maximum) where times[gateway] == nil { recalled[gateway] = time }
    }

    /// Seconds, by name.
    mutating func ages(at now: Int64) -> [(gateway: String, seconds: Double)] {
        times = times.filter { now - $0.value <= Self.maximumAge }
        recalled = recalled.filter { now - $0.value <= Self.maximumAge }
        return times.merging(recalled) { stored, _ in stored }.sorted { $0.key < $1.key }.map {
            ($0.key, Double(max(0, now - $0.value)) / 1e6)
        }
    }
}
