import SyncModel

extension Buffer: UplinkStore {
    package func nextCut(
        in lane: Lane, maximumBytes: Int, maximumMessages: Int
    ) async throws(BufferError) -> Cut? {
        try await perform { store throws(SQLiteError) in
            try store.nextCut(
                in: lane, maximumBytes: Int64(maximumBytes), maximumMessages: Int64(maximumMessages))
        }
    }

    package func startLive() async throws(BufferError) -> Bool {
        try await perform { store throws(SQLiteError) in try store.startLive() }
    }

    package func contents(
        of cut: Cut
    ) async throws(BufferError) -> (frames: [StoredFrame], accounts: [EpochAccount], ledger: [LedgerLine]) {
        let (accounts, ledger, buried) = try await perform { store throws(SQLiteError) in
            let (accounts, ledger) = try store.accountsAndLedger(of: cut)
            return (accounts, ledger, try store.buried(from: cut.firstFrame, through: cut.lastFrame))
        }
        // No more than the longest possible batch: each frame has a message.
        guard let accounts, let ledger else { throw .unknownCut(cut.id) }
        var frames: [StoredFrame] = []
        var next = cut.firstFrame
        let limit = configuration.readSlice
        while next <= cut.lastFrame {
            let first = next
            let slice = try await perform { store throws(SQLiteError) in
                try store.frames(from: first, through: cut.lastFrame, maximumBytes: limit)
            }
            for frame in slice.frames {
                guard let positions = buried[frame.id] else {
                    frames.append(frame)
                    continue
                }
                guard let rest = frame.without(positions) else {
                    throw .io("frame \(frame.id) of the buffer cannot be taken apart; it is not sent")
                }
                frames += rest
            }
            next = slice.last + 1
        }
        return (frames, accounts, ledger)
    }

    package func corrections(of cut: Cut) async throws(BufferError) -> [ClockCorrection] {
        try await perform { store throws(SQLiteError) in try store.corrections(of: cut) }
    }

    package func acknowledge(_ cut: Cut) async throws(BufferError) {
        let isKnown = try await perform { store throws(SQLiteError) in try store.acknowledge(cut) }
        guard isKnown else { throw .unknownCut(cut.id) }
    }

    package func bury(_ suspect: BatchSplit.Suspect, in cut: Cut) async throws(BufferError) -> Bool {
        let time = Clock.wall()
        let burial = try await perform { store throws(SQLiteError) in
            try store.bury(suspect, in: cut, time: time)
        }
        switch burial {
        case .done: return true
        case .gone: return false
        case .notInCut:
            throw .io("message \(suspect.piece.records.lowerBound) of frame \(suspect.piece.frame) is not in the batch")
        }
    }

    package func waiting() async -> WaitingData {
        let fill = fill()
        return WaitingData(
            live: LaneFill(
                messages: fill.messages - fill.backlog.messages - fill.held.messages,
                bytes: fill.bytes - fill.backlog.bytes - fill.held.bytes),
            backlog: fill.backlog)
    }

    package func dataAvailable() -> AsyncStream<Void> { shared.subscribe() }
}
