/// Counts over the last N seconds: a ring of one-second buckets and a running total. Times are microseconds of any
/// monotonic clock; what comes from before the newest bucket is counted in it.
package struct RateWindow: Sendable, Equatable {
    private static let second: Int64 = 1_000_000

    private var buckets: [Int]
    /// The second that the newest bucket stands for; `nil` before the first use.
    private var newest: Int64?
    private var sum = 0

    /// 1 to 3,600 seconds; values beyond are taken as the nearest bound.
    package init(seconds: Int) {
        buckets = Array(repeating: 0, count: min(max(seconds, 1), 3_600))
    }

    package var seconds: Int { buckets.count }

    package mutating func add(_ count: Int = 1, at now: Int64) {
        let index = advance(to: now)
        buckets[index] += count
        sum += count
    }

    /// What was counted in the current second and the N − 1 before it.
    package mutating func total(at now: Int64) -> Int {
        _ = advance(to: now)
        return sum
    }

    package mutating func reset() {
        for index in buckets.indices { buckets[index] = 0 }
        newest = nil
        sum = 0
    }

    /// Empties the buckets that fell out of the window. Returns the index of the newest.
    private mutating func advance(to now: Int64) -> Int {
        let second = Self.divideDown(now)
        guard let last = newest else {
            newest = second
            return index(of: second)
        }
        guard second > last else { return index(of: last) }
        newest = second
        let (gap, overflow) = second.subtractingReportingOverflow(last)
        if overflow || gap >= Int64(buckets.count) {
            for index in buckets.indices { buckets[index] = 0 }
            sum = 0
        } else {
            for step in 1...gap {
                let index = index(of: last + step)
                sum -= buckets[index]
                buckets[index] = 0
            }
        }
        return index(of: second)
    }

    private func index(of second: Int64) -> Int {
        let remainder = Int(second % Int64(buckets.count))
        return remainder < 0 ? remainder + buckets.count : remainder
    }

    private static func divideDown(_ now: Int64) -> Int64 {
        now >= 0 || now % second == 0 ? now / second : now / second - 1
    }
}
