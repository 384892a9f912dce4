import CoreMetrics
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

    func failed(_ kind: FailureKind) { failures[kind]?.increment() }
}
