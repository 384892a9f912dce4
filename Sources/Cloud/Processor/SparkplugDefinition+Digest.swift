import Crypto
import Sparkplug

extension SparkplugDefinition {
    /// A birth that names nothing, or one that cannot be read: no word of an earlier birth counts after it.
    static let empty = SparkplugDefinition([])

    convenience init(_ metrics: [Metric]) { self.init(metrics, digest: SparkplugDigest(of: metrics)) }
}

extension SparkplugDigest {
    /// Of everything that they say, each part with its length; `sparkplug_definition` has it.
    init(of metrics: [SparkplugDefinition.Metric]) {
        var hash = SHA256()
        func update(_ value: UInt64) { withUnsafeBytes(of: value.bigEndian) { hash.update(bufferPointer: $0) } }
        for metric in metrics {
            update(UInt64(metric.name.count))
            hash.update(data: metric.name)
            update(metric.alias == nil ? 0 : 1)
            update(metric.alias ?? 0)
            update(metric.datatype.map { UInt64($0) } ?? .max)
        }
        self.init(hash.finalize())
    }
}
