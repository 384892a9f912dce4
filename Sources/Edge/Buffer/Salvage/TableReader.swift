import NIOCore

/// Reads the rows of tables as far as their trees go: what lies below a page that is no part of a tree is left out and
/// counted. SQLite itself stops at the first such page.
struct TableReader {
    struct Table: Equatable {
        var root: UInt32
        var sql: String
    }

    private static let maximumDepth = 20

    let image: PageImage
    /// By name; empty when the first page is lost.
    let tables: [String: Table]
    /// Pages, cells and rows that could not be read, or are not what was written.
    private(set) var failures = 0

    init(_ image: PageImage) {
        self.image = image
        var tables: [String: Table] = [:]
        var reader = TableReader(image: image, tables: [:])
        reader.walk(1) { _, values in
            // sqlite_schema: type, name, tbl_name, rootpage, sql.
            guard values.count == 5, values[0].string == "table", let name = values[1].string,
                let root = values[3].integer, root > 0, root <= Int64(image.pageCount), let sql = values[4].string
            else { return }
            tables[name] = Table(root: UInt32(root), sql: sql)
        }
        self.tables = tables
        failures = reader.failures
    }

    private init(image: PageImage, tables: [String: Table]) {
        self.image = image
        self.tables = tables
    }

    /// As far as can be told.
    var hasChecksums: Bool { tables["epoch"].map { RowChecksum.isPart(of: $0.sql) } ?? false }

    /// Calls `body` with each row's id (0 in a table WITHOUT ROWID) and its values in their stored order.
    ///
    /// - Returns: false when there is no such table, as far as can be told.
    @discardableResult
    mutating func rows(of name: String, _ body: (Int64, [StoredValue]) -> Void) -> Bool {
        guard let table = tables[name] else { return false }
        guard RowChecksum.isPart(of: table.sql) else {
            walk(table.root, body)
            return true
        }
        var wrong = 0
        walk(table.root) { rowID, values in
            if RowChecksum.isRight(values, rowID: rowID) { body(rowID, values) } else { wrong += 1 }
        }
        failures += wrong
        return true
    }

    private mutating func walk(_ root: UInt32, _ body: (Int64, [StoredValue]) -> Void) {
        var seen: Set<UInt32> = []
        walk(root, depth: 0, &seen, body)
    }

    private mutating func walk(
        _ number: UInt32, depth: Int, _ seen: inout Set<UInt32>, _ body: (Int64, [StoredValue]) -> Void
    ) {
        guard depth < Self.maximumDepth, seen.insert(number).inserted, let bytes = image.page(number),
            let page = TreePage(bytes, isFirst: number == 1)
        else {
            failures += 1
            return
        }
        for index in 0..<page.cellCount {
            guard let cell = page.cell(index) else {
                failures += 1
                continue
            }
            if !page.kind.isLeaf { walk(cell.child, depth: depth + 1, &seen, body) }
            guard let payload = cell.payload else { continue }
            guard let record = image.record(of: payload, in: bytes, where: { _ in true }) else {
                failures += 1
                continue
            }
            body(cell.rowID, record.header.values(of: record.bytes))
        }
        if !page.kind.isLeaf { walk(page.rightChild, depth: depth + 1, &seen, body) }
    }
}

extension StoredValue {
    var integer: Int64? {
        if case .integer(let value) = self { value } else { nil }
    }

    /// `nil` unless it is text in UTF-8.
    var string: String? {
        if case .text(let bytes) = self { String(validating: bytes.readableBytesView, as: UTF8.self) } else { nil }
    }
}
