import HTTPTypes
import Operations
import SyncModel

/// How a request counts for the service levels: `failed` alone is the cloud's own fault.
enum RequestOutcome: String, CaseIterable {
    case good
    /// It was wrong, or of somebody who may not.
    case refused
    /// Told to come again, because a limit was reached.
    case limited
    case failed

    init(_ answer: IngestAnswer) {
        switch answer.status.code {
        case 200..<300: self = .good
        case 429: self = answer.limit == .logBusy ? .failed : .limited
        case 400..<500: self = .refused
        default: self = .failed
        }
    }
}

/// What the sync endpoint counts.
struct IngestMetrics: Sendable {
    private let batches: MetricCounter
    private let messages: MetricCounter
    private let bytes: MetricCounter
    private let duration: MetricHistogram
    private let refusals: [Int: MetricCounter]
    private let limited: [String: MetricCounter]
    private let requests: [RequestOutcome: MetricHistogram]

    init(_ registry: MetricRegistry) {
        batches = registry.counter(.ingestBatches)
        messages = registry.counter(.ingestMessages)
        bytes = registry.counter(.ingestBytes)
        duration = registry.histogram(.ingestDuration)
        refusals = Dictionary(
            uniqueKeysWithValues: [400, 401, 403, 404, 405, 408, 413, 422, 429, 503].map {
                ($0, registry.counter(.ingestRefused, [(name: "status", value: "\($0)")]))
            })
        var limited: [String: MetricCounter] = [:]
        for limit in IngestLimit.allCases {
            for lane in [Lane.live, .backlog] {
                limited[Self.key(limit, lane)] = registry.counter(
                    .ingestLimited, [(name: "limit", value: limit.rawValue), (name: "lane", value: "\(lane)")])
            }
        }
        self.limited = limited
        requests = Dictionary(
            uniqueKeysWithValues: RequestOutcome.allCases.map {
                let labels = [(name: "service", value: "ingest"), (name: "outcome", value: $0.rawValue)]
                return ($0, registry.histogram(.requestDuration, labels))
            })
    }

    /// - Parameter duration: microseconds.
    func stored(_ batch: ReceivedBatch, duration: Int64) {
        batches.add()
        messages.add(UInt64(batch.messages))
        bytes.add(UInt64(batch.bytes))
        self.duration.observe(Double(duration) / 1e6)
    }

    func refused(_ answer: IngestAnswer, lane: Lane) {
        refusals[answer.status.code]?.add()
        if let limit = answer.limit { limited[Self.key(limit, answer.lane ?? lane)]?.add() }
    }

    /// - Parameter work: microseconds of the cloud's own work. How long a gateway's link takes for the body says nothing of
    ///   the service.
    func answered(_ answer: IngestAnswer, work: Int64) {
        requests[RequestOutcome(answer)]?.observe(Double(work) / 1e6)
    }

    private static func key(_ limit: IngestLimit, _ lane: Lane) -> String { "\(limit.rawValue) \(lane)" }
}
