import NIOCore
import SyncModel

/// Some records of one append, encoded; their offsets become known at the commit, as they follow from `counts` and the
/// order of the records.
///
/// A record is `varint partition, varint length` and then `length` bytes: key, number of headers, name and value of each
/// header, value; strings and bytes with a varint length before them.
struct SegmentPiece: Sendable {
    var bytes = ByteBuffer()
    var records = 0
    /// Records a partition.
    var counts: [UInt32]

    init(partitions: Int) { counts = Array(repeating: 0, count: partitions) }

    mutating func merge(_ other: inout SegmentPiece) {
        bytes.writeBuffer(&other.bytes)
        records += other.records
        for (index, count) in other.counts.enumerated() where count > 0 { counts[index] += count }
    }
}

enum SegmentCodec {
    /// A segment is one row of the file; a record that is larger has a segment of its own.
    static let targetBytes = 1024 * 1024
    /// Headers a record; more are a sign of damage when read and refused when written.
    static let maximumHeaders = 64

    static func encode(
        _ records: [LogRecord], partitions: Int, maximumRecordBytes: Int
    ) throws(EventLogError) -> [SegmentPiece] {
        var pieces: [SegmentPiece] = []
        var piece = SegmentPiece(partitions: partitions)
        for record in records {
            let length = bodyLength(record)
            guard length <= maximumRecordBytes else { throw .recordTooLarge(bytes: length) }
            guard record.headers.count <= maximumHeaders else {
                throw .other("a record has \(record.headers.count) headers; \(maximumHeaders) are allowed")
            }
            if piece.records > 0, piece.bytes.readableBytes + length > targetBytes {
                pieces.append(piece)
                piece = SegmentPiece(partitions: partitions)
            }
            let partition = Int(Murmur2.partition(of: record.key, partitions: Int32(partitions)))
            encode(record, partition: partition, length: length, into: &piece.bytes)
            piece.counts[partition] += 1
            piece.records += 1
        }
        if piece.records > 0 { pieces.append(piece) }
        return pieces
    }

    private static func bodyLength(_ record: LogRecord) -> Int {
        var length = prefixed(record.key.utf8.count) + varintLength(UInt64(record.headers.count))
        for header in record.headers { length += prefixed(header.name.utf8.count) + prefixed(header.value.utf8.count) }
        return length + prefixed(record.value.readableBytes)
    }

    private static func prefixed(_ bytes: Int) -> Int { varintLength(UInt64(bytes)) + bytes }

    private static func encode(_ record: LogRecord, partition: Int, length: Int, into bytes: inout ByteBuffer) {
        bytes.writeVarint(UInt64(partition))
        bytes.writeVarint(UInt64(length))
        bytes.writePrefixed(record.key)
        bytes.writeVarint(UInt64(record.headers.count))
        for header in record.headers {
            bytes.writePrefixed(header.name)
            bytes.writePrefixed(header.value)
        }
        bytes.writeVarint(UInt64(record.value.readableBytes))
        bytes.writeImmutableBuffer(record.value)
    }
}

extension ByteBuffer {
    fileprivate mutating func writePrefixed(_ string: String) {
        writeVarint(UInt64(string.utf8.count))
        writeString(string)
    }
}

/// Walks the records of a stored segment. Every length is checked: a damaged file yields an error, never a trap.
struct SegmentIterator {
    struct Damaged: Error {}

    /// Where a record lies in the segment, before its body is decoded.
    struct Position {
        var partition: Int
        var body: Range<Int>
    }

    private let bytes: ByteBuffer
    private let partitions: Int
    private(set) var index: Int

    init(_ bytes: ByteBuffer, partitions: Int, at index: Int? = nil) {
        self.bytes = bytes
        self.partitions = partitions
        self.index = index ?? bytes.readerIndex
    }

    mutating func next() throws(Damaged) -> Position? {
        guard index < bytes.writerIndex else { return nil }
        let partition = try Self.varint(in: bytes, at: &index)
        let length = try Self.varint(in: bytes, at: &index)
        guard partition < UInt64(partitions), length <= UInt64(bytes.writerIndex - index) else { throw Damaged() }
        let body = index..<(index + Int(length))
        index = body.upperBound
        return Position(partition: Int(partition), body: body)
    }

    /// The value is a slice of the segment, no copy.
    func record(at position: Position) throws(Damaged) -> LogRecord {
        var at = position.body.lowerBound
        let end = position.body.upperBound
        let key = try string(at: &at, end: end)
        let count = try Self.varint(in: bytes, at: &at)
        guard count <= UInt64(SegmentCodec.maximumHeaders) else { throw Damaged() }
        var headers: [LogRecord.Header] = []
        for _ in 0..<count {
            let name = try string(at: &at, end: end)
            headers.append(.init(name: name, value: try string(at: &at, end: end)))
        }
        let length = try length(at: &at, end: end)
        guard at + length == end, let value = bytes.getSlice(at: at, length: length) else { throw Damaged() }
        return LogRecord(key: key, value: value, headers: headers)
    }

    private func length(at index: inout Int, end: Int) throws(Damaged) -> Int {
        let length = try Self.varint(in: bytes, at: &index)
        guard index <= end, length <= UInt64(end - index) else { throw Damaged() }
        return Int(length)
    }

    private func string(at index: inout Int, end: Int) throws(Damaged) -> String {
        let length = try length(at: &index, end: end)
        guard let string = bytes.getString(at: index, length: length) else { throw Damaged() }
        index += length
        return string
    }

    private static func varint(in bytes: ByteBuffer, at index: inout Int) throws(Damaged) -> UInt64 {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 64, by: 7) {
            guard let byte = bytes.getInteger(at: index, as: UInt8.self), index < bytes.writerIndex else {
                throw Damaged()
            }
            index += 1
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 { return value }
        }
        throw Damaged()
    }
}

/// First offset and number of records of each partition in a segment: 12 bytes a partition, little endian.
struct SegmentIndex: Sendable, Equatable {
    var starts: [Int64]
    var counts: [UInt32]

    var ends: [Int64] { zip(starts, counts).map { $0 + Int64($1) } }

    func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(starts.count * 12)
        for start in starts { withUnsafeBytes(of: start.littleEndian) { bytes.append(contentsOf: $0) } }
        for count in counts { withUnsafeBytes(of: count.littleEndian) { bytes.append(contentsOf: $0) } }
        return bytes
    }

    init(starts: [Int64], counts: [UInt32]) {
        self.starts = starts
        self.counts = counts
    }

    init?(_ bytes: UnsafeRawBufferPointer, partitions: Int) {
        guard bytes.count == partitions * 12 else { return nil }
        starts = (0..<partitions).map {
            Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: $0 * 8, as: Int64.self))
        }
        counts = (0..<partitions).map {
            UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: partitions * 8 + $0 * 4, as: UInt32.self))
        }
    }

    static func start(of partition: Int, in bytes: UnsafeRawBufferPointer, partitions: Int) -> Int64? {
        guard bytes.count == partitions * 12 else { return nil }
        return Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: partition * 8, as: Int64.self))
    }
}
