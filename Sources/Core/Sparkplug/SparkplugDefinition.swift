import NIOCore

/// Stands for all that a birth says of its metrics: a SHA-256, the same for the same words and for no others.
package struct SparkplugDigest: Sendable, Hashable {
    package static let byteCount = 32

    private let words: SIMD4<UInt64>

    /// - Parameter bytes: 32 of them.
    package init(_ bytes: some Sequence<UInt8>) {
        var words = SIMD4<UInt64>()
        for (index, byte) in bytes.prefix(Self.byteCount).enumerated() {
            words[index / 8] = words[index / 8] << 8 | UInt64(byte)
        }
        self.words = words
    }

    package var bytes: [UInt8] {
        (0..<Self.byteCount).map { UInt8(truncatingIfNeeded: words[$0 / 8] >> UInt64(56 - $0 % 8 * 8)) }
    }
}

/// What one birth says of its metrics, apart from their values. Immutable, so that all births that say the same share one.
package final class SparkplugDefinition: Sendable, Equatable {
    package struct Metric: Sendable, Hashable {
        /// UTF-8 without U+0000.
        package let name: [UInt8]
        package let alias: UInt64?
        package let datatype: UInt32?

        package init(name: [UInt8], alias: UInt64?, datatype: UInt32?) {
            self.name = name
            self.alias = alias
            self.datatype = datatype
        }
    }

    /// As the birth has them.
    package let metrics: [Metric]
    package let digest: SparkplugDigest
    private let aliases: [UInt64: Int]
    private let datatypes: [[UInt8]: UInt32]

    /// Where an alias or a name comes twice, the first counts.
    ///
    /// - Parameter digest: that of the metrics; it alone tells definitions apart.
    package init(_ metrics: [Metric], digest: SparkplugDigest) {
        self.metrics = metrics
        self.digest = digest
        var aliases: [UInt64: Int] = [:]
        var datatypes: [[UInt8]: UInt32] = [:]
        for (position, metric) in metrics.enumerated() {
            if let alias = metric.alias, aliases[alias] == nil { aliases[alias] = position }
            if let datatype = metric.datatype, datatypes[metric.name] == nil { datatypes[metric.name] = datatype }
        }
        self.aliases = aliases
        self.datatypes = datatypes
    }

    package func metric(alias: UInt64) -> Metric? { aliases[alias].map { metrics[$0] } }

    package func datatype(of name: [UInt8]) -> UInt32? { datatypes[name] }

    package static func == (a: SparkplugDefinition, b: SparkplugDefinition) -> Bool {
        a.digest == b.digest
    }
}

extension SparkplugPayload {
    /// What a birth says of its metrics.
    ///
    /// - Parameter maximumName: bytes; metrics with longer names, or such as no text can hold, are left out.
    package func defined(maximumName: Int) -> [SparkplugDefinition.Metric] {
        metrics.compactMap { metric in
            guard metric.alias != nil || metric.datatype != nil, let name = metric.text(maximum: maximumName) else {
                return nil
            }
            return .init(name: name, alias: metric.alias, datatype: metric.datatype)
        }
    }

    /// Whether a birth can tell more of it than it says itself.
    package var dependsOnBirth: Bool { metrics.contains { !$0.isNamed || $0.datatype == nil } }
}

extension SparkplugMetric {
    /// Its name. `nil` without one, or with one that is longer or that no text of a database can hold.
    package func text(maximum: Int) -> [UInt8]? {
        guard let name, 1...maximum ~= name.readableBytes else { return nil }
        return name.storableText
    }
}

extension ByteBuffer {
    /// Its bytes, where they are UTF-8 without U+0000.
    package var storableText: [UInt8]? {
        let bytes = Array(readableBytesView)
        return !bytes.contains(0) && String(validating: bytes, as: UTF8.self) != nil ? bytes : nil
    }
}
