import Buffer
import Logging
import Operations

/// Tells the log of a buffer that is full and of messages that are dropped: when it begins, and not with every message.
struct BufferWatch {
    /// Microseconds: what was dropped is told so often at most.
    private static let dropInterval: Int64 = 60_000_000
    /// Microseconds without being full before it is well: a buffer that is emptied slowly is full again and again.
    private static let calm: Int64 = 10_000_000

    private var isToldFull = false
    private var lastFull: Int64 = 0
    private var told = BufferConcerns()
    private var nextDrops: Int64 = .min

    /// - Parameter now: microseconds on the monotonic clock.
    mutating func look(at fill: BufferFill, _ concerns: BufferConcerns, now: Int64, logger: Logger) {
        if fill.isFull {
            lastFull = now
            if !isToldFull { tellFull(fill, concerns.bound, logger) }
            isToldFull = true
        } else if isToldFull, now - lastFull >= Self.calm {
            isToldFull = false
            logger.notice("The buffer is not full any more.", [.count: "\(fill.messages)", .bytes: "\(fill.bytes)"])
        }
        guard now >= nextDrops else { return }
        let (forRoom, expired) = (concerns.droppedForRoom - told.droppedForRoom, concerns.expired - told.expired)
        guard forRoom > 0 || expired > 0 else { return }
        nextDrops = now + Self.dropInterval
        told = concerns
        if forRoom > 0 {
            logger.warning(
                "The buffer has dropped messages to make room: bring the uplink back, or raise buffer.maximumBytes.",
                [.count: "\(forRoom)", .reason: "bufferFull"])
        }
        if expired > 0 {
            logger.warning(
                "The buffer has dropped messages that are older than buffer.maximumAge: bring the uplink back.",
                [.count: "\(expired)", .reason: "expiredByAge"])
        }
    }

    private func tellFull(_ fill: BufferFill, _ bound: BufferConcerns.Bound?, _ logger: Logger) {
        let keys: [LogKey: Logger.MetadataValue] = [
            .reason: "\((bound ?? .configuredLimit).rawValue)", .count: "\(fill.messages)", .bytes: "\(fill.bytes)",
        ]
        if bound == .disk {
            logger.warning(
                """
                The buffer is full: the disk is at buffer.freeDiskFloor. Nothing more is acknowledged until there is room: free \
                disk space, or bring the uplink back.
                """, keys)
        } else {
            logger.warning(
                """
                The buffer is full: it is at buffer.maximumBytes. Nothing more is acknowledged until there is room: bring the \
                uplink back, or raise the limit and restart.
                """, keys)
        }
    }
}
