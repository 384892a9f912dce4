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
                ? [nil]
                : (TableCopy.sessionTables + [
                    "progress", "epoch", "ledger", "cut", "held_mark", "local_rule", "device_number",
                ]).map(
                    Optional.some)
            for table in tables {
                let answer = try quickCheck(table)
                guard answer == "ok" else { throw inconsistency(answer ?? "quick_check said nothing") }
            }
            if size <= Self.checkedBytes { try checkDrops() }
            if let table = try RowChecksum.damagedTable(in: connection, hasFrames: size <= Self.checkedBytes) {
                throw inconsistency("a row of the table \(table) is not what was written")
            }
        }.get()
    }

    /// A log that has lost its end, or all of it, looks like one that was never longer.
    func check(_ formerEnd: KnownEnd) throws(BufferError) {
        try attempt { () throws(SQLiteError) in
            let statement = try connection.prepare("SELECT last_sequence FROM epoch WHERE epoch = ?")
            defer { statement.finalize() }
            statement.bind(1, formerEnd.epoch.blob)
            let last = try statement.step() ? UInt64(bitPattern: statement.integer(0)) : 0
            guard last >= formerEnd.lastSequence else {
                throw inconsistency(
                    "its end is missing: message \(formerEnd.lastSequence) was acknowledged, and it ends at \(last)")
            }
        }.get()
    }

    /// What is gone of the run of all frames is what was dropped or is held.
    private func checkDrops() throws(SQLiteError) {
        let unanswered = answered.unanswered(through: last)
        var present = try present(after: answered.prefix.frame, through: last.frame)
        for run in answered.runs {
            present = try present - self.present(after: run.start.frame, through: run.end.frame)
        }
        guard unanswered - present == drops.all else {
            throw inconsistency(
                "\((unanswered - present).messages) messages have no frame, and \(drops.all.messages) were dropped")
        }
    }

    /// A page that could not be read stands in the answer like any other damage.
    private func quickCheck(_ table: String?) throws(SQLiteError) -> String? {
        try configuration.readingAgain { () throws(SQLiteError) in
            try connection.text("PRAGMA quick_check(\(table.map { "'\($0)'" } ?? "1"))")
        } while: { answer in
            ["get page", "get the page", "read ptrmap"].contains { (try? answer.get())??.contains($0) == true }
        }
    }

    /// Seconds after which the thread does maintenance when nothing is asked of it; `nil`: there is none to do.
    var idleTime: Double? {
        guard failure == nil else { return nil }
        if isDeletionDue || mustDrop { return time(to: nextMaintenance) }
        if let time = timeToLocalWork, time <= 0 { return 0 }
        if hasSpaceToGive { return max(configuration.idleTime, time(to: nextMaintenance)) }
        if needsCheckpoint { return max(configuration.idleTime, time(to: nextCheckpoint)) }
        // A full buffer gets no commits that would look whether there is room again.
        return shared.fill.withLockedValue { $0.isFull }
            ? 1 : [timeToStamp, timeToAge, timeToLocalWork].compactMap { $0 }.min()
    }

    /// Seconds.
    private func time(to time: Int64) -> Double { max(0, Double(time - monotonicTime) / 1_000_000) }

    private var needsCheckpoint: Bool { isCheckpointDue || connection.walPages >= configuration.idleCheckpointPages }

    private var mustDrop: Bool { configuration.dropsOldest && drops.excess > 0 && !drops.isExhausted }

    /// After each turn. A log that was let grow is copied now, even when the next commit waits already.
    func maintain() {
        maintainLog()
        keepAge()
        workLocally()
        writeNumbersDown()
        if hasSpaceToGive, monotonicTime >= max(nextReturn, nextMaintenance) { giveSpaceBack() }
    }

    private func maintainLog() {
        if connection.walPages >= configuration.checkpointPages { checkpoint() }
    }

    func maintainIdle() {
        if isDeletionDue || mustDrop || hasSpaceToGive {
            if monotonicTime >= nextMaintenance { makeSpace() }
        } else if needsCheckpoint {
            checkpoint()
        }
        if isStampDue { stamp() }
        keepAge()
        workLocally()
        if shared.fill.withLockedValue({ $0.isFull }) {
            if configuration.dropsOldest { dropSlice() }
            _ = attempt { () throws(SQLiteError) in try refreshFill(committed: false) }
        }
    }

    private func makeSpace() {
        if isDeletionDue {
            let result = attempt { () throws(SQLiteError) in
                try transaction { () throws(SQLiteError) in try deleteSlice() }
            }
            if case .success(let isMoreDue) = result {
                isDeletionDue = isMoreDue
                // What is free now may be given back.
                if !isMoreDue { _ = attempt { () throws(SQLiteError) in try lookAtPages() } }
            } else {
                pause()
            }
            maintainLog()
        } else if mustDrop {
            dropSlice()
        } else {
            giveSpaceBack()
        }
    }

    /// What found no room is tried again after a second: others may have made some.
    func pause() { nextMaintenance = monotonicTime + Self.pauseTime }

    private func dropSlice() {
        let result = attempt { () throws(SQLiteError) in
            var drops = drops
            try transaction { () throws(SQLiteError) in
                try makeRoom(for: 0, &drops)
                if drops.all != self.drops.all { try saveDrops(drops) }
            }
            return drops
        }
        guard case .success(let drops) = result else {
            // Tried again when the disk is next looked at.
            self.drops.isExhausted = true
            return
        }
        let hasLines = drops.all != self.drops.all || drops.held != self.drops.held
        adopt(drops)
        if hasLines { shared.announce() }
    }

    /// Free pages go back to the file system, from the file's end on. Some stay: the next messages need them.
    private var hasSpaceToGive: Bool {
        disk.freeBytes > (isGivingSpaceBack ? 1 : 4) * configuration.keptFreeBytes
            && !isDeletionDue
    }

    private func giveSpaceBack() {
        isGivingSpaceBack = true
        nextReturn = monotonicTime + Self.returnInterval
        let result = attempt(mayUseReserve: false) { () throws(SQLiteError) in
            try connection.execute("PRAGMA incremental_vacuum(\(Self.returnedPages))")
            let before = disk.freeBytes
            try lookAtPages()
            // A file that was made without the means for it, or nothing left to move.
            return disk.freeBytes < before
        }
        switch result {
        case .success(true) where hasSpaceToGive: maintainLog()
        case .success(let hasMoved):
            isGivingSpaceBack = false
            if !hasMoved { disk.freeBytes = 0 }
            isCheckpointDue = true
            checkpoint()
        case .failure:
            pause()
            isCheckpointDue = true
            checkpoint()
        }
    }

    /// Pages that one slice gives back, and microseconds between slices while commits come.
    private static let returnedPages = 512
    private static let returnInterval: Int64 = 100_000
    /// Microseconds.
    private static let pauseTime: Int64 = 1_000_000

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
        let now = monotonicTime
        guard now >= nextCheckpoint else { return }
        let result = attempt(mayUseReserve: false) { () throws(SQLiteError) in try connection.checkpoint() }
        if case .failure = result {
            nextCheckpoint = now + Self.pauseTime
        } else {
            isCheckpointDue = false
        }
    }
}
