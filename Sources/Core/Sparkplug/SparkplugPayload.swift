import NIOCore

/// Sparkplug's data types that the meaning of a number depends on (Sparkplug 3.0,
/// "Payloads").
package enum SparkplugDatatype: UInt32, Sendable {
    case int8 = 1
    case int16 = 2
    case int32 = 3
    case int64 = 4
    case uint8 = 5
    case uint16 = 6
    case uint32 = 7
    case uint64 = 8
    case float = 9
    case double = 10
    case boolean = 11
    case string = 12
    /// Milliseconds since 1970.
    case dateTime = 13
    case text = 14
    case uuid = 15
}

/// A number as it was meant.
package enum SparkplugNumber: Sendable, Equatable {
    case signed(Int64)
    case unsigned(UInt64)
    case real(Double)
}

/// One metric of a payload. Texts and bytes are slices of it.
package struct SparkplugMetric: Sendable, Equatable {
    package enum Value: Sendable, Equatable {
        case int(UInt32)
        case long(UInt64)
        case float(Float)
        case double(Double)
        case boolean(Bool)
        case string(ByteBuffer)
        case bytes(ByteBuffer)
        /// A data set, a template or an extension, encoded as it came.
        case opaque(ByteBuffer)
    }

    /// UTF-8, as far as the sender kept to it.
    package var name: ByteBuffer?
    package var alias: UInt64?
    /// Milliseconds since 1970.
    package var timestamp: UInt64?
    package var datatype: UInt32?
    package var isHistorical = false
    package var isTransient = false
    package var isNull = false
    package var value: Value?
    /// `MetaData`, encoded as it came.
    package var metadata: ByteBuffer?
    /// `PropertySet`, encoded as it came.
    package var properties: ByteBuffer?
    /// There was nothing else in it.
    package var isWhole = true

    package init(name: ByteBuffer? = nil, alias: UInt64? = nil, datatype: UInt32? = nil, value: Value? = nil) {
        self.name = name
        self.alias = alias
        self.datatype = datatype
        self.value = value
    }

    /// Some senders write an empty name beside the alias that they mean.
    package var isNamed: Bool { (name?.readableBytes ?? 0) > 0 }

    /// `nil` where the value is no number. Booleans are 0 and 1.
    ///
    /// - Parameter known: what its birth said, where the metric itself does not.
    package func number(datatype known: UInt32? = nil) -> SparkplugNumber? {
        guard !isNull, let value else { return nil }
        switch value {
        case .int(let bits): return Self.number(UInt64(bits), datatype ?? known)
        case .long(let bits): return Self.number(bits, datatype ?? known)
        case .float(let value): return .real(Double(value))
        case .double(let value): return .real(value)
        case .boolean(let value): return .unsigned(value ? 1 : 0)
        case .string, .bytes, .opaque: return nil
        }
    }

    /// Signed types are sent as the two's complement of their width; senders widen it or do not.
    private static func number(_ bits: UInt64, _ datatype: UInt32?) -> SparkplugNumber {
        switch datatype.flatMap(SparkplugDatatype.init(rawValue:)) {
        case .int8: .signed(Int64(Int8(truncatingIfNeeded: bits)))
        case .int16: .signed(Int64(Int16(truncatingIfNeeded: bits)))
        case .int32: .signed(Int64(Int32(truncatingIfNeeded: bits)))
        case .int64: .signed(Int64(truncatingIfNeeded: bits))
        default: .unsigned(bits)
        }
    }
}

/// A payload of the Sparkplug B namespace (`Payload` of Eclipse Tahu's sparkplug_b.proto).
package struct SparkplugPayload: Sendable, Equatable {
    /// Milliseconds since 1970.
    package var timestamp: UInt64?
    package var metrics: [SparkplugMetric] = []
    package var sequence: UInt64?
    package var uuid: ByteBuffer?
    package var body: ByteBuffer?
    /// There was nothing else in it, nor in one of its metrics.
    package var isWhole = true

    /// The number that a node's birth and death have in common.
    package static let birthDeathSequence = "bdSeq"

    package init() {}

    package var bdSeq: UInt64? {
        for metric in metrics {
            guard let name = metric.name, name.readableBytesView.elementsEqual(Self.birthDeathSequence.utf8) else {
                continue
            }
            switch metric.number() {
            case .unsigned(let value): return value
            case .signed(let value): return UInt64(bitPattern: value)
            case .real, nil: return nil
            }
        }
        return nil
    }
}
