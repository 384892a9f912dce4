import HTTPTypes
import Operations

/// What the sync endpoint counts.
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
            uniqueKeysWithValues: [400, 401, 403, 404, 405, 408, 413, 422, 429, 503].map {
                ($0, registry.counter(.ingestRefused, [(name: "status", value: "\($0)")]))
            })
    }

    /// - Parameter duration: microseconds.
    func stored(_ batch: ReceivedBatch, duration: Int64) {
        batches.add()
        messages.add(UInt64(batch.messages))
        bytes.add(UInt64(batch.bytes))
        self.duration.observe(Double(duration) / 1e6)
    }

    func refused(_ answer: IngestAnswer) { refusals[answer.status.code]?.add() }
}
