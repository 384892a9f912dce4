import NIOCore
import SyncModel

/// All that can be read of a damaged buffer: what its tables say as far as they can be found, and the frames of all pages.
struct SalvageSource {
    /// By the epoch.
    private(set) var epochs: [Epoch: StoredEpoch] = [:]
    private(set) var progress: StoredProgress?
    /// Frames that were answered out of their order; ids and totals, both with their ends.
    private(set) var answeredRuns: [(frames: ClosedRange<Int64>, messages: ClosedRange<Int64>)] = []
    /// Sequences that an earlier salvage left out, by the row of their epoch.
    private(set) var absent: [Int64: [ClosedRange<UInt64>]] = [:]
    /// Frames that wait for the end of a window, and sequences of them and of those that are done with, by the row of their
    /// epoch; `nil` where it is not known which they are.
    private var heldFrames: Set<Int64>?
    private(set) var held: [Int64: IntervalSet] = [:]
    private(set) var spent: [Int64: [ClosedRange<UInt64>]] = [:]
    private let isSchemaWhole: Bool
    private var areEpochsWhole = false
    /// Of those that epochs know.
    private var lastFrame: Int64 = .max
    private(set) var tables: TableReader
    let scan: FrameScan

    init(_ image: PageImage, columns: FrameColumns) {
        tables = TableReader(image)
        scan = FrameScan(image, columns: columns, areRowsProven: tables.hasChecksums)
        let present = tables.tables
        isSchemaWhole =
            tables.failures == 0 && (!tables.hasChecksums || RowChecksum.tables.allSatisfy { present[$0] != nil })
        readEpochs()
        lastFrame = epochs.values.lazy.map(\.lastFrame).max() ?? .max
        readProgress()
        readAnsweredRuns()
        readAbsent()
        readHeld()
    }

    private mutating func readEpochs() {
        var found: [Epoch: StoredEpoch] = [:]
        let failures = tables.failures
        let isFound = tables.rows(of: "epoch") { row, values in
            if let (epoch, stored) = StoredEpoch.read(row: row, values) { found[epoch] = stored }
        }
        epochs = found
        areEpochsWhole = isFound && tables.failures == failures
        // Rows that no tree leads to may be other versions, or of epochs long gone: better than none.
        guard !areEpochsWhole else { return }
        for (epoch, stored) in scan.storedEpochs
        where stored.lastSequence > epochs[epoch]?.lastSequence ?? 0 {
            epochs[epoch] = stored
        }
    }

    private mutating func readProgress() {
        var found: StoredProgress?
        tables.rows(of: "progress") { row, values in found = StoredProgress(row: row, values) }
        progress = found ?? scan.progress
        // A wrong bit in this row would leave out what was never answered: the totals of the frames must agree.
        guard let progress else { return }
        let disagreeing = scan.frames.count { frame in
            frame.id <= progress.answeredFrame
                ? frame.totalMessages > progress.answeredMessages
                : frame.totalMessages - Int64(frame.count) < progress.answeredMessages
        }
        if disagreeing > 0 { self.progress = nil }
        gateway = progress.gateway
    }

    /// Whom the file belonged to, as far as it tells.
    private(set) var gateway: String?

    private mutating func readAnsweredRuns() {
        guard progress != nil else { return }
        var found: [(frames: ClosedRange<Int64>, messages: ClosedRange<Int64>)] = []
        // start_frame, start_messages, start_bytes, end_frame, end_messages: what is answered lies after the start.
        tables.rows(of: "answered_run") { row, values in
            guard values.count >= 6, let startMessages = values[1].integer, let endFrame = values[3].integer,
                let endMessages = values[4].integer, 0 <= row, row < endFrame, 0 <= startMessages,
                startMessages < endMessages, endMessages < .max
            else { return }
            found.append(((row + 1)...endFrame, (startMessages + 1)...endMessages))
        }
        answeredRuns = found
    }

