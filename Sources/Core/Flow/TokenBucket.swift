/// A rate with a burst: admits at most `burst + rate × t` in any span of t seconds.
///
/// The level is an integer of a billionth of a token, so nothing drifts however often it is asked. Times are microseconds
/// of any monotonic clock; one that goes backwards starts the refill anew and neither adds nor takes tokens.
package struct TokenBucket: Sendable, Equatable {
    package enum Admission: Sendable, Equatable {
        case admitted
        /// Nothing was taken. Microseconds until it would be admitted, at least 1.
        case wait(Int64)
    }

    private static let unit: Int64 = 1_000_000_000
    /// Tokens; keeps the level and every product of it within 64 bits.
    private static let maximumBurst: Int64 = 4_000_000_000

    /// Thousandths of a token a second, which are billionths of a token a microsecond.
    private let rate: Int64
    private let capacity: Int64
    private var level: Int64
    private var updated: Int64

    /// It begins full. `rate` is tokens a second, from 0.001 to four billion; `burst` from 1 to four billion; values
    /// beyond are taken as the nearest bound.
    package init(rate: Double, burst: Int64, at now: Int64) {
        let bounded = rate.isNaN ? 0.001 : min(max(rate, 0.001), Double(Self.maximumBurst))
        self.rate = Int64((bounded * 1000).rounded())
        capacity = min(max(burst, 1), Self.maximumBurst) * Self.unit
        level = capacity
        updated = now
    }

    /// Takes `count` tokens if they are there. More than the burst is admitted when the bucket is full, and leaves a debt
    /// that the rate pays off: otherwise it could never pass.
    package mutating func take(_ count: Int64 = 1, at now: Int64) -> Admission {
        refill(at: now)
        let wanted = min(max(count, 0), Self.maximumBurst) * Self.unit
        let needed = min(wanted, capacity)
        guard level >= needed else { return .wait(Self.divideUp(needed - level, rate)) }
        level -= wanted
        return .admitted
    }

    /// Takes `count` tokens when nothing is owed, however many that are, and may leave a debt that the rate pays off: admits at
    /// most `burst + rate × t` and one request more in any span of t seconds. So a large request is never passed over for ever
    /// by small ones that keep the bucket from being full.
    package mutating func takeOwing(_ count: Int64, at now: Int64) -> Admission {
        refill(at: now)
        guard level >= min(Self.unit, capacity) else { return .wait(Self.divideUp(Self.unit - level, rate)) }
        level -= min(max(count, 0), Self.maximumBurst) * Self.unit
        return .admitted
    }

    /// Gives back what was taken for something that did not happen.
    package mutating func giveBack(_ count: Int64 = 1) {
        level = min(capacity, level + min(max(count, 0), Self.maximumBurst) * Self.unit)
    }

    /// Whole tokens that could be taken now; negative while a debt is open.
    package mutating func available(at now: Int64) -> Int64 {
        refill(at: now)
        return level >= 0 ? level / Self.unit : -Self.divideUp(-level, Self.unit)
    }

    private mutating func refill(at now: Int64) {
        let (elapsed, overflow) = now.subtractingReportingOverflow(updated)
        let isBackwards = now < updated
        updated = now
        guard !isBackwards, level < capacity else { return }
        // The product fits, as it is below the capacity plus one step of the rate.
        if overflow || elapsed >= Self.divideUp(capacity - level, rate) {
            level = capacity
        } else {
            level += elapsed * rate
        }
    }

    private static func divideUp(_ a: Int64, _ b: Int64) -> Int64 { a / b + (a % b == 0 ? 0 : 1) }
}
