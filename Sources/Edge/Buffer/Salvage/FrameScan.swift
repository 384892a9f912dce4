import NIOCore
import SyncModel

/// What a row of `epoch` says.
struct StoredEpoch: Equatable {
    var row: Int64
    var lastSequence: UInt64
    var lastFrame: Int64
    var isReported: Bool
    /// As a salvage writes an epoch of which it carried no frame over: all of it is answered, or in the ledger.
    var hasNoFrames: Bool
}

/// What the row of `progress` says.
struct StoredProgress: Equatable {
    var gateway: String
    var answeredFrame: Int64
    var answeredMessages: Int64
    var lastCut: Int64
    /// Ledger lines up to here are in the cloud; `nil` in older layouts.
    var reportedLedger: Int64?
    /// Ledger lines up to here are of an earlier salvage; `nil` in older layouts.
    var carriedLedger: Int64?
}

/// A row of `frame` that was found and proven. A file may hold millions, so this has no bytes of it, only its place.
struct FoundFrame {
    /// Index into `FrameScan.epochs`.
    var epoch: Int32
    var count: UInt32
    var firstSequence: UInt64
    var id: Int64
    /// Up to and with this frame, over the life of the file.
    var totalMessages: Int64
    var offset: Int
    var isInLog: Bool
    /// It was found as one that waits for the end of a window.
    var isHeld: Bool
    var cell: UInt16

    var lastSequence: UInt64 { firstSequence + UInt64(count) - 1 }
}

/// Looks for frames on every page, whatever the tree above it says: interior pages, the schema and the first page may be
/// gone. A frame is a row of the table's shape whose header and records decode as the sync protocol has it and agree
/// with the row.
struct FrameScan {
    private(set) var frames: [FoundFrame] = []
    private(set) var epochs: [Epoch] = []
    /// The row in the table `epoch` that the frames of each name.
    private(set) var epochRows: [Int64] = []
    /// By shape, for a file whose tables cannot be found.
    private(set) var storedEpochs: [Epoch: StoredEpoch] = [:]
    private(set) var progress: StoredProgress?
    /// Pages that the disk cannot read.
    private(set) var unreadablePages = 0

    private let image: PageImage
    private let columns: FrameColumns
    /// Rows of `epoch` and `progress` have checksums.
    private let areRowsProven: Bool
    private var ordinals: [Epoch: Int32] = [:]

    init(_ image: PageImage, columns: FrameColumns, areRowsProven: Bool) {
        self.areRowsProven = areRowsProven
        self.image = image
        self.columns = columns
        for number in stride(from: UInt32(1), through: image.pageCount, by: 1) {
            guard let place = image.place(of: number) else { continue }
            scan(place, isFirst: number == 1, isDoubtful: false)
        }
        for place in image.doubtful { scan(place, isFirst: false, isDoubtful: true) }
    }

    private mutating func scan(_ place: PageImage.Place, isFirst: Bool, isDoubtful: Bool) {
        guard let bytes = image.bytes(at: place) else {
            unreadablePages += 1
            return
        }
        guard let page = TreePage(bytes, isFirst: isFirst), page.kind == .tableLeaf else { return }
        for index in 0..<page.cellCount {
            guard let cell = page.cell(index), let payload = cell.payload else { continue }
            if let row = columns.row(payload, id: cell.rowID, in: bytes, of: image, isProofNeeded: isDoubtful) {
                add(row, at: place, cell: index)
            } else if !isDoubtful, !payload.isSpilled {
                addTableRow(payload, row: cell.rowID, in: bytes)
            }
        }
    }

    private mutating func add(_ row: FrameColumns.Row, at place: PageImage.Place, cell: Int) {
        let frame = row.frame
        var ordinal = ordinals[frame.epoch]
        if ordinal == nil {
            guard epochs.count < Int(Int32.max) else { return }
            ordinal = Int32(epochs.count)
            ordinals[frame.epoch] = ordinal
            epochs.append(frame.epoch)
            epochRows.append(row.epochRow)
        }
        frames.append(
            FoundFrame(
                epoch: ordinal!, count: UInt32(row.count), firstSequence: row.firstSequence, id: row.id,
                totalMessages: row.totalMessages, offset: place.offset, isInLog: place.isInLog, isHeld: row.isHeld,
                cell: UInt16(cell)))
    }

    /// A row of `epoch` or `progress`, known by its shape.
    private mutating func addTableRow(_ payload: TreePage.Payload, row: Int64, in page: [UInt8]) {
        guard let header = RecordHeader(page[payload.local], recordBytes: payload.bytes), header.columns.count >= 6,
            header.columns[0] == .null
        else { return }
        let values = header.values(of: Array(page[payload.local]))
        guard !areRowsProven || RowChecksum.isRight(values, rowID: row) else { return }
        if let (epoch, stored) = StoredEpoch.read(row: row, values) {
            if stored.lastSequence >= storedEpochs[epoch]?.lastSequence ?? 0 { storedEpochs[epoch] = stored }
        } else if let stored = StoredProgress(row: row, values),
            stored.answeredFrame >= progress?.answeredFrame ?? 0
        {
            progress = stored
        }
    }

    /// The bytes of a frame that was found.
    func row(of frame: FoundFrame) -> FrameColumns.Row? {
        guard let bytes = image.bytes(at: PageImage.Place(isInLog: frame.isInLog, offset: frame.offset)),
            let page = TreePage(bytes, isFirst: false), let cell = page.cell(Int(frame.cell)),
            let payload = cell.payload
        else { return nil }
        return columns.row(payload, id: cell.rowID, in: bytes, of: image, isProofNeeded: false)
    }
}

extension TreePage.Payload {
    var isSpilled: Bool { local.count < bytes }
}

extension StoredEpoch {
    /// id, epoch, last_sequence, first_frame, last_frame, closed, reported.
    static func read(row: Int64, _ values: [StoredValue]) -> (Epoch, StoredEpoch)? {
        guard values.count >= 7, case .blob(let blob) = values[1], let epoch = Epoch(blob: blob),
            1...Int64(UInt32.max) ~= row,
            let lastSequence = values[2].integer, SyncLimits.numbers ~= UInt64(clamping: lastSequence),
            let firstFrame = values[3].integer, let lastFrame = values[4].integer, 0 < firstFrame,
            firstFrame - 1 <= lastFrame, let closed = values[5].integer, 0...1 ~= closed,
            let reported = values[6].integer, 0...1 ~= reported
        else { return nil }
        return (
            epoch,
            StoredEpoch(
                row: row, lastSequence: UInt64(lastSequence), lastFrame: lastFrame, isReported: reported == 1,
                hasNoFrames: lastFrame < firstFrame)
        )
    }
}

extension StoredProgress {
    /// id, gateway, answered_frame, answered_messages, answered_bytes, last_cut.
    init?(row: Int64, _ values: [StoredValue]) {
        guard values.count >= 6, row == 1, let gateway = values[1].string, Identifier.isValid(gateway),
            let frame = values[2].integer, let messages = values[3].integer, let bytes = values[4].integer,
            let cut = values[5].integer, 0 <= frame, frame <= messages, messages <= bytes, 0 <= cut
        else { return nil }
        self.init(
            gateway: gateway, answeredFrame: frame, answeredMessages: messages, lastCut: cut,
            reportedLedger: values.count > 10 ? values[10].integer : nil,
            carriedLedger: values.count > 11 ? values[11].integer : nil)
    }
}
