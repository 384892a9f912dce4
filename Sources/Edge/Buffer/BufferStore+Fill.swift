import NIOConcurrencyHelpers

/// What was last seen of the disk and of the file's pages.
struct DiskView {
    /// Microseconds on the monotonic clock.
    fileprivate var lookedAt: Int64?
    /// Less is free than the floor says, and the file has no room of its own.
    fileprivate(set) var isLow = false
    fileprivate(set) var usedBytes: Int64 = 0
    /// Of pages in the file that hold nothing.
    var freeBytes: Int64 = 0
    /// And told since the last one came.
    var areDeadLettersCounted = false
    fileprivate var oldest: (frame: Int64, time: Int64)?
}

/// How full the buffer is: its frames, its file and its disk.
extension BufferStore {
    /// Microseconds.
    private static let diskInterval: Int64 = 1_000_000
    /// What empty tables and a little session state take, beside the frames.
    private static let tableReserve: Int64 = 1024 * 1024
    /// Free pages inside the file of so many bytes count as room, however full the disk is.
    static let reuseReserve: Int64 = 4 * 1024 * 1024

    /// Also looks at the disk, once a second at most.
    func refreshFill(committed: Bool) throws(SQLiteError) {
        let now = monotonicTime
        if now - (disk.lookedAt ?? .min / 2) >= Self.diskInterval {
            disk.lookedAt = now
            try lookAtDisk()
        }
        let oldest = last.frame > answered.prefix.frame ? try timeOfOldest() : nil
        let waiting = waiting
        let held = LaneFill(messages: Int(drops.held.totals.messages), bytes: Int(drops.held.totals.bytes))
        let maximum = Int64(configuration.maximumBytes)
        let isOver =
            Int64(waiting.live.bytes + waiting.backlog.bytes + held.bytes) >= maximum
            || disk.usedBytes >= maximum + Self.tableReserve || disk.isLow
        let isFull = isOver && (!configuration.dropsOldest || drops.isExhausted)
        shared.fill.withLockedValue { fill in
            fill.bytes = waiting.live.bytes + waiting.backlog.bytes + held.bytes
            fill.messages = waiting.live.messages + waiting.backlog.messages + held.messages
            fill.backlog = waiting.backlog
            fill.held = held
            fill.maximumBytes = configuration.maximumBytes
            fill.isFull = isFull
            if committed { fill.lastCommit = Clock.wall() }
            fill.oldestFrame = oldest
        }
        let bound: BufferConcerns.Bound? = isFull ? (disk.isLow ? .disk : .configuredLimit) : nil
        shared.activity.concerns.withLockedValue { $0.bound = bound }
        // Whoever only looks into the file has no alarms.
        if epochRow != 0, !disk.areDeadLettersCounted { try countDeadLetters() }
        publishLocalWork()
    }

    func lookAtPages() throws(SQLiteError) {
        let pageSize = try statements.pageSize.value()
        disk.freeBytes = try statements.freePages.value() * pageSize
        disk.usedBytes = try statements.pages.value() * pageSize - disk.freeBytes
    }

    private func lookAtDisk() throws(SQLiteError) {
        if FileSystem.isElsewhere(configuration.path, than: fileIdentity) {
            throw inconsistency(
                "the file was moved or deleted under the daemon; put it back first, or what was in it is missing")
        }
        try lookAtPages()
        let percent = configuration.space.freePercent(configuration.path) ?? 100
        disk.isLow = percent < configuration.freeDiskFloor && disk.freeBytes < Self.reuseReserve
        if percent >= configuration.freeDiskFloor { reserve.hold() }
        // Frames that are answered and wait for their deletion make room by themselves.
        guard !isDeletionDue else { return }
        let tooLarge = disk.usedBytes - Int64(configuration.maximumBytes) - Self.tableReserve / 2
        drops.excess = max(0, tooLarge, disk.isLow ? 2 * Self.reuseReserve - disk.freeBytes : 0)
    }

    private func timeOfOldest() throws(SQLiteError) -> Int64? {
        if let oldest = disk.oldest, oldest.frame > answered.prefix.frame, drops.all.messages == 0 {
            return oldest.time
        }
        let statement = statements.firstPosition
        defer { statement.reset() }
        statement.bind(1, answered.gap(after: FramePosition()).start.frame)
        guard try statement.step() else { return nil }
        disk.oldest = (statement.integer(0), statement.integer(5))
        return disk.oldest?.time
    }
}
