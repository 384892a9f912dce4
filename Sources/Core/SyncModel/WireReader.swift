import NIOCore

/// Reads canonical protobuf: fields in ascending order, each singular one at most once, varints no longer than needed.
/// Nested messages narrow `end` instead of copying the buffer, so that a record costs no reference counting of its own.
struct WireReader {
    let buffer: ByteBuffer
    private let start: Int
    private var position: Int
    private var end: Int

    init(_ buffer: ByteBuffer) {
        self.buffer = buffer
        start = buffer.readerIndex
        position = buffer.readerIndex
        end = buffer.writerIndex
    }

    /// Bytes from the start of the whole.
    var offset: Int { position - start }
    var isAtEnd: Bool { position == end }

    func error(_ reason: SyncDecodingError.Reason, _ path: String = "", at offset: Int? = nil) -> SyncDecodingError {
        SyncDecodingError(reason, path: path, offset: offset ?? self.offset)
    }

    /// Consumes the tag when it is the next byte of the current message.
    @inline(__always)
    mutating func take(_ field: UInt8, _ wireType: UInt8) -> Bool {
        guard position < end, let byte = buffer.getInteger(at: position, as: UInt8.self), byte == field << 3 | wireType
        else { return false }
        position += 1
        return true
    }

    @inline(__always)
    mutating func varint(_ path: StaticString) throws(SyncDecodingError) -> UInt64 {
        if position < end, let byte = buffer.getInteger(at: position, as: UInt8.self), byte < 0x80 {
            position += 1
            return UInt64(byte)
        }
        return try longVarint(path)
    }

    private mutating func longVarint(_ path: StaticString) throws(SyncDecodingError) -> UInt64 {
        let begin = offset
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while position < end, let byte = buffer.getInteger(at: position, as: UInt8.self) {
            position += 1
            if shift == 63, byte > 1 { throw error(.malformedVarint, "\(path)", at: begin) }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 {
                if byte == 0, shift > 0 { throw error(.malformedVarint, "\(path)", at: begin) }
                return value
            }
            shift += 7
        }
        throw error(.truncated, "\(path)", at: begin)
    }

    /// A varint field that may be left out when zero.
    @inline(__always)
    mutating func optionalVarint(_ field: UInt8, _ path: StaticString) throws(SyncDecodingError) -> UInt64 {
        guard take(field, WireType.varint) else { return 0 }
        return try varint(path)
    }

    mutating func bool(_ field: UInt8, _ path: StaticString) throws(SyncDecodingError) -> Bool {
        let begin = offset
        let value = try optionalVarint(field, path)
        guard value <= 1 else { throw error(.unknownValue(value), "\(path)", at: begin) }
        return value == 1
    }

    mutating func number(
        _ field: UInt8, _ path: StaticString, in allowed: ClosedRange<UInt64> = SyncLimits.numbers
    ) throws(SyncDecodingError) -> UInt64 {
        let begin = offset
        let value = try optionalVarint(field, path)
        guard allowed.contains(value) else { throw error(.outOfRange(value, allowed: allowed), "\(path)", at: begin) }
        return value
    }

    /// The length of a length-delimited value whose tag was taken; the value lies wholly in the current message.
    @inline(__always)
    private mutating func length(_ path: StaticString) throws(SyncDecodingError) -> Int {
        let begin = offset
        let length = try varint(path)
        guard length <= UInt64(end - position) else { throw error(.truncated, "\(path)", at: begin) }
        return Int(length)
    }

    /// A slice of the buffer; its tag was taken.
    @inline(__always)
    mutating func slice(_ path: StaticString) throws(SyncDecodingError) -> ByteBuffer {
        let length = try length(path)
        guard let slice = buffer.getSlice(at: position, length: length) else { throw error(.truncated, "\(path)") }
        position += length
        return slice
    }

    /// Narrows to a nested message whose tag was taken; give the result to `leave`.
    @inline(__always)
    mutating func enter(_ path: StaticString) throws(SyncDecodingError) -> Int {
        let length = try length(path)
        let outer = end
        end = position + length
        return outer
    }

    /// Refuses what is left of a nested message: unknown, repeated or misplaced fields.
    @inline(__always)
    mutating func leave(to outer: Int) throws(SyncDecodingError) {
        try finish()
        end = outer
    }

    @inline(__always)
    func finish() throws(SyncDecodingError) {
        guard position < end else { return }
        let tag: UInt8 = buffer.getInteger(at: position) ?? 0
        throw error(.unexpectedField(tag: tag))
    }

    /// A bytes field of 16, as two big-endian halves; it must be there.
    mutating func pair(_ field: UInt8, _ path: StaticString) throws(SyncDecodingError) -> (high: UInt64, low: UInt64) {
        let begin = offset
        guard take(field, WireType.lengthDelimited) else { throw error(.missing, "\(path)") }
        let slice = try slice(path)
        guard slice.readableBytes == 16,
            let high: UInt64 = slice.getInteger(at: slice.readerIndex),
            let low: UInt64 = slice.getInteger(at: slice.readerIndex + 8)
        else { throw error(.wrongLength(expected: 16, found: slice.readableBytes), "\(path)", at: begin) }
        return (high, low)
    }

    mutating func epoch(_ field: UInt8) throws(SyncDecodingError) -> Epoch {
        let (high, low) = try pair(field, "epoch")
        return Epoch(high: high, low: low)
    }

    /// A gateway's or device's id; it must be there.
    mutating func identifier(_ field: UInt8, _ path: StaticString) throws(SyncDecodingError) -> String {
        let begin = offset
        guard take(field, WireType.lengthDelimited) else { throw error(.missing, "\(path)") }
        let slice = try slice(path)
        let text = slice.withUnsafeReadableBytes { String(validating: $0, as: UTF8.self) }
        guard let text else { throw error(.notUTF8, "\(path)", at: begin) }
        guard Identifier.isValid(text) else { throw error(.invalidText, "\(path)", at: begin) }
        return text
    }

    /// A topic whose tag was taken.
    mutating func topic() throws(SyncDecodingError) -> ByteBuffer {
        let begin = offset
        let topic = try slice("topic")
        guard 1...65_535 ~= topic.readableBytes else { throw error(.invalidText, "topic", at: begin) }
        let isPlain = topic.withUnsafeReadableBytes { bytes in bytes.allSatisfy { $0 &- 1 < 0x7F } }
        if isPlain { return topic }
        try topic.withUnsafeReadableBytes { bytes throws(SyncDecodingError) in
            guard String(validating: bytes, as: UTF8.self) != nil else { throw error(.notUTF8, "topic", at: begin) }
            guard !bytes.contains(0) else { throw error(.invalidText, "topic", at: begin) }
        }
        return topic
    }
}
