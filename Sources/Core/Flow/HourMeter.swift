/// What was spent in the current hour and in the one before. Hours follow each other from the first use on the monotonic
/// clock, so that a clock step neither gives nor takes. Times are microseconds.
package struct HourMeter: Sendable, Equatable {
    package static let hour: Int64 = 3_600_000_000

    private var begin: Int64
    private var spent = 0
    private var spentBefore = 0

    package init(at now: Int64) { begin = now }

    package mutating func add(_ count: Int, at now: Int64) {
        advance(to: now)
        spent += count
    }

    package mutating func current(at now: Int64) -> Int {
        advance(to: now)
        return spent
    }

    package mutating func previous(at now: Int64) -> Int {
        advance(to: now)
        return spentBefore
    }

    package mutating func nextHour(at now: Int64) -> Int64 {
        advance(to: now)
        return begin + Self.hour
    }

    private mutating func advance(to now: Int64) {
        let hours = (now - begin) / Self.hour
        guard hours > 0 else { return }
        spentBefore = hours == 1 ? spent : 0
        spent = 0
        begin += hours * Self.hour
    }
}