    private mutating func readAbsent() {
        var found: [Int64: [ClosedRange<UInt64>]] = [:]
        tables.rows(of: "absent") { _, values in
            guard values.count >= 3, let epoch = values[0].integer, let first = values[1].integer,
                let last = values[2].integer, 0 < first, first <= last, last < .max
            else { return }
            found[epoch, default: []].append(UInt64(first)...UInt64(last))
        }
        absent = found
    }

    private mutating func readHeld() {
        var frames: Set<Int64> = []
        var held: [Int64: IntervalSet] = [:]
        var spent: [Int64: [ClosedRange<UInt64>]] = [:]
        let failures = tables.failures
        // queue, id, gateway_time, epoch, first_sequence, count: the key comes first.
        let isFound = tables.rows(of: "held_mark") { _, values in
            guard values.count >= 6, let queue = values[0].integer, let id = values[1].integer,
                let epoch = values[3].integer, let first = values[4].integer, let count = values[5].integer,
                0 < first, 0 < count, count <= Int64(UInt32.max), first < .max - count
            else { return }
            let range = UInt64(first)...UInt64(first + count - 1)
            guard queue > 0 else {
                spent[epoch, default: []].append(range)
                return
            }
            frames.insert(id)
            // Cannot throw: the sequences were checked, and the number of ranges is not bounded.
            _ = try? held[epoch, default: IntervalSet(maximumRanges: .max)].insert(range)
        }
        (self.held, self.spent) = (held, spent)
        // A mark that is lost must not lose its frame: then all that look like held ones count. Older layouts have no marks.
        let isWhole = isFound ? tables.failures == failures : isSchemaWhole
        heldFrames = isWhole ? frames : nil
    }

    /// Nothing in it is a buffer's.
    var isEmpty: Bool { scan.frames.isEmpty && epochs.isEmpty && progress == nil && gateway == nil }

    func isAnswered(_ frame: FoundFrame) -> Bool {
        // To the answers a held frame is one that is gone. What was aggregated may come back from an old page: its ledger
        // line and its row are one message for the cloud, whichever comes first. A frame that no epoch knows of yet is of a
        // commit that a power cut ended: its mark came with it.
        if frame.isHeld {
            guard let heldFrames, frame.id <= lastFrame else { return false }
            return !heldFrames.contains(frame.id)
        }
        guard let progress else { return false }
        return frame.id <= progress.answeredFrame || answeredRuns.contains { $0.frames ~= frame.id }
    }

    /// Whether all epochs were read, all lines that the cloud may not have, and all marks of what is held: then what answers
    /// have passed over, and has no frame, is a row in the cloud or in one of them. A ledger that never was used is whole; one that is not
    /// found, or whose pages may be older than the rest, tells nothing.
    ///
    /// - Parameters:
    ///   - ids: of the lines that were read.
    ///   - isReadable: nothing that the table's tree leads to was left out.
    mutating func isLedgerWhole(_ ids: [Int64], isReadable: Bool) -> Bool {
        guard isReadable, areEpochsWhole, heldFrames != nil, !tables.image.hasLostVersions,
            tables.tables["ledger"] != nil, tables.tables["sqlite_sequence"] != nil
        else { return false }
        var last: Int64 = 0
        let failures = tables.failures
        tables.rows(of: "sqlite_sequence") { _, values in
            if values.count >= 2, values[0].string == "ledger", let id = values[1].integer { last = max(last, id) }
        }
        guard tables.failures == failures else { return false }
        last = max(last, ids.max() ?? 0)
        guard last > 0 else { return true }
        guard let reported = progress?.reportedLedger, reported <= last else { return false }
        return ids.reduce(into: Set<Int64>()) { if $1 > reported { $0.insert($1) } }.count == last - reported
    }

    /// Totals of messages that are answered, over the life of the file.
    var answeredMessages: [ClosedRange<Int64>] {
        guard let progress else { return [] }
        return (progress.answeredMessages > 0 ? [1...progress.answeredMessages] : []) + answeredRuns.map(\.messages)
    }
}
