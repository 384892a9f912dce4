import HTTPTypes
import Operations

struct IngestMetrics: Sendable {
    private let batches: MetricCounter
    private let messages: MetricCounter
    private let bytes: MetricCounter
    private let duration: MetricHistogram
    private let refusals: [Int: MetricCounter]

    init(_ registry: MetricRegistry) {
        batches = registry.counter(.ingestBatches)
        messages = registry.counter(.ingestMessages)
        bytes = registry.counter(.ingestBytes)
        duration = registry.histogram(.ingestDuration)
        refusals = Dictionary(
            uniqueKeysWithValues: [400, 403, 413, 415, 422, 429, 503].map {
                ($0, registry.counter(.ingestRefused, [(name: "status", value: "\($0)")]))
            })
    }

    /// - Parameter duration: microseconds.
    func received(_ received: BatchReceiver.Received, duration: Int64) {
        batches.add()
        messages.add(UInt64(received.messages))
        bytes.add(UInt64(received.bytes))
        self.duration.observe(Double(duration) / 1e6)
    }

    func refused(_ refusal: IngestRefusal) { refusals[refusal.status.code]?.add() }
}
