import NIOConcurrencyHelpers
import Operations
import SyncModel

/// What of a buffer somebody should know, beside how full it is; since the start of the process.
package struct BufferConcerns: Sendable, Equatable {
    /// What keeps a full buffer from taking more. Raw values are for the log.
    package enum Bound: String, Sendable {
        case configuredLimit = "limit"
        case disk
    }

    /// `nil`: it is not full.
    package var bound: Bound?
    /// Messages that made room for others, and those that were too old.
    package var droppedForRoom = 0
    package var expired = 0
    /// Microseconds on the monotonic clock.
    package var lastDrop: Int64?
    /// That are kept.
    package var deadLetters = 0
    /// When the newest of them was buried; microseconds since 1970.
    package var newestDeadLetter: Int64?

    package init() {}

    /// Minutes that dropping is an alarm after the last drop: under load there are many a second.
    private static let dropMinutes: Int64 = 5
    /// Days that a dead letter is an alarm: it is kept much longer.
    private static let deadLetterDays: Int64 = 7

    /// - Parameter now: microseconds on the monotonic clock.
    package func dropHealth(at now: Int64 = SystemClock.monotonicMicroseconds()) -> HealthState {
        guard let lastDrop, now - lastDrop < Self.dropMinutes * 60_000_000 else { return .good }
        let ago = Shown.duration(seconds: max(0, now - lastDrop) / 1_000_000)
        return .degraded(
            "messages are dropped: since the start \(droppedForRoom) to make room and \(expired) because of their age, "
                + "the last of them \(ago) ago")
    }

    /// - Parameter now: microseconds since 1970.
    package func deadLetterHealth(at now: Int64 = SystemClock.wallMicroseconds()) -> HealthState {
        guard deadLetters > 0, let newestDeadLetter, now - newestDeadLetter < Self.deadLetterDays * 86_400_000_000
        else { return .good }
        return .degraded(
            "the cloud refuses messages: \(deadLetters) are kept, the newest of \(Self.deadLetterDays) days or less; "
                + "see sluice buffer dead-letters")
    }

    mutating func drop(_ counts: [LedgerReason: Int], at now: Int64) {
        droppedForRoom += counts[.bufferFull] ?? 0
        expired += counts[.expiredByAge] ?? 0
        lastDrop = now
    }
}

extension Buffer {
    package func concerns() -> BufferConcerns { shared.activity.concerns.withLockedValue { $0 } }
}

extension BufferStore {
    /// Outside any transaction.
    func countDeadLetters() throws(SQLiteError) {
        let count = try connection.integer("SELECT count(*) FROM dead_letter") ?? 0
        let newest = try connection.integer("SELECT time FROM dead_letter ORDER BY id DESC LIMIT 1")
        shared.activity.concerns.withLockedValue {
            $0.deadLetters = Int(count)
            $0.newestDeadLetter = newest
        }
        disk.areDeadLettersCounted = true
    }
}
