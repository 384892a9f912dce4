/// The pages of a database as its file and its log give them: of each page the newest version that can be trusted.
/// Everything that is read may be damaged.
final class PageImage {
    /// A version of a page: where it lies.
    struct Place: Equatable {
        var isInLog: Bool
        var offset: Int
    }

    let pageSize: Int
    let pageCount: UInt32
    /// Versions that a newer one replaces, and versions whose checksum is wrong: rows on them count only when their own
    /// checksum proves them.
    let doubtful: [Place]
    /// A version of a page that was committed is not there: what stands in its place may be older than the rest.
    let hasLostVersions: Bool
    private let database: any ByteSource
    private let log: (any ByteSource)?
    private let newest: [UInt32: Int]
    /// Overflow pages that may still be read: each belongs to one row, so there are not many more than pages.
    private var overflowBudget: Int

    init(database: any ByteSource, log: (source: any ByteSource, scan: LogScan)?, pageSize: Int) {
        self.pageSize = pageSize
        self.database = database
        self.log = log?.source
        let filePages = (database.count + pageSize - 1) / pageSize
        var newest: [UInt32: Int] = [:]
        var doubtful: [Place] = []
        var lost: [Int] = []
        var last = UInt32(clamping: filePages)
        if let scan = log?.scan, scan.pageSize == pageSize {
            let chain = scan.entries.firstIndex { !$0.isValid } ?? scan.entries.count
            for (index, entry) in scan.entries.enumerated() {
                let offset = scan.offset(of: index)
                guard index < scan.committedEnd, index < chain || entry.isValid, entry.isCurrent else {
                    if index < scan.committedEnd { lost.append(index) }
                    if entry.isCurrent { doubtful.append(Place(isInLog: true, offset: offset)) }
                    continue
                }
                if let old = newest.updateValue(offset, forKey: entry.page) {
                    doubtful.append(Place(isInLog: true, offset: old))
                } else if Int(entry.page) <= filePages {
                    doubtful.append(Place(isInLog: false, offset: (Int(entry.page) - 1) * pageSize))
                }
                last = max(last, entry.page)
            }
            // A header proves the first frame alone. One that is torn where the log begins anew takes nothing: the file has all
            // that the log had.
            if lost == [0], !scan.isHeaderValid, let log = log?.source, let page = scan.entries.first?.page, page > 0,
                newest[page] != nil
                    || log.bytes(at: scan.offset(of: 0), count: pageSize)
                        == database.bytes(at: (Int(page) - 1) * pageSize, count: pageSize)
            {
                lost = []
            }
        }
        self.newest = newest
        self.doubtful = doubtful
        hasLostVersions = !lost.isEmpty
        pageCount = last
        overflowBudget = 8 * (Int(last) + doubtful.count) + 1_024
    }

    /// Page 1 is the first. A short last page is filled with zeros; `nil` where there is nothing.
    func page(_ number: UInt32) -> [UInt8]? {
        place(of: number).flatMap(bytes(at:))
    }

    func place(of number: UInt32) -> Place? {
        guard number >= 1, number <= pageCount else { return nil }
        if let offset = newest[number] { return Place(isInLog: true, offset: offset) }
        return Place(isInLog: false, offset: (Int(number) - 1) * pageSize)
    }

    func bytes(at place: Place) -> [UInt8]? {
        var bytes = (place.isInLog ? log ?? database : database).bytes(at: place.offset, count: pageSize)
        guard !bytes.isEmpty else { return nil }
        if bytes.count < pageSize { bytes.append(contentsOf: repeatElement(0, count: pageSize - bytes.count)) }
        return bytes
    }

    /// A record whose header makes sense, put together from its cell and its chain of overflow pages; `nil` when the
    /// chain breaks.
    ///
    /// - Parameter accepts: whether a record of such columns is wanted; the chain of no other is followed.
    func record(
        of payload: TreePage.Payload, in page: [UInt8], where accepts: (RecordHeader) -> Bool
    ) -> (header: RecordHeader, bytes: [UInt8])? {
        guard let header = RecordHeader(page[payload.local], recordBytes: payload.bytes), accepts(header) else {
            return nil
        }
        var record = Array(page[payload.local])
        var next = payload.overflow
        record.reserveCapacity(payload.bytes)
        // As many pages as the rest takes, so a chain that bites its tail ends too.
        while record.count < payload.bytes {
            guard overflowBudget > 0, next > 1, let bytes = self.page(next) else { return nil }
            overflowBudget -= 1
            record.append(contentsOf: bytes[4..<min(pageSize, 4 + payload.bytes - record.count)])
            next = bytes.uint32(at: 0)
        }
        return next == 0 || payload.overflow == 0 ? (header, record) : nil
    }
}
