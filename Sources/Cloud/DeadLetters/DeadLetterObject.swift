import CZstd
import Crypto
import EventLog
import NIOCore

package enum DeadLetterError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The object is not in the store.
    case missing(String)
    /// The bytes are not those that were written, or no dead letter.
    case damaged(String)

    package var description: String {
        switch self {
        case .missing(let key): "the object \(key) is not in the object store"
        case .damaged(let why): "the object is damaged: \(why)"
        }
    }
}

/// Records of one partition without a gap, as they stand in the log.
package struct DeadLetterObject: Sendable, Equatable {
    /// Of the records' keys, values and headers in one object; what has more stays in the log.
    package static let maximumRecordBytes = 64 << 20
    /// Of an object as it is stored. Compression may add a little, and each record its frame.
    package static let maximumObjectBytes = maximumRecordBytes + (8 << 20)

    package var incarnation: String
    package var range: DeadLetterRange
    /// Not empty; the last is the range's last. The first is later than the range's start only where the log had begun
    /// to forget the range.
    package var records: [StoredLogRecord]

    package init(incarnation: String, range: DeadLetterRange, records: [StoredLogRecord]) {
        self.incarnation = incarnation
        self.range = range
        self.records = records
    }

    /// Where it is stored. Characters that a key may not have are replaced; the object names its log exactly.
    package var key: String { Self.key(incarnation: incarnation, range: range) }

    package static func key(incarnation: String, range: DeadLetterRange) -> String {
        let log = String(
            incarnation.map { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-" || $0 == "_") ? $0 : "_" })
        return "dead-letters/\(log)/\(range.partition)/\(padded(range.start))-\(padded(range.end))"
    }

    /// So that keys are in the order of their offsets.
    private static func padded(_ offset: Int64) -> String {
        let digits = String(offset)
        return String(repeating: "0", count: max(0, 19 - digits.count)) + digits
    }

    package static func digest(_ bytes: ByteBuffer) -> ByteBuffer {
        ByteBuffer(bytes: bytes.withUnsafeReadableBytes { SHA256.hash(data: $0) })
    }

    // MARK: Bytes

    /// Format 1: these eight bytes, then one zstd frame. In it, big-endian: the log's incarnation, partition, the range's
    /// start, the first record's offset, the number of records; of each record its append time, key, value and headers.
    /// Texts and values follow their length in 4 bytes.
    private static let magic = Array("SLUICEL1".utf8)

    package func encoded() throws(DeadLetterError) -> ByteBuffer {
        var body = ByteBuffer()
        Self.write(ByteBuffer(string: incarnation), into: &body)
        body.writeMultipleIntegers(
            range.partition, range.start, records.first?.offset ?? range.end, Int32(records.count))
        for record in records {
            body.writeInteger(record.appendTime)
            Self.write(ByteBuffer(string: record.record.key), into: &body)
            Self.write(record.record.value, into: &body)
            body.writeInteger(Int32(record.record.headers.count))
            for header in record.record.headers {
                Self.write(ByteBuffer(string: header.name), into: &body)
                Self.write(ByteBuffer(string: header.value), into: &body)
            }
        }
        var object = ByteBuffer(bytes: Self.magic)
        var failure: String?
        object.writeWithUnsafeMutableBytes(minimumWritableBytes: ZSTD_compressBound(body.readableBytes)) { target in
            body.withUnsafeReadableBytes { source in
                let size = ZSTD_compress(target.baseAddress, target.count, source.baseAddress, source.count, 1)
                if ZSTD_isError(size) == 0 { return size }
                failure = String(cString: ZSTD_getErrorName(size))
                return 0
            }
        }
        if let failure { throw .damaged("zstd: \(failure)") }
        return object
    }

    private static func write(_ bytes: ByteBuffer, into body: inout ByteBuffer) {
        body.writeInteger(UInt32(bytes.readableBytes))
        body.writeImmutableBuffer(bytes)
    }

    package init(decoding object: ByteBuffer) throws(DeadLetterError) {
        var body = try Self.unpack(object)
        guard let incarnation = Self.text(&body),
            let (partition, start, first, count) = body.readMultipleIntegers(as: (Int32, Int64, Int64, Int32).self),
            partition >= 0, start >= 0, count > 0, first >= start
        else { throw .damaged("its beginning cannot be read") }
        let range = DeadLetterRange(partition: partition, containing: start)
        guard range.start == start, range.end - first == Int64(count) else {
            throw .damaged("\(count) records from offset \(first) are not what the range from \(start) has")
        }
        var records: [StoredLogRecord] = []
        records.reserveCapacity(Int(count))
        for offset in first..<range.end {
            guard let time = body.readInteger(as: Int64.self), let key = Self.text(&body),
                let value = Self.bytes(&body), let headers = body.readInteger(as: Int32.self), headers >= 0
            else { throw .damaged("the record of offset \(offset) cannot be read") }
            var record = LogRecord(key: key, value: value)
            for _ in 0..<headers {
                guard let name = Self.text(&body), let value = Self.text(&body) else {
                    throw .damaged("the record of offset \(offset) cannot be read")
                }
                record.headers.append(.init(name: name, value: value))
            }
            records.append(
                StoredLogRecord(partition: partition, offset: offset, appendTime: time, record: record))
        }
        guard body.readableBytes == 0 else { throw .damaged("there are bytes behind its records") }
        self.init(incarnation: incarnation, range: range, records: records)
    }

    private static func unpack(_ object: ByteBuffer) throws(DeadLetterError) -> ByteBuffer {
        var object = object
        guard object.readBytes(length: magic.count) == magic else { throw .damaged("it is no dead letter") }
        let size = object.withUnsafeReadableBytes { ZSTD_getFrameContentSize($0.baseAddress, $0.count) }
        // zstd's marks for an unknown size and an error are the two largest numbers.
        guard size <= UInt64(maximumObjectBytes) else { throw .damaged("its size is not told, or is too large") }
        var body = ByteBuffer()
        var unpacked = 0
        body.writeWithUnsafeMutableBytes(minimumWritableBytes: Int(size)) { target in
            object.withUnsafeReadableBytes { source in
                unpacked = ZSTD_decompress(target.baseAddress, Int(size), source.baseAddress, source.count)
                return ZSTD_isError(unpacked) == 0 ? unpacked : 0
            }
        }
        guard ZSTD_isError(unpacked) == 0, unpacked == Int(size) else {
            throw .damaged("its zstd frame cannot be read")
        }
        return body
    }

    private static func bytes(_ body: inout ByteBuffer) -> ByteBuffer? {
        guard let length = body.readInteger(as: UInt32.self) else { return nil }
        return body.readSlice(length: Int(length))
    }

    private static func text(_ body: inout ByteBuffer) -> String? {
        bytes(&body).map { String(buffer: $0) }
    }
}
