import NIOConcurrencyHelpers

/// What is done between commits, a slice at a time: deleting answered frames and copying the write-ahead log into the
/// database file.
extension BufferStore {
    /// A file up to this size is checked whole when it is opened; of a larger one the tables beside the frames, which
    /// are checked when they are read.
    private static let checkedBytes: Int64 = 64 * 1024 * 1024

    /// Empties the log first, so that all of it is from now on this process's: `LogScan` could take what a crash had
    /// left beyond its end for damage.
    func checkStructure() throws(BufferError) {
        // A disk without room leaves the log as it is.
        _ = attempt { () throws(SQLiteError) in try connection.checkpoint(truncate: true) }
        if let failure { throw failure }
        try attempt { () throws(SQLiteError) in
            let size = try statements.pageSize.value() * statements.pages.value()
            let tables =
                size <= Self.checkedBytes
                ? [nil] : (TableCopy.sessionTables + ["progress", "epoch", "ledger", "cut"]).map(Optional.some)
            for table in tables {
                let answer = try connection.text("PRAGMA quick_check(\(table.map { "'\($0)'" } ?? "1"))")
                guard answer == "ok" else { throw inconsistency(answer ?? "quick_check said nothing") }
            }
        }.get()
    }

    /// Seconds after which the thread does maintenance when nothing is asked of it; `nil`: there is none to do.
    var idleTime: Double? {
        guard failure == nil else { return nil }
        if isDeletionDue || mustDrop { return 0 }
        if connection.walPages >= configuration.idleCheckpointPages || givesSpaceBack { return configuration.idleTime }
        // A full buffer gets no commits that would look whether there is room again.
        return shared.fill.withLockedValue { $0.isFull } ? 1 : [timeToStamp, timeToAge].compactMap { $0 }.min()
    }

    private var mustDrop: Bool { configuration.dropsOldest && drops.excess > 0 && !drops.isExhausted }

    /// After each turn. A log that was let grow is copied now, even when the next commit waits already.
    func maintain() {
        maintainLog()
        keepAge()
        if givesSpaceBack, Clock.monotonic() >= nextReturn { giveSpaceBack() }
    }

    private func maintainLog() {
        if connection.walPages >= configuration.checkpointPages { checkpoint() }
    }

    func maintainIdle() {
        if isDeletionDue {
            if case .success(let isMoreDue) = attempt({ () throws(SQLiteError) in
                try transaction { () throws(SQLiteError) in try deleteSlice() }
            }) {
                isDeletionDue = isMoreDue
                // What is free now may be given back.
                if !isMoreDue { _ = attempt { () throws(SQLiteError) in try lookAtPages() } }
            }
            maintainLog()
        } else if mustDrop {
            dropSlice()
        } else if givesSpaceBack {
            giveSpaceBack()
        } else if connection.walPages >= configuration.idleCheckpointPages {
            checkpoint()
        }
        if isStampDue { stamp() }
        keepAge()
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
                if drops.all != self.drops.all { try saveDrops(drops) }
            }
            return drops
        }
        // What cannot be dropped now is tried again when the disk is next looked at.
        if case .success(let drops) = result { self.drops = drops } else { drops.isExhausted = true }
    }

    /// Free pages go back to the file system, from the file's end on. Some stay: the next messages need them.
    private var givesSpaceBack: Bool {
        disk.freeBytes > (isGivingSpaceBack ? 1 : 4) * configuration.keptFreeBytes
            && !isDeletionDue
    }

    private func giveSpaceBack() {
        isGivingSpaceBack = true
        nextReturn = Clock.monotonic() + Self.returnInterval
        let result = attempt(mayUseReserve: false) { () throws(SQLiteError) in
            try connection.execute("PRAGMA incremental_vacuum(\(Self.returnedPages))")
            let before = disk.freeBytes
            try lookAtPages()
            // A file that was made without the means for it, or nothing left to move.
            return disk.freeBytes < before
        }
        if result != .success(true) || !givesSpaceBack {
            isGivingSpaceBack = false
            // The file shrinks when the log is copied.
            checkpoint()
            if result != .success(true) { disk.freeBytes = 0 }
        }
        maintainLog()
    }

    /// Pages that one slice gives back, and microseconds between slices while commits come.
    private static let returnedPages = 512
    private static let returnInterval: Int64 = 100_000

    /// Deletes answered frames inside the caller's transaction and tells whether more may be left; `isDeletionDue` is the
    /// caller's to set when that transaction is committed. At least one row goes, however large.
    ///
    /// - Parameter share: divides the slice, for a transaction that somebody waits for.
    func deleteSlice(share: Int = 1) throws(SQLiteError) -> Bool {
        guard isDeletionDue else { return false }
        var rows = configuration.deletionSlice.frames / share
        var bytes = Int64(configuration.deletionSlice.bytes / share)
        for stretch in answered.stretches {
            // Its beginning may be deleted already: the index leads to the first row that is left.
            let find = statements.answeredRows
            find.bind(1, stretch.lowerBound)
            find.bind(2, stretch.upperBound)
            find.bind(3, Int64(max(rows, 1)))
            var found: (first: Int64, last: Int64)?
            do {
                defer { find.reset() }
                while rows > 0, bytes > 0, try find.step() {
                    found = (found?.first ?? find.integer(0), find.integer(0))
                    rows -= 1
                    bytes -= find.integer(1)
                }
            }
            if let found {
                statements.deleteFrames.bind(1, found.first)
                statements.deleteFrames.bind(2, found.last)
                try statements.deleteFrames.run()
            }
            if rows <= 0 || bytes <= 0 { return true }
        }
        return false
    }

    /// A checkpoint that finds no room on the disk leaves the log as it is, which loses nothing; it is tried again
    /// after a second.
    private func checkpoint() {
        let now = Clock.monotonic()
        guard now >= nextCheckpoint else { return }
        let result = attempt(mayUseReserve: false) { () throws(SQLiteError) in try connection.checkpoint() }
        if case .failure = result { nextCheckpoint = now + 1_000_000 }
    }
}
