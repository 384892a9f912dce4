import NIOCore

/// A value of a row, as SQLite stores it.
enum StoredValue: Equatable {
    case null
    case integer(Int64)
    case real(Double)
    case text(ByteBuffer)
    case blob(ByteBuffer)
}

/// The header of a record (SQLite file format, section 2.1): which type and size each column has. Made from bytes that
/// may be anything.
struct RecordHeader: Equatable {
    enum Column: Equatable {
        case null
        case integer(bytes: Int)
        case constant(Int64)
        case real
        case text(bytes: Int)
        case blob(bytes: Int)

        init?(serialType: UInt64) {
            switch serialType {
            case 0: self = .null
            case 1...4: self = .integer(bytes: Int(serialType))
            case 5: self = .integer(bytes: 6)
            case 6: self = .integer(bytes: 8)
            case 7: self = .real
            case 8, 9: self = .constant(Int64(serialType) - 8)
            case 12...Self.largest:
                let bytes = Int(serialType - 12) / 2
                self = serialType & 1 == 0 ? .blob(bytes: bytes) : .text(bytes: bytes)
            default: return nil
            }
        }

        /// No row of a buffer comes near this.
        private static let largest = UInt64(RecordHeader.maximumBytes) * 2

        var size: Int {
            switch self {
            case .null, .constant: 0
            case .integer(let bytes), .text(let bytes), .blob(let bytes): bytes
            case .real: 8
            }
        }

        var isInteger: Bool {
            switch self {
            case .integer, .constant: true
            default: false
            }
        }
    }

    /// Of a record.
    static let maximumBytes = 64 * 1024 * 1024
    /// No table of a buffer has as many.
    static let maximumColumns = 64

    var columns: [Column]
    /// Bytes of the header.
    var size: Int

    /// `nil` unless the header is whole and fits a record of so many bytes exactly.
    ///
    /// - Parameter bytes: the record's first bytes.
    init?(_ bytes: ArraySlice<UInt8>, recordBytes: Int) {
        var offset = bytes.startIndex
        guard let length = bytes.varint(at: &offset), length <= UInt64(bytes.count), length <= UInt64(recordBytes)
        else { return nil }
        size = Int(length)
        columns = []
        let end = bytes.startIndex + size
        var total = size
        while offset < end {
            guard columns.count < Self.maximumColumns, let type = bytes.varint(at: &offset), offset <= end,
                let column = Column(serialType: type)
            else { return nil }
            total += column.size
            guard total <= recordBytes else { return nil }
            columns.append(column)
        }
        guard total == recordBytes else { return nil }
    }

    /// The values of a record that is all there.
    func values(of record: [UInt8]) -> [StoredValue] {
        var offset = size
        var buffer = ByteBuffer(bytes: record)
        return columns.map { column in
            defer { offset += column.size }
            switch column {
            case .null: return .null
            case .constant(let value): return .integer(value)
            case .integer(let bytes): return .integer(record.signed(at: offset, bytes: bytes))
            case .real: return .real(Double(bitPattern: UInt64(bitPattern: record.signed(at: offset, bytes: 8))))
            case .text(let bytes): return .text(buffer.slice(at: offset, bytes))
            case .blob(let bytes): return .blob(buffer.slice(at: offset, bytes))
            }
        }
    }
}

extension ByteBuffer {
    fileprivate mutating func slice(at offset: Int, _ length: Int) -> ByteBuffer {
        getSlice(at: offset, length: length) ?? ByteBuffer()
    }
}

extension [UInt8] {
    /// Big-endian in two's complement; 0 when it is not all there.
    fileprivate func signed(at offset: Int, bytes: Int) -> Int64 {
        guard offset >= 0, offset + bytes <= count else { return 0 }
        var value: Int64 = self[offset] & 0x80 == 0 ? 0 : -1
        for index in offset..<offset + bytes { value = value << 8 | Int64(self[index]) }
        return value
    }
}

extension ArraySlice<UInt8> {
    /// 1 to 9 bytes, big-endian, seven bits each but the ninth's eight.
    func varint(at offset: inout Int) -> UInt64? {
        var value: UInt64 = 0
        for count in 1...9 {
            guard offset >= startIndex, offset < endIndex else { return nil }
            let byte = self[offset]
            offset += 1
            if count == 9 { return value << 8 | UInt64(byte) }
            value = value << 7 | UInt64(byte & 0x7f)
            if byte & 0x80 == 0 { return value }
        }
        return nil
    }
}
