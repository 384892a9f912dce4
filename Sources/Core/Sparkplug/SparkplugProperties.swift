import NIOCore

/// A metric's properties (`PropertySet`) or its metadata (`MetaData`), one level deep.
package struct SparkplugProperties: Sendable, Equatable {
    package enum Value: Sendable, Equatable {
        case null
        case number(SparkplugNumber)
        case boolean(Bool)
        case text(ByteBuffer)
        /// A set or a list of sets, encoded as it came.
        case nested(ByteBuffer)
    }

    package struct Entry: Sendable, Equatable {
        package var key: ByteBuffer
        package var value: Value
    }

    /// Empty where they cannot be told one by one: keys without values, one key twice, fields that nobody knows, no
    /// protobuf at all.
    package private(set) var entries: [Entry] = []

    private static let qualityKey = "Quality"

    /// The value of the property `Quality` (Sparkplug 3.0, "Quality Codes").
    package var quality: SparkplugQuality? {
        guard let entry = entries.first(where: { $0.key.readableBytesView.elementsEqual(Self.qualityKey.utf8) }),
            case .number(let number) = entry.value
        else { return nil }
        switch number {
        case .signed(let value): return SparkplugQuality(code: value)
        case .unsigned(let value): return SparkplugQuality(code: Int64(clamping: value))
        case .real: return .other
        }
    }

    /// Whether `quality` says all of it.
    package var isQualityAlone: Bool {
        guard entries.count == 1, let quality else { return false }
        return quality != .other
    }
}

package enum SparkplugQuality: Sendable, Equatable {
    case good
    case bad
    case stale
    /// A code that the standard does not have.
    case other

    init(code: Int64) {
        switch code {
        case 0: self = .bad
        case 192: self = .good
        case 500: self = .stale
        default: self = .other
        }
    }
}

extension SparkplugProperties {
    /// - Parameter bytes: a `PropertySet`.
    package init(properties bytes: ByteBuffer) {
        var reader = ProtobufReader(bytes)
        var keys: [ByteBuffer] = []
        var values: [Value] = []
        do throws(SparkplugDecodingError) {
            while let field = try reader.next() {
                switch (field.number, field.value) {
                case (1, .bytes(let key)): keys.append(key)
                case (2, .bytes(let encoded)):
                    guard let value = try Self.value(encoded) else { return }
                    values.append(value)
                default: return
                }
            }
        } catch {
            return
        }
        guard keys.count == values.count, Set(keys).count == keys.count else { return }
        entries = zip(keys, values).map { Entry(key: $0, value: $1) }
    }

    /// - Returns: `nil` where there are fields that nobody knows, one twice, or a value beside its being null.
    private static func value(_ bytes: ByteBuffer) throws(SparkplugDecodingError) -> Value? {
        var reader = ProtobufReader(bytes)
        var metric = SparkplugMetric()
        var nested: ByteBuffer?
        var seen = SeenFields()
        while let field = try reader.next() {
            // All from 3 on are the value.
            guard seen.insert(min(field.number, 3)) else { return nil }
            switch (field.number, field.value) {
            case (1, .varint(let type)): metric.datatype = UInt32(truncatingIfNeeded: type)
            case (2, .varint(let isNull)): metric.isNull = isNull != 0
            case (3, .varint(let value)): metric.value = .int(UInt32(truncatingIfNeeded: value))
            case (4, .varint(let value)): metric.value = .long(value)
            case (5, .fixed32(let value)): metric.value = .float(Float(bitPattern: value))
            case (6, .fixed64(let value)): metric.value = .double(Double(bitPattern: value))
            case (7, .varint(let value)): metric.value = .boolean(value != 0)
            case (8, .bytes(let value)): metric.value = .string(value)
            case (9, .bytes(let value)), (10, .bytes(let value)): nested = value
            default: return nil
            }
        }
        if metric.isNull { return metric.value == nil && nested == nil ? .null : nil }
        if let nested { return .nested(nested) }
        switch metric.value {
        case .boolean(let value)?: return .boolean(value)
        case .string(let value)?: return .text(value)
        default: return metric.number().map { .number($0) } ?? .null
        }
    }

    private static let metadataKeys = [
        "is_multi_part", "content_type", "size", "seq", "file_name", "file_type", "md5", "description",
    ]

    /// - Parameter bytes: a `MetaData`; the keys are its fields' names.
    package init(metadata bytes: ByteBuffer) {
        var reader = ProtobufReader(bytes)
        var found: [Entry] = []
        do throws(SparkplugDecodingError) {
            while let field = try reader.next() {
                guard 1...UInt64(Self.metadataKeys.count) ~= field.number else { return }
                let key = ByteBuffer(string: Self.metadataKeys[Int(field.number) - 1])
                switch (field.number, field.value) {
                case (1, .varint(let value)): found.append(Entry(key: key, value: .boolean(value != 0)))
                case (3...4, .varint(let value)):
                    found.append(Entry(key: key, value: .number(.unsigned(value))))
                case (2, .bytes(let value)), (5...8, .bytes(let value)):
                    found.append(Entry(key: key, value: .text(value)))
                default: return
                }
            }
        } catch {
            return
        }
        guard Set(found.map(\.key)).count == found.count else { return }
        entries = found
    }
}
