import Metrics
import Operations

struct LifecycleMetrics: Sendable {
    /// A time and not its distance from now: the next pass may be another process's, and this one's value stay.
    private let end = Gauge(label: MetricName.rollupEnd.rawValue)
    private let first = Counter(label: MetricName.rollupHours.rawValue, dimensions: [("pass", "first")])
    private let again = Counter(label: MetricName.rollupHours.rawValue, dimensions: [("pass", "again")])
    private let waiting = Gauge(label: MetricName.rollupWaiting.rawValue)
    private let hourSeconds = Recorder(label: MetricName.rollupHourSeconds.rawValue)
    private let dropped = Counter(label: MetricName.lifecycleDropped.rawValue)
    private let overdue = Gauge(label: MetricName.lifecycleOverdue.rawValue)
    private let failures = Counter(label: MetricName.lifecycleFailures.rawValue)
    private let clockAhead = Gauge(label: MetricName.lifecycleClockAhead.rawValue)
    private let lastPass = Gauge(label: MetricName.lifecycleLastPass.rawValue)

    func rolledUp(again isAgain: Bool, seconds: Double) {
        (isAgain ? again : first).increment()
        hourSeconds.record(seconds)
    }

    /// - Parameter computedBefore: hours since 1970.
    func progress(computedBefore: Int64, waiting count: Int) {
        end.record(Double(computedBefore) * 3_600)
        waiting.record(count)
    }

    func droppedDay() { dropped.increment() }
    /// - Parameter ahead: microseconds.
    func clock(ahead: Int64) { clockAhead.record(Double(ahead) / 1e6) }
    func overdue(days: Int) { overdue.record(days) }
    func failed() { failures.increment() }
    func passed(now: Int64) { lastPass.record(Double(now) / 1e6) }
}
