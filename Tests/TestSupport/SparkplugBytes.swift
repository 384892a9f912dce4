/// Writes Sparkplug payloads byte by byte after Eclipse Tahu's sparkplug_b.proto, apart from the product's reader.
package struct SparkplugBytes {
    package enum Value {
        case int(UInt32), long(UInt64), float(Float), double(Double), boolean(Bool), string(String), bytes([UInt8])
        case null
    }

    package struct Metric {
        package var name: String?
        package var alias: UInt64?
        package var timestamp: UInt64?
        package var datatype: UInt32?
        package var value: Value
        /// Fields as they are encoded, after all others.
        package var more: SparkplugBytes

        package init(
            _ name: String? = nil, alias: UInt64? = nil, timestamp: UInt64? = nil, datatype: UInt32? = nil,
            _ value: Value, more: SparkplugBytes = SparkplugBytes()
        ) {
            self.name = name
            self.alias = alias
            self.timestamp = timestamp
            self.datatype = datatype
            self.value = value
            self.more = more
        }
    }

    package private(set) var bytes: [UInt8] = []

    package init() {}

    package init(_ write: (inout SparkplugBytes) -> Void) { write(&self) }

    package static func payload(timestamp: UInt64? = nil, seq: UInt64? = nil, _ metrics: [Metric] = []) -> [UInt8] {
        var payload = SparkplugBytes()
        if let timestamp { payload.varint(1, timestamp) }
        for metric in metrics { payload.delimited(2, encoded(metric)) }
        if let seq { payload.varint(3, seq) }
        return payload.bytes
    }

    private static func encoded(_ metric: Metric) -> [UInt8] {
        var bytes = SparkplugBytes()
        if let name = metric.name { bytes.delimited(1, Array(name.utf8)) }
        if let alias = metric.alias { bytes.varint(2, alias) }
        if let timestamp = metric.timestamp { bytes.varint(3, timestamp) }
        if let datatype = metric.datatype { bytes.varint(4, UInt64(datatype)) }
        switch metric.value {
        case .int(let value): bytes.varint(10, UInt64(value))
        case .long(let value): bytes.varint(11, value)
        case .float(let value): bytes.fixed(12, UInt64(value.bitPattern), bytes: 4)
        case .double(let value): bytes.fixed(13, value.bitPattern, bytes: 8)
        case .boolean(let value): bytes.varint(14, value ? 1 : 0)
        case .string(let value): bytes.delimited(15, Array(value.utf8))
        case .bytes(let value): bytes.delimited(16, value)
        case .null: bytes.varint(7, 1)
        }
        return bytes.bytes + metric.more.bytes
    }

    /// The `properties` field of a metric. Each value is a `PropertyValue`.
    package static func properties(_ entries: (key: String, value: SparkplugBytes)...) -> SparkplugBytes {
        var set = SparkplugBytes()
        for entry in entries { set.delimited(1, Array(entry.key.utf8)) }
        for entry in entries { set.delimited(2, entry.value.bytes) }
        return SparkplugBytes { $0.delimited(9, set.bytes) }
    }

    package static func property(_ type: UInt64, _ write: (inout SparkplugBytes) -> Void) -> SparkplugBytes {
        SparkplugBytes {
            $0.varint(1, type)
            write(&$0)
        }
    }

    package static func quality(_ code: UInt64) -> SparkplugBytes {
        properties(("Quality", property(3) { $0.varint(3, code) }))
    }

    package mutating func varint(_ field: UInt64, _ value: UInt64) {
        raw(field << 3)
        raw(value)
    }

    package mutating func delimited(_ field: UInt64, _ value: [UInt8]) {
        raw(field << 3 | 2)
        raw(UInt64(value.count))
        bytes += value
    }

    /// Little-endian.
    package mutating func fixed(_ field: UInt64, _ value: UInt64, bytes count: Int) {
        raw(field << 3 | (count == 8 ? 1 : 5))
        for index in 0..<count { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * index))) }
    }

    private mutating func raw(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }
}
