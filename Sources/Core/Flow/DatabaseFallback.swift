/// What a processor may do with its database at a moment: the breaker around its calls, and what comes instead of a call
/// while that is open. Times are microseconds of a monotonic clock.
package struct DatabaseFallback: Sendable {
    package enum Mode: String, Sendable, CaseIterable {
        /// The log keeps the messages.
        case pause
        /// Ranges of the log become objects.
        case deadLetter
        /// A tenth is stored, where the database is slow and not away.
        case sample
    }

    package struct Settings: Sendable, Equatable {
        package var breaker = CircuitBreaker.Settings()
        package var mode = Mode.pause
        /// In `sample`, a call that takes longer counts as failed.
        package var slowCall: Int64 = 5_000_000

        package init() {}
    }

    /// How a call of the database ended.
    package enum Result: Sendable, Equatable {
        /// The database answered, whatever it said.
        case answered
        /// It cannot be reached, or has no resources.
        case unreachable
        case timedOut
        /// It tells nothing of the database: rows that can never be stored, missing tables, a call that was not made.
        case untold
    }

    package enum Order: Sendable, Equatable {
        /// Make the call, and report how it ended.
        case call(CircuitBreaker.Permit)
        /// Ask again after so many microseconds.
        case wait(Int64)
        /// Write dead letters, and ask again before each.
        case deadLetter
        /// Store a sample, and ask again before each.
        case sample
    }

    package let settings: Settings
    private var breaker: CircuitBreaker
    private var unreachable: RateWindow
    private var slow: RateWindow
    /// Why it opened last.
    package private(set) var openedBySlowness = false

    /// Where nobody knows when the next attempt may be made, because a probe runs.
    private static let unknownWait: Int64 = 1_000_000

    package init(_ settings: Settings) {
        self.settings = settings
        breaker = CircuitBreaker(settings.breaker)
        unreachable = RateWindow(seconds: settings.breaker.windowSeconds)
        slow = RateWindow(seconds: settings.breaker.windowSeconds)
    }

    package var state: CircuitBreaker.State { breaker.state }
    package var isOpen: Bool { breaker.state != .closed }

    /// - Parameter hasWork: there are partitions whose next offsets are known: without them nothing can be done instead.
    package mutating func next(
        hasWork: Bool, at now: Int64
    ) -> (order: Order, transition: CircuitBreaker.Transition?) {
        let (decision, transition) = breaker.acquire(at: now)
        switch decision {
        case .permitted(let permit): return (.call(permit), transition)
        case .refused(let retryAfter):
            switch settings.mode {
            case .deadLetter where hasWork: return (.deadLetter, transition)
            case .sample where hasWork && openedBySlowness: return (.sample, transition)
            default: return (.wait(max(retryAfter ?? Self.unknownWait, 1_000)), transition)
            }
        }
    }

    /// Reports how a call ended, or a sample that was stored.
    ///
    /// - Parameter started: when it began.
    package mutating func ended(
        _ permit: CircuitBreaker.Permit, _ result: Result, started: Int64, at now: Int64
    ) -> CircuitBreaker.Transition? {
        let duration = max(now - started, 0)
        var result = result
        if settings.mode == .sample, result == .answered, duration > settings.slowCall { result = .timedOut }
        let outcome: CircuitBreaker.Outcome
        switch result {
        case .answered: outcome = .success
        case .untold: outcome = .cancelled
        case .unreachable:
            outcome = .failure
            unreachable.add(1, at: now)
        case .timedOut:
            outcome = .failure
            slow.add(1, at: now)
        }
        let before = breaker.state
        var transition = breaker.complete(permit, outcome, at: now)
        // Calls come one after the other, so one that takes long keeps others away, and the window would never hold
        // enough of them: it counts for those.
        if outcome == .failure, before == .closed {
            var others = Self.others(duration, settings.breaker)
            while transition == nil, others > 0, case .permitted(let more) = breaker.acquire(at: now).decision {
                transition = breaker.complete(more, .failure, at: now)
                others -= 1
            }
        }
        if let transition, transition.to == .open {
            openedBySlowness = slow.total(at: now) > 0 && unreachable.total(at: now) == 0
        }
        return transition
    }

    /// While samples are stored: the database turns out to be away, so the log keeps the rest.
    package mutating func sampleFailed(_ result: Result) {
        if result == .unreachable { openedBySlowness = false }
    }

    /// Calls of an even share of the window that there was time for beside this one.
    private static func others(_ duration: Int64, _ settings: CircuitBreaker.Settings) -> Int {
        let share = max(Int64(settings.windowSeconds) * 1_000_000 / Int64(max(settings.minimumCalls, 1)), 1)
        return max(Int(min(duration / share, Int64(settings.minimumCalls))) - 1, 0)
    }
}
