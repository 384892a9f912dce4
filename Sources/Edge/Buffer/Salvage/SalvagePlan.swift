import SyncModel

/// What goes into the new file: the epochs in their order, and of each the frames that are there and not answered.
struct SalvagePlan {
    struct EpochPlan {
        var epoch: Epoch
        /// In the table `epoch`.
        var row: Int64
        var lastSequence: UInt64
        var isReported: Bool
        /// Indices into the scan's frames, by their sequences.
        var frames: [Int32] = []
        /// Sequences that are answered or in the ledger.
        var settled = IntervalSet(maximumRanges: .max)
        /// Sequences that the file never had: an earlier salvage left them out.
        var absent = IntervalSet(maximumRanges: .max)
        var isFromStart = false
        /// Any of the frames that were found, answered or not.
        fileprivate var sample: Int32?
    }

    private(set) var epochs: [EpochPlan] = []
    /// Found frames that are not carried over because they are answered.
    private(set) var answeredFrames = 0

    /// - Parameters:
    ///   - ledger: sequences that lines name, by the row of their epoch.
    ///   - isLedgerWhole: see `SalvageSource`.
    ///   - end: what was acknowledged, if that is known from elsewhere than the file.
    init(
        _ source: SalvageSource, ledger: [Int64: [ClosedRange<UInt64>]], isLedgerWhole: Bool, end: KnownEnd?
    ) {
        collectEpochs(source, end)
        collectFrames(source, isLedgerWhole: isLedgerWhole)
        guard isLedgerWhole else {
            settleByLinesAlone(ledger)
            return
        }
        settle(source, ledger: ledger)
    }

    private mutating func collectEpochs(_ source: SalvageSource, _ end: KnownEnd?) {
        // Two of a row are possible where wrong bits are.
        var taken: Set<Int64> = []
        func free(_ row: Int64) -> Int64 {
            var row = row
            while !taken.insert(row).inserted { row += 1 }
            return row
        }
        for (epoch, stored) in source.epochs.sorted(by: { ($0.value.row, $0.key) < ($1.value.row, $1.key) }) {
            epochs.append(
                EpochPlan(
                    epoch: epoch, row: free(stored.row), lastSequence: stored.lastSequence,
                    isReported: stored.isReported))
        }
        for (epoch, row) in zip(source.scan.epochs, source.scan.epochRows) where source.epochs[epoch] == nil {
            epochs.append(EpochPlan(epoch: epoch, row: free(row), lastSequence: 0, isReported: false))
        }
        if let end {
            if !epochs.contains(where: { $0.epoch == end.epoch }) {
                let row = free((taken.max() ?? 0) + 1)
                epochs.append(EpochPlan(epoch: end.epoch, row: row, lastSequence: 0, isReported: false))
            }
            for index in epochs.indices
            where epochs[index].epoch == end.epoch && epochs[index].lastSequence < end.lastSequence {
                epochs[index].lastSequence = end.lastSequence
                epochs[index].isReported = false
            }
        }
        // Epochs begin one after the other, and so do their rows.
        epochs.sort { ($0.row, $0.epoch) < ($1.row, $1.epoch) }
        for index in epochs.indices {
            for range in source.absent[epochs[index].row] ?? [] { Self.insert(range, into: &epochs[index].absent) }
        }
    }

    /// - Parameter isLedgerWhole: where it is not, what counts as answered may have been dropped or aggregated, and its line
    ///   is lost: what is found of that is sent again under its identity, and the cloud drops what it has.
    private mutating func collectFrames(_ source: SalvageSource, isLedgerWhole: Bool) {
        let all = source.scan.frames
        var places: [Epoch: Int] = [:]
        for (index, plan) in epochs.enumerated() { places[plan.epoch] = index }
        let places32 = source.scan.epochs.map { places[$0] ?? 0 }
        // A row that is on several pages is the same everywhere; the sort keeps the one that was found first.
        let order = all.indices.map(Int32.init).sorted {
            let (a, b) = (all[Int($0)], all[Int($1)])
            return (places32[Int(a.epoch)], a.firstSequence, $0) < (places32[Int(b.epoch)], b.firstSequence, $1)
        }
        var last: (epoch: Int32, sequence: UInt64)?
        for index in order {
            let frame = all[Int(index)]
            if let last, last.epoch == frame.epoch, frame.firstSequence <= last.sequence { continue }
            last = (frame.epoch, frame.lastSequence)
            let place = places32[Int(frame.epoch)]
            if epochs[place].lastSequence < frame.lastSequence {
                epochs[place].lastSequence = frame.lastSequence
                epochs[place].isReported = false
            }
            epochs[place].sample = index
            if isLedgerWhole, source.isAnswered(frame) {
                answeredFrames += 1
                Self.insert(frame.firstSequence...frame.lastSequence, into: &epochs[place].settled)
            } else {
                epochs[place].frames.append(index)
            }
        }
    }

