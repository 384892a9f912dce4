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
    private(set) var tables: TableReader
    let scan: FrameScan

    init(_ image: PageImage, columns: FrameColumns) {
        scan = FrameScan(image, columns: columns)
        tables = TableReader(image)
        readEpochs()
        readProgress()
        readAnsweredRuns()
        readAbsent()
    }

    private mutating func readEpochs() {
        var found: [Epoch: StoredEpoch] = [:]
        let failures = tables.failures
        let isFound = tables.rows(of: "epoch") { row, values in
            if let (epoch, stored) = StoredEpoch.read(row: row, values) { found[epoch] = stored }
        }
        epochs = found
        // Rows that no tree leads to may be older versions, or of epochs long gone: better than none.
        guard !isFound || tables.failures > failures else { return }
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

    func isAnswered(_ frame: FoundFrame) -> Bool {
        guard let progress else { return false }
        return frame.id <= progress.answeredFrame || answeredRuns.contains { $0.frames ~= frame.id }
    }

    /// Totals of messages that are answered, over the life of the file.
    var answeredMessages: [ClosedRange<Int64>] {
        guard let progress else { return [] }
        return (progress.answeredMessages > 0 ? [1...progress.answeredMessages] : []) + answeredRuns.map(\.messages)
    }
}
