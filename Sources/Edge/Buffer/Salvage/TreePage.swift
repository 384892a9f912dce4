/// One page of a B-tree (SQLite file format, section 1.6), read from bytes that may be anything.
struct TreePage {
    enum Kind: UInt8 {
        case indexInterior = 2
        case tableInterior = 5
        case indexLeaf = 10
        case tableLeaf = 13

        var isLeaf: Bool { self == .indexLeaf || self == .tableLeaf }
        var isTable: Bool { self == .tableInterior || self == .tableLeaf }
    }

    /// The part of a record that its cell holds, and the page where the rest begins.
    struct Payload: Equatable {
        var bytes: Int
        var local: Range<Int>
        /// 0: all is local.
        var overflow: UInt32
    }

    struct Cell: Equatable {
        /// Of an interior page: the page of what comes before.
        var child: UInt32 = 0
        var rowID: Int64 = 0
        var payload: Payload?
    }

    let bytes: [UInt8]
    let kind: Kind
    /// Cells that the page claims; those that make no sense are `nil` in `cell(_:)`.
    let cellCount: Int
    /// Of an interior page.
    let rightChild: UInt32
    private let pointers: Int

    /// `nil` for a page that is none of a B-tree.
    ///
    /// - Parameter isFirst: page 1, which begins with the header of the database.
    init?(_ bytes: [UInt8], isFirst: Bool) {
        let start = isFirst ? 100 : 0
        guard bytes.count >= 512, let kind = Kind(rawValue: bytes[start]) else { return nil }
        self.bytes = bytes
        self.kind = kind
        rightChild = kind.isLeaf ? 0 : bytes.uint32(at: start + 8)
        pointers = start + (kind.isLeaf ? 8 : 12)
        // A cell takes four bytes at least, and two for its pointer.
        cellCount = min(bytes.uint16(at: start + 3), (bytes.count - pointers) / 6)
    }

    /// `nil` for one that reaches out of the page.
    func cell(_ index: Int) -> Cell? {
        guard 0..<cellCount ~= index else { return nil }
        var offset = bytes.uint16(at: pointers + 2 * index)
        guard offset >= pointers + 2 * cellCount, offset < bytes.count else { return nil }
        var cell = Cell()
        if !kind.isLeaf {
            guard offset <= bytes.count - 4 else { return nil }
            cell.child = bytes.uint32(at: offset)
            offset += 4
        }
        let slice = bytes[...]
        var size: UInt64 = 0
        if kind != .tableInterior {
            guard let length = slice.varint(at: &offset), length <= UInt64(RecordHeader.maximumBytes) else {
                return nil
            }
            size = length
        }
        if kind.isTable {
            guard let rowID = slice.varint(at: &offset) else { return nil }
            cell.rowID = Int64(bitPattern: rowID)
        }
        if kind != .tableInterior {
            guard let payload = payload(of: Int(size), at: offset) else { return nil }
            cell.payload = payload
        }
        return cell
    }

    /// How much of a record is kept in its cell (section 1.6, "B-tree Cell Format"). No page has reserved bytes.
    private func payload(of size: Int, at offset: Int) -> Payload? {
        let usable = bytes.count
        let maximum = kind.isTable ? usable - 35 : (usable - 12) * 64 / 255 - 23
        var local = size
        if size > maximum {
            let minimum = (usable - 12) * 32 / 255 - 23
            let fitting = minimum + (size - minimum) % (usable - 4)
            local = fitting <= maximum ? fitting : minimum
        }
        let end = offset + local
        guard end + (local < size ? 4 : 0) <= bytes.count else { return nil }
        return Payload(bytes: size, local: offset..<end, overflow: local < size ? bytes.uint32(at: end) : 0)
    }
}
