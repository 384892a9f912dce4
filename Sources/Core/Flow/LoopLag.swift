/// How late an event loop is, from the times at which a repeated task was to run and did run.
///
/// What it shows is a maximum that decays by an eighth a tick, so that a single late tick is seen and passes, and a loop
/// that is late again and again stays. Overload begins at the limit and ends at a quarter of it.
///
/// Times are microseconds of any monotonic clock.
package struct LoopLag: Sendable, Equatable {
    private let interval: Int64
    /// `nil`: never overloaded.
    private var limit: Int64?
    private var last: Int64?
    /// Decays to 0.
    package private(set) var worst: Int64 = 0
    package private(set) var isOverloaded = false

    package enum Change: Sendable, Equatable {
        case none, began, ended
    }

    /// - Parameters:
    ///   - interval: from one tick to the next.
    ///   - limit: the lag at which the loop counts as overloaded.
    package init(interval: Int64, limit: Int64?) {
        self.interval = interval
        self.limit = limit
    }

    /// Overload that is over under the new limit ends at the next tick.
    package mutating func change(limit: Int64?) { self.limit = limit }

    /// The task runs now.
    ///
    /// - Returns: how late it is, and whether that changes anything.
    package mutating func tick(at now: Int64) -> (lag: Int64, change: Change) {
        let lag = last.map { max(0, now - $0 - interval) } ?? 0
        last = now
        worst = max(lag, worst - (worst + 7) / 8)
        guard let limit else {
            guard isOverloaded else { return (lag, .none) }
            isOverloaded = false
            return (lag, .ended)
        }
        if !isOverloaded, worst >= limit {
            isOverloaded = true
            return (lag, .began)
        }
        if isOverloaded, worst <= limit / 4 {
            isOverloaded = false
            return (lag, .ended)
        }
        return (lag, .none)
    }
}
