/// Waiting times between attempts: exponential with full jitter, so that many clients that failed together do not come
/// back together. All times are microseconds.
package struct Backoff: Sendable, Equatable {
    package let base: Int64
    package let cap: Int64
    /// No `Retry-After` is honoured beyond this.
    package let maximumRetryAfter: Int64
    /// Failures since the last success.
    package private(set) var attempts = 0

    package init(
        base: Int64 = 1_000_000, cap: Int64 = 120_000_000, maximumRetryAfter: Int64 = 3_600_000_000
    ) {
        self.base = max(base, 1)
        self.cap = max(cap, self.base)
        self.maximumRetryAfter = max(maximumRetryAfter, 0)
    }

    /// How long to wait before the next attempt: evenly drawn from 0 to base × 2ⁿ, at most `cap`. With `retryAfter`, as
    /// the other side asked, the drawn time comes on top of it: it is a floor, and they must not all return on it.
    package mutating func next(
        retryAfter: Int64? = nil, using generator: inout some RandomNumberGenerator
    ) -> Int64 {
        let jitter = Int64.random(in: 0...ceiling, using: &generator)
        if attempts < Int.max { attempts += 1 }
        return min(max(retryAfter ?? 0, 0), maximumRetryAfter) + jitter
    }

    package mutating func succeeded() { attempts = 0 }

    /// The longest time that `next` can draw now.
    package var ceiling: Int64 {
        // cap >> n: as soon as base exceeds it, base << n would exceed cap; beyond 62 shifts it always does.
        attempts > 62 || base > cap >> Int64(attempts) ? cap : base << Int64(attempts)
    }
}
