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
        if deleted.frame < answered.frame { return 0 }
        if connection.walPages >= configuration.idleCheckpointPages { return configuration.idleTime }
        // A full buffer gets no commits that would look whether there is room again.
        return shared.fill.withLockedValue { $0.isFull } ? 1 : nil
    }

    /// After each turn. A log that was let grow is copied now, even when the next commit waits already.
    func maintain() {
        if connection.walPages >= configuration.checkpointPages { checkpoint() }
    }

    func maintainIdle() {
        if deleted.frame < answered.frame {
            if case .success(let end) = attempt({ () throws(SQLiteError) in
                try transaction { () throws(SQLiteError) in try deleteSlice() }
            }) {
                deleted = end
            }
            maintain()
        } else if connection.walPages >= configuration.idleCheckpointPages {
            checkpoint()
        }
        if shared.fill.withLockedValue({ $0.isFull }) {
            _ = attempt { () throws(SQLiteError) in try refreshFill(committed: false) }
        }
    }

    /// Deletes answered frames inside the caller's transaction and tells up to where; `deleted` is the caller's to set
    /// when that transaction is committed.
    ///
    /// - Parameter share: divides the slice, for a transaction that somebody waits for.
    func deleteSlice(share: Int = 1) throws(SQLiteError) -> FramePosition {
        guard deleted.frame < answered.frame else { return deleted }
        let slice = configuration.deletionSlice
        let end = try endOfRun(
            after: deleted, through: min(answered.frame, deleted.frame + Int64(slice.frames / share)),
            maximumBytes: Int64(slice.bytes / share), maximumMessages: .max)
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
