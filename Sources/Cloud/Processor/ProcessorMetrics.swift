import Metrics
import Operations

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

    func letterWritten() { letterObjects.increment() }

    func letterFailed() { letterFailures.increment() }

    func waiting(letters: Int64, samples: SampleTable.Waiting) {
        lettersWaiting.record(letters)
        samplesWaiting.record(samples.ranges)
        samplesAge.record(samples.age)
    }

    func refused(messages: Int) { rejected.increment(by: messages) }

    func stopped(partitions: Int) { stopped.record(partitions) }

    /// - Parameter seconds: from the newest message's time at the gateway until now.
    func age(gateway: String, seconds: Double) {
        Gauge(label: MetricName.processorNewestAge.rawValue, dimensions: [("gateway", gateway)]).record(seconds)
    }
}
