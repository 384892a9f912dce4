import NIOCore

/// Why bytes are no Sparkplug payload.
package enum SparkplugDecodingError: Error, Sendable, Equatable {
    /// A value or a length runs past the end.
    case truncated
    /// Longer than 64 bits.
    case malformedVarint
    /// A group, which proto3 does not have, or a field number beyond its range.
    case malformedTag(UInt64)
    case tooManyMetrics(limit: Int)
    /// No timestamp, no metric and no sequence: bytes that are a payload by chance alone.
    case empty
}

extension SparkplugPayload {
    /// Far more than a birth has; a metric can be two bytes and becomes a hundred in memory.
    package static let maximumMetrics = 16_384

    /// Reads what any protobuf encoder writes: fields in any order, the last of a repeated one counts. That there are such,
    /// or unknown ones, is noted. Nested messages but the metrics stay encoded, so nothing recurses. Texts and bytes are slices.
    package static func decode(
        _ bytes: ByteBuffer, maximumMetrics: Int = Self.maximumMetrics
    ) throws(SparkplugDecodingError) -> SparkplugPayload {
        var reader = ProtobufReader(bytes)
        var payload = SparkplugPayload()
        var seen = SeenFields()
        while let field = try reader.next() {
            if field.number != 2, !seen.insert(field.number) { payload.isWhole = false }
            switch (field.number, field.value) {
            case (1, .varint(let value)): payload.timestamp = value
            case (2, .bytes(let bytes)):
                guard payload.metrics.count < maximumMetrics else { throw .tooManyMetrics(limit: maximumMetrics) }
                let metric = try SparkplugMetric(encoded: bytes)
                if !metric.isWhole { payload.isWhole = false }
                payload.metrics.append(metric)
            case (3, .varint(let value)): payload.sequence = value
            case (4, .bytes(let bytes)): payload.uuid = bytes
            case (5, .bytes(let bytes)): payload.body = bytes
            default: payload.isWhole = false
            }
        }
        guard payload.timestamp != nil || payload.sequence != nil || !payload.metrics.isEmpty else { throw .empty }
        return payload
    }
}

extension SparkplugMetric {
    fileprivate init(encoded bytes: ByteBuffer) throws(SparkplugDecodingError) {
        self.init()
        var reader = ProtobufReader(bytes)
        var seen = SeenFields()
        while let field = try reader.next() {
            // All from 10 on are the value.
            if !seen.insert(min(field.number, 10)) { isWhole = false }
            switch (field.number, field.value) {
            case (1, .bytes(let bytes)): name = bytes
            case (2, .varint(let value)): alias = value
            case (3, .varint(let value)): timestamp = value
            case (4, .varint(let value)): datatype = UInt32(truncatingIfNeeded: value)
            case (5, .varint(let value)): isHistorical = value != 0
            case (6, .varint(let value)): isTransient = value != 0
            case (7, .varint(let value)): isNull = value != 0
            case (8, .bytes(let bytes)): metadata = bytes.readableBytes > 0 ? bytes : nil
            case (9, .bytes(let bytes)): properties = bytes.readableBytes > 0 ? bytes : nil
            case (10, .varint(let value)): self.value = .int(UInt32(truncatingIfNeeded: value))
            case (11, .varint(let value)): self.value = .long(value)
            case (12, .fixed32(let value)): self.value = .float(Float(bitPattern: value))
            case (13, .fixed64(let value)): self.value = .double(Double(bitPattern: value))
            case (14, .varint(let value)): self.value = .boolean(value != 0)
            case (15, .bytes(let bytes)): self.value = .string(bytes)
            case (16, .bytes(let bytes)): self.value = .bytes(bytes)
            case (17, .bytes(let bytes)), (18, .bytes(let bytes)), (19, .bytes(let bytes)):
                self.value = .opaque(bytes)
            default: isWhole = false
            }
        }
        if isNull, value != nil { isWhole = false }
    }
}

/// Which of the first fields of a message there were.
struct SeenFields {
    private var bits: UInt64 = 0

    /// - Returns: whether it is the first of this number.
    mutating func insert(_ number: UInt64) -> Bool {
        let bit: UInt64 = number < 64 ? 1 << number : 0
        defer { bits |= bit }
        return bits & bit == 0
    }
}

/// Reads fields of a protobuf message, whatever they are.
struct ProtobufReader {
    enum Value: Equatable {
        case varint(UInt64)
        case fixed64(UInt64)
        case bytes(ByteBuffer)
        case fixed32(UInt32)
    }

    /// Highest field number of protobuf.
    private static let largestField: UInt64 = (1 << 29) - 1

    private var rest: ByteBuffer

    init(_ bytes: ByteBuffer) { rest = bytes }

    /// `nil` at the end.
    mutating func next() throws(SparkplugDecodingError) -> (number: UInt64, value: Value)? {
        guard rest.readableBytes > 0 else { return nil }
        let tag = try varint()
        let number = tag >> 3
        guard 1...Self.largestField ~= number else { throw .malformedTag(tag) }
        switch tag & 7 {
        case 0: return (number, .varint(try varint()))
        case 1:
            guard let value = rest.readInteger(endianness: .little, as: UInt64.self) else { throw .truncated }
            return (number, .fixed64(value))
        case 2:
            let length = try varint()
            guard length <= UInt64(rest.readableBytes), let bytes = rest.readSlice(length: Int(length)) else {
                throw .truncated
            }
            return (number, .bytes(bytes))
        case 5:
            guard let value = rest.readInteger(endianness: .little, as: UInt32.self) else { throw .truncated }
            return (number, .fixed32(value))
        default: throw .malformedTag(tag)
        }
    }

    private mutating func varint() throws(SparkplugDecodingError) -> UInt64 {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), through: 63, by: 7) {
            guard let byte = rest.readInteger(as: UInt8.self) else { throw .truncated }
            if shift == 63, byte > 1 { throw .malformedVarint }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
        }
        throw .malformedVarint
    }
}
