/// Exponential backoff with full jitter: each wait is uniform between nothing and a bound that doubles.
package struct Backoff: Sendable {
    /// Microseconds.
    private let base: Int64
    private let cap: Int64
    private var bound: Int64

    package init(base: Int64 = 1_000_000, cap: Int64 = 120_000_000) {
        precondition(0 < base && base <= cap, "a backoff's base is positive and at most its cap")
        self.base = base
        self.cap = cap
        bound = base
    }

    /// Microseconds to wait before the next attempt.
    package mutating func next(using generator: inout some RandomNumberGenerator) -> Int64 {
        let wait = Int64.random(in: 0...bound, using: &generator)
        bound = bound > cap / 2 ? cap : bound * 2
        return wait
    }

    package mutating func reset() { bound = base }
}
