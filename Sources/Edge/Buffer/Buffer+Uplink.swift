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
        let (accounts, ledger) = try await perform { store throws(SQLiteError) in
            try store.accountsAndLedger(of: cut)
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
            frames += slice.frames
            next = slice.last + 1
        }
        return (frames, accounts, ledger)
    }

    package func acknowledge(_ cut: Cut) async throws(BufferError) {
        let isKnown = try await perform { store throws(SQLiteError) in try store.acknowledge(cut) }
        guard isKnown else { throw .unknownCut(cut.id) }
    }

    package func waiting() async -> WaitingData {
        let fill = fill()
        return WaitingData(
            live: LaneFill(
                messages: fill.messages - fill.backlog.messages, bytes: fill.bytes - fill.backlog.bytes),
            backlog: fill.backlog)
    }

    package func dataAvailable() -> AsyncStream<Void> { shared.subscribe() }
}
