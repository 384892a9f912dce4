import Buffer
import CoreMetrics
import Flow
import Operations

/// Made once, so that nothing is looked up by name while batches go.
struct UplinkMetrics: Sendable {
    let batches = Counter(label: MetricName.uplinkBatches.rawValue)
    let messages = Counter(label: MetricName.uplinkMessages.rawValue)
    /// As sent, compressed.
    let bytes = Counter(label: MetricName.uplinkBytes.rawValue)
    let lastSuccess = Gauge(label: MetricName.uplinkLastSuccess.rawValue)
    let backlogMessages = Gauge(label: MetricName.uplinkBacklogMessages.rawValue)
    let backlogBytes = Gauge(label: MetricName.uplinkBacklogBytes.rawValue)
    /// +Inf while it cannot be told.
    let drainSeconds = Gauge(label: MetricName.uplinkDrain.rawValue)
    let breakerOpen = Gauge(label: MetricName.uplinkBreakerOpen.rawValue)
    let deadLetters = Counter(label: MetricName.uplinkDeadLetters.rawValue)
    let thisHour = Gauge(label: MetricName.uplinkHourBytes.rawValue, dimensions: [("hour", "current")])
    let lastHour = Gauge(label: MetricName.uplinkHourBytes.rawValue, dimensions: [("hour", "previous")])
    /// 1 while the cloud refuses the batch for good.
    let refused = Gauge(label: MetricName.uplinkRefused.rawValue)

    private let failures: [FailureKind: Counter] = Dictionary(
        uniqueKeysWithValues: FailureKind.all.map { kind in
            (kind, Counter(label: MetricName.uplinkFailures.rawValue, dimensions: [("kind", kind.label)]))
        })

    enum FailureKind: Hashable {
        case network(SyncFailure)
        /// The server cannot now: 408, 429 or 5xx.
        case busy
        /// The server will not: any other status but 200.
        case refused
        case buffer

        static let all = SyncFailure.allCases.map(Self.network) + [.busy, .refused, .buffer]

        var label: String {
            switch self {
            case .network(let failure): failure.rawValue
            case .busy: "busy"
            case .refused: "refused"
            case .buffer: "buffer"
            }
        }
    }

    func show(_ status: UplinkStatus) {
        backlogMessages.record(status.waiting.live.messages + status.waiting.backlog.messages)
        backlogBytes.record(status.waiting.live.bytes + status.waiting.backlog.bytes)
        drainSeconds.record(status.drainSeconds ?? .infinity)
        breakerOpen.record(status.breaker == .closed ? 0 : 1)
        thisHour.record(status.bytesThisHour)
        lastHour.record(status.bytesLastHour)
        refused.record(status.isRefused ? 1 : 0)
    }

    func failed(_ kind: FailureKind) { failures[kind]?.increment() }
}
