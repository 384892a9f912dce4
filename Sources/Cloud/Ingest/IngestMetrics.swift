import HTTPTypes
import Operations

struct IngestMetrics: Sendable {
    private let batches: MetricCounter
    private let messages: MetricCounter
    private let bytes: MetricCounter
    private let duration: MetricHistogram
    private let refusals: [Int: MetricCounter]

    init(_ registry: MetricsRegistry) {
        batches = registry.counter(.ingestBatches)
        messages = registry.counter(.ingestMessages)
        bytes = registry.counter(.ingestBytes)
        duration = registry.histogram(.ingestDuration)
        refusals = Dictionary(
            uniqueKeysWithValues: [400, 403, 413, 415, 422, 429, 503].map {
                ($0, registry.counter(.ingestRefused, [("status", "\($0)")]))
            })
    }

    /// - Parameter duration: microseconds.
    func received(_ received: BatchReceiver.Received, duration: Int64) {
        batches.increment(by: Int64(1))
        messages.increment(by: Int64(received.messages))
        bytes.increment(by: Int64(received.bytes))
        self.duration.recordMicroseconds(duration)
    }

    func refused(_ refusal: IngestRefusal) { refusals[refusal.status.code]?.increment(by: Int64(1)) }
}
