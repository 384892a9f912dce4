import SyncModel

/// What the audit asks of the buffer.
extension BufferStore {
    /// Frames of an epoch follow each other; what is left of it are the runs that are not answered.
    func accounting() throws(SQLiteError) -> GatewayAccounting {
        var entries: [GatewayAccounting.EpochEntry] = []
        let held = try heldSequences()
        let statement = statements.epochs
        defer { statement.reset() }
        while try statement.step() {
            guard let epoch = Epoch(blob: statement.blob(0)) else {
                throw inconsistency("an epoch is not 16 bytes long")
            }
            let lastSequence = UInt64(bitPattern: statement.integer(1))
            let frames = (first: statement.integer(2), last: statement.integer(3))
            var buffered = held[epoch] ?? IntervalSet(maximumRanges: .max)
            for gap in frames.first <= frames.last ? answered.gaps(in: frames.first...frames.last) : [] {
                // What was dropped in between is in the ledger as well, which does no harm.
                // Cannot throw: sequences fit, and the number of ranges is not bounded.
                if let run = try sequences(of: gap) { _ = try? buffered.insert(run.first...run.last) }
            }
            entries.append(.init(epoch: epoch, lastSequence: lastSequence, buffered: buffered))
        }
        let waiting = waiting
        return GatewayAccounting(
            gateway: gateway, epochs: entries,
            bufferedMessages: UInt64(waiting.live.messages + waiting.backlog.messages)
                + UInt64(drops.held.totals.messages),
            bufferedBytes: UInt64(waiting.live.bytes + waiting.backlog.bytes) + UInt64(drops.held.totals.bytes))
    }

    /// Of the first and the last frame that is there.
    private func sequences(of frames: ClosedRange<Int64>) throws(SQLiteError) -> (first: UInt64, last: UInt64)? {
        let statement = statements.sequences
        defer { statement.reset() }
        statement.bind(1, frames.lowerBound)
        statement.bind(2, frames.upperBound)
        guard try statement.step(), !statement.isNull(0) else { return nil }
        return (UInt64(bitPattern: statement.integer(0)), UInt64(bitPattern: statement.integer(1)))
    }
}
