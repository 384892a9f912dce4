/// What is looked at before SQLite opens a buffer. Bounded: the log, the header, and of the table of frames the pages
/// above its rows, less than one in a hundred. A wrong page further down is found when it is read.
enum StructureCheck {
    struct Finding {
        /// What is wrong, in words.
        var damage: String
        /// The disk could not read something, so it may be that alone.
        var isReadError: Bool
    }

    /// - Returns: `nil` when nothing was found.
    static func finding(at path: String, pageSize: Int) -> Finding? {
        guard let database = FileBytes(path: path) else { return nil }
        let log = FileBytes(path: path + "-wal")
        // An empty file is one that was just made; SQLite rolls back what its journal says of the first page.
        if let journal = FileBytes(path: path + "-journal"), journal.count > 0 { return nil }
        return damage(database: database, log: log, pageSize: pageSize).map {
            Finding(damage: $0, isReadError: database.hasFailed || log?.hasFailed == true)
        }
    }

    static func damage(database: some ByteSource, log: (some ByteSource)?, pageSize: Int) -> String? {
        let ownSize = PageSize.ofDatabase(database)
        let scan = log.flatMap { LogScan($0, pageSize: ownSize ?? pageSize) }
        if let scan, scan.isDamaged {
            return "its log has acknowledged transactions beyond frame \(scan.recoveredEnd), where recovery ends"
        }
        if database.count == 0 {
            return scan?.entries.contains { $0.isCommit } == true ? "it is empty, and its log is not" : nil
        }
        guard let ownSize, scan.map({ $0.recoveredEnd == 0 || $0.pageSize == ownSize }) ?? true else {
            return "its header does not say what size its pages have"
        }
        let image = PageImage(
            database: database, log: log.flatMap { log in scan.map { (log, $0) } }, pageSize: ownSize)
        // The first moments of a new file: nothing was ever put into it.
        if image.pageCount == 1, let only = image.page(1), isWithoutTables(only) { return nil }
        guard let first = image.page(1), isHeader(first) else { return "its first page is no database's" }
        // A checkpoint that a power cut has ended may leave it so; then the log has the page.
        let isCutOff = database.count % ownSize != 0
        guard !isCutOff || image.place(of: UInt32(clamping: database.count / ownSize + 1))?.isInLog == true else {
            return "its last page is cut off"
        }
        // Without the log's pages the file must have what its header counts (section 1.3.7).
        let isCountValid = first.uint32(at: 24) == first.uint32(at: 92)
        guard !isCountValid || first.uint32(at: 28) <= image.pageCount else { return "its end is missing" }
        let tables = TableReader(image)
        guard tables.failures == 0 else { return "its table of tables cannot be read" }
        guard let frames = tables.tables["frame"] else { return nil }
        return TreeCheck(image).damage(below: frames.root)
    }

    /// SQLite has written the header, and no table yet: schema format and encoding are set with the first.
    private static func isWithoutTables(_ page: [UInt8]) -> Bool {
        page.starts(with: "SQLite format 3\0".utf8) && page.uint32(at: 44) == 0 && page.uint32(at: 56) == 0
            && TreePage(page, isFirst: true).map { $0.kind == .tableLeaf && $0.cellCount == 0 } == true
    }

    /// Fields of the database's header that have one value in every buffer (section 1.3).
    private static func isHeader(_ page: [UInt8]) -> Bool {
        page.starts(with: "SQLite format 3\0".utf8) && 1...2 ~= page[18] && 1...2 ~= page[19]
            && page[20...23].elementsEqual([0, 64, 32, 32]) && 1...4 ~= page.uint32(at: 44)
            && page.uint32(at: 56) == 1
    }
}

extension PageSize {
    /// As the database's header says; `nil` when it says nothing valid.
    static func ofDatabase(_ database: some ByteSource) -> Int? {
        let header = database.bytes(at: 0, count: 100)
        guard header.count == 100, header.starts(with: "SQLite format 3\0".utf8) else { return nil }
        let size = header.uint16(at: 16) == 1 ? 65_536 : header.uint16(at: 16)
        return isValid(size) ? size : nil
    }
}

/// The interior pages of one table: each is one, and its keys ascend.
private struct TreeCheck {
    private let image: PageImage
    private var seen: Set<UInt32> = []

    init(_ image: PageImage) { self.image = image }

    func damage(below root: UInt32) -> String? {
        var check = self
        guard let depth = check.depth(below: root) else { return "the tree of its frames is broken" }
        return check.isSound(root, levels: depth, within: .min ... .max)
            ? nil : "a page above its frames is wrong"
    }

    /// Interior levels: all leaves of a tree are on one.
    private func depth(below root: UInt32) -> Int? {
        var number = root
        for depth in 0..<20 {
            guard let bytes = image.page(number), let page = TreePage(bytes, isFirst: number == 1), page.kind.isTable
            else { return nil }
            if page.kind.isLeaf { return depth }
            number = page.rightChild
        }
        return nil
    }

    private mutating func isSound(_ number: UInt32, levels: Int, within keys: ClosedRange<Int64>) -> Bool {
        guard number > 0, number <= image.pageCount, seen.insert(number).inserted else { return false }
        guard levels > 0 else { return true }
        guard let bytes = image.page(number), let page = TreePage(bytes, isFirst: false), page.kind == .tableInterior
        else { return false }
        var low = keys.lowerBound
        for index in 0..<page.cellCount {
            guard let cell = page.cell(index), low <= cell.rowID, cell.rowID <= keys.upperBound,
                isSound(cell.child, levels: levels - 1, within: low...cell.rowID)
            else { return false }
            low = cell.rowID
        }
        return isSound(page.rightChild, levels: levels - 1, within: low...keys.upperBound)
    }
}