    /// Answers pass over what was dropped or aggregated, and the line that said so may be lost. Lines travel in the lane live
    /// alone while the answers of the backlog go on, drops go by priority, and a window ends when it ends: a lost line may be
    /// of any epoch.
    private mutating func settleByLinesAlone(_ ledger: [Int64: [ClosedRange<UInt64>]]) {
        for index in epochs.indices {
            for range in ledger[epochs[index].row] ?? [] { Self.insert(range, into: &epochs[index].settled) }
        }
    }

    /// All that answers have passed over is a row in the cloud or in a line that was read.
    private mutating func settle(_ source: SalvageSource, ledger: [Int64: [ClosedRange<UInt64>]]) {
        let offsets = self.offsets(source)
        for index in epochs.indices where epochs[index].lastSequence > 0 {
            let plan = epochs[index]
            let stored = source.epochs[plan.epoch]
            if stored?.hasNoFrames == true
                || source.progress.map({ $0.answeredFrame >= stored?.lastFrame ?? .max }) == true
            {
                // More than the file knows of was acknowledged, and is gone.
                let last = min(stored?.lastSequence ?? .max, plan.lastSequence)
                settle(1...last, of: index, but: source.held[plan.row])
                continue
            }
            var isAnswered = source.progress == nil || offsets[index] == nil
            for range in offsets[index].map({ plan.sequences(of: source.answeredMessages, offset: $0) }) ?? [] {
                isAnswered = true
                settle(range, of: index, but: source.held[plan.row])
            }
            epochs[index].isFromStart = !isAnswered && plan.absent.isEmpty
            let spent = source.spent[plan.row] ?? []
            for range in (ledger[plan.row] ?? []) + spent + plan.absent.ranges {
                Self.insert(range, into: &epochs[index].settled)
            }
        }
    }

    /// What the ranks of an epoch's messages are short of the totals over the life of the file: the same for all its
    /// frames, since each message counts once. An epoch without a frame begins where the one before ends, or ends where
    /// the one after begins.
    private func offsets(_ source: SalvageSource) -> [Int64?] {
        var offsets: [Int64?] = epochs.map { plan in
            plan.sample.map { index in
                let frame = source.scan.frames[Int(index)]
                return frame.totalMessages - plan.rank(of: frame.lastSequence)
            }
        }
        func length(_ index: Int) -> Int64 {
            source.epochs[epochs[index].epoch]?.hasNoFrames == true
                ? 0 : epochs[index].rank(of: epochs[index].lastSequence)
        }
        for index in offsets.indices.dropFirst() where offsets[index] == nil {
            offsets[index] = offsets[index - 1].map { $0 &+ length(index - 1) }
        }
        for index in offsets.indices.dropLast().reversed() where offsets[index] == nil {
            offsets[index] = offsets[index + 1].map { $0 &- length(index) }
        }
        return offsets
    }

    /// - Parameter held: what an answer passes over while it waits for the end of a window.
    private mutating func settle(_ range: ClosedRange<UInt64>, of epoch: Int, but held: IntervalSet?) {
        for part in held?.gaps(in: range) ?? [range] { Self.insert(part, into: &epochs[epoch].settled) }
    }

    private static func insert(_ range: ClosedRange<UInt64>, into set: inout IntervalSet) {
        // Cannot throw: sequences were checked when they were read, and the number of ranges is not bounded.
        _ = try? set.insert(range)
    }
}

extension SalvagePlan.EpochPlan {
    /// The place of a sequence among those that the file had; 1 is the first.
    fileprivate func rank(of sequence: UInt64) -> Int64 {
        let before = absent.ranges.reduce(UInt64(0)) { sum, range in
            range.lowerBound > sequence ? sum : sum + (min(range.upperBound, sequence) - range.lowerBound + 1)
        }
        return Int64(clamping: sequence - min(sequence, before))
    }

    /// The sequences of messages whose totals lie in `totals`.
    fileprivate func sequences(of totals: [ClosedRange<Int64>], offset: Int64) -> [ClosedRange<UInt64>] {
        var found: [ClosedRange<UInt64>] = []
        var rank: Int64 = 0
        for had in absent.gaps(in: 1...lastSequence) {
            let length = Int64(clamping: had.upperBound - had.lowerBound + 1)
            for range in totals {
                let first = max(rank + 1, range.lowerBound.subtractingSaturated(offset))
                let last = min(rank + length, range.upperBound.subtractingSaturated(offset))
                guard first <= last else { continue }
                found.append(
                    (had.lowerBound + UInt64(first - rank - 1))...(had.lowerBound + UInt64(last - rank - 1)))
            }
            rank += length
        }
        return found
    }
}

extension Int64 {
    fileprivate func subtractingSaturated(_ other: Int64) -> Int64 {
        let (difference, isTooLarge) = subtractingReportingOverflow(other)
        return isTooLarge ? (other > 0 ? .min : .max) : difference
    }
}
