import NIOConcurrencyHelpers

/// What is done between commits, a slice at a time: deleting answered frames and copying the write-ahead log into the
/// database file.
extension BufferStore {
    /// Seconds after which the thread does maintenance when nothing is asked of it; `nil`: there is none to do.
    var idleTime: Double? {
        guard failure == nil else { return nil }
        if deleted.frame < answered.frame || mustDrop { return 0 }
        if connection.walPages >= configuration.idleCheckpointPages || givesSpaceBack { return configuration.idleTime }
        // A full buffer gets no commits that would look whether there is room again.
        return shared.fill.withLockedValue { $0.isFull } ? 1 : nil
    }

    private var mustDrop: Bool { configuration.dropsOldest && drops.excess > 0 && !drops.isExhausted }

    /// After each turn. A log that was let grow is copied now, even when the next commit waits already.
    func maintain() {
        maintainLog()
        if givesSpaceBack, Clock.monotonic() >= nextReturn { giveSpaceBack() }
    }

    private func maintainLog() {
        if connection.walPages >= configuration.checkpointPages { checkpoint() }
    }

    func maintainIdle() {
        if deleted.frame < answered.frame {
            if case .success(let end) = attempt({ () throws(SQLiteError) in
                try transaction { () throws(SQLiteError) in try deleteSlice() }
            }) {
                deleted = end
            }
            maintainLog()
        } else if mustDrop {
            dropSlice()
        } else if givesSpaceBack {
            giveSpaceBack()
        } else if connection.walPages >= configuration.idleCheckpointPages {
            checkpoint()
        }
        if shared.fill.withLockedValue({ $0.isFull }) {
            if configuration.dropsOldest { dropSlice() }
            _ = attempt { () throws(SQLiteError) in try refreshFill(committed: false) }
        }
    }

    private func dropSlice() {
        let result = attempt { () throws(SQLiteError) in
            var drops = drops
            try transaction { () throws(SQLiteError) in
                try makeRoom(for: 0, &drops)
                if drops.messages != self.drops.messages { try saveDrops(drops) }
            }
            return drops
        }
        // What cannot be dropped now is tried again when the disk is next looked at.
        if case .success(let drops) = result { self.drops = drops } else { drops.isExhausted = true }
    }

    /// Free pages go back to the file system, from the file's end on. Some stay: the next messages need them.
    private var givesSpaceBack: Bool {
        disk.freeBytes > (isGivingSpaceBack ? Self.reuseReserve : 4 * Self.reuseReserve)
            && deleted.frame == answered.frame
    }

    private func giveSpaceBack() {
        isGivingSpaceBack = true
        nextReturn = Clock.monotonic() + Self.returnInterval
        let result = attempt { () throws(SQLiteError) in
            try connection.execute("PRAGMA incremental_vacuum(\(Self.returnedPages))")
            let before = disk.freeBytes
            try lookAtPages()
            // A file that was made without the means for it, or nothing left to move.
            return disk.freeBytes < before
        }
        if result != .success(true) || !givesSpaceBack {
            isGivingSpaceBack = false
            if result != .success(true) { disk.freeBytes = 0 }
        }
        maintainLog()
    }

    /// Pages that one slice gives back, and microseconds between slices while commits come.
    private static let returnedPages = 512
    private static let returnInterval: Int64 = 100_000

    /// Deletes answered frames inside the caller's transaction and tells up to where; `deleted` is the caller's to set
    /// when that transaction is committed.
    ///
    /// - Parameter share: divides the slice, for a transaction that somebody waits for.
    func deleteSlice(share: Int = 1) throws(SQLiteError) -> FramePosition {
        guard deleted.frame < answered.frame else { return deleted }
        let slice = configuration.deletionSlice
        let end = try endOfRun(
            after: deleted, through: answered.frame, maximumFrames: Int64(slice.frames / share),
            maximumBytes: Int64(slice.bytes / share))
        // What was left of the answered frames was dropped before.
        guard end.frame > deleted.frame else { return answered }
        statements.deleteFrames.bind(1, deleted.frame)
        statements.deleteFrames.bind(2, end.frame)
        try statements.deleteFrames.run()
        return end
    }

    /// A checkpoint that finds no room on the disk leaves the log as it is, which loses nothing; it is tried again
    /// after a second.
    private func checkpoint() {
        let now = Clock.monotonic()
        guard now >= nextCheckpoint else { return }
        let result = attempt { () throws(SQLiteError) in try connection.checkpoint() }
        if case .failure = result { nextCheckpoint = now + 1_000_000 }
    }
}
