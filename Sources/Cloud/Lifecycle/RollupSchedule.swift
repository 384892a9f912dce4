/// How far the roll-up has come. Hours are counted from 1970, UTC.
struct RollupProgress: Sendable, Equatable {
    /// Rows stored in hours before it are marked by their writers.
    var closedBefore: Int64?
    /// Hours before it are rolled up.
    var computedBefore: Int64?
    /// The flag's change, in microseconds since 1970, since when all writers mark.
    var markingSince: Int64?
}

/// What the roll-up does next; pure.
enum RollupSchedule {
    static let hour: Int64 = 3_600_000_000

    /// The first hour that stays open.
    ///
    /// - Parameters:
    ///   - now: microseconds since 1970.
    ///   - delay: microseconds from an hour's end until it is closed.
    static func open(now: Int64, delay: Int64) -> Int64 {
        let time = now - delay
        return (time < 0 ? time - hour + 1 : time) / hour
    }

    static func day(of hour: Int64) -> Int32 { Int32((hour < 0 ? hour - 23 : hour) / 24) }

    /// The day whose roll-up an hour's completes or changes; `nil`: its day is not over.
    static func day(completedBy hour: Int64, computedBefore: Int64) -> Int32? {
        let day = day(of: hour)
        return (Int64(day) + 1) * 24 <= max(computedBefore, hour + 1) ? day : nil
    }
}
