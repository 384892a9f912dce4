/// Resilience4j's circuit breaker over a time window, without two of its flaws: results of calls that began in an
/// earlier state do not count in a later one, and a probe that never ends is timed out. Times are microseconds.
///
/// The caller asks `acquire` before each call and reports each permit once to `complete`.
package struct CircuitBreaker: Sendable {
    package struct Settings: Sendable, Equatable {
        package var windowSeconds = 10
        /// Calls in the window before the rate is judged.
        package var minimumCalls = 5
        /// Percent of failures at which it opens.
        package var failureRateThreshold = 50
        package var waitInOpen: Int64 = 30_000_000
        package var permittedInHalfOpen = 1
        /// A probe that has not ended by then counts as failed.
        package var probeTimeout: Int64 = 30_000_000

        package init() {}
    }

    package enum State: Sendable, Equatable {
        /// Can transition to `open`.
        case closed
        /// Calls are refused. Can transition to `halfOpen`, on the first attempt after the wait.
        case open
        /// A few calls probe the other side. Can transition to `open` and `closed`.
        case halfOpen
        /// By hand: every call is permitted and none counted.
        case disabled
        /// By hand: every call is refused.
        case forcedOpen
        /// By hand: every call is permitted and counted, and nothing follows from it.
        case metricsOnly
    }

    package enum Outcome: Sendable, Equatable {
        case success
        case failure
        /// It was given up before it could tell anything: the permit goes back.
        case cancelled
    }

    /// Proof that a call was permitted, and in which generation of the state.
    package struct Permit: Sendable, Equatable {
        let generation: UInt64
        let number: UInt64
    }

    package enum Decision: Sendable, Equatable {
        case permitted(Permit)
        /// Microseconds until an attempt may be permitted; `nil` if that depends on others (probes that run, or a hand).
        case refused(retryAfter: Int64?)
    }

    package struct Transition: Sendable, Equatable {
        package let from: State
        package let to: State

        package init(from: State, to: State) {
            self.from = from
            self.to = to
        }
    }

    package let settings: Settings
    package private(set) var state = State.closed
    /// Calls that were refused since the beginning.
    package private(set) var refusedCalls: UInt64 = 0

    private var generation: UInt64 = 0
    private var permitNumber: UInt64 = 0
    private var openedAt: Int64 = 0
    private var calls: RateWindow
    private var failures: RateWindow
    private var probes = Probes()

    /// The count window of HALF_OPEN. At most `permittedInHalfOpen` are running or finished.
    private struct Probes {
        var running: [(number: UInt64, deadline: Int64)] = []
        var succeeded = 0
        var failed = 0
        var finished: Int { succeeded + failed }
    }

    package init(_ settings: Settings = Settings()) {
        var bounded = settings
        bounded.minimumCalls = max(settings.minimumCalls, 1)
        bounded.failureRateThreshold = min(max(settings.failureRateThreshold, 1), 100)
        bounded.permittedInHalfOpen = min(max(settings.permittedInHalfOpen, 1), 1_000)
        bounded.waitInOpen = max(settings.waitInOpen, 0)
        bounded.probeTimeout = max(settings.probeTimeout, 1)
        self.settings = bounded
        calls = RateWindow(seconds: settings.windowSeconds)
        failures = RateWindow(seconds: settings.windowSeconds)
    }

    /// Whether a call may be made now. A transition that it causes is returned for the log.
    package mutating func acquire(at now: Int64) -> (decision: Decision, transition: Transition?) {
        let before = state
        if state == .halfOpen { expireProbes(at: now) }
        if state == .open, Self.elapsed(from: openedAt, to: now) >= settings.waitInOpen { enter(.halfOpen, at: now) }
        let decision = decide(at: now)
        if case .refused = decision { refusedCalls &+= 1 }
        return (decision, before == state ? nil : Transition(from: before, to: state))
    }

    /// Reports how a permitted call ended. Permits of an earlier generation, and probes that were timed out, tell nothing.
    package mutating func complete(_ permit: Permit, _ outcome: Outcome, at now: Int64) -> Transition? {
        guard permit.generation == generation else { return nil }
        let before = state
        switch state {
        case .closed:
            record(outcome, at: now)
            // A success never opens it, unlike Resilience4j's: it would cut off what has just come back.
            if outcome == .failure, let rate = failureRate(at: now), rate >= settings.failureRateThreshold {
                enter(.open, at: now)
            }
        case .metricsOnly:
            record(outcome, at: now)
        case .halfOpen:
            guard let index = probes.running.firstIndex(where: { $0.number == permit.number }) else { return nil }
            probes.running.remove(at: index)
            switch outcome {
            case .success: probes.succeeded += 1
            case .failure: probes.failed += 1
            case .cancelled: break
            }
            judgeProbes(at: now)
        case .open, .disabled, .forcedOpen:
            break
        }
        return before == state ? nil : Transition(from: before, to: state)
    }

    /// Sets the state by hand, also out of a state that was set by hand. Everything counted so far is forgotten.
    package mutating func force(_ state: State, at now: Int64) { enter(state, at: now) }

    /// Percent of failures in the window, rounded down; `nil` below the minimum of calls.
    package mutating func failureRate(at now: Int64) -> Int? {
        let total = calls.total(at: now)
        guard total >= settings.minimumCalls else { return nil }
        return failures.total(at: now) * 100 / total
    }

    private mutating func decide(at now: Int64) -> Decision {
        switch state {
        case .closed, .disabled, .metricsOnly:
            return .permitted(newPermit())
        case .forcedOpen:
            return .refused(retryAfter: nil)
        case .open:
            return .refused(retryAfter: settings.waitInOpen - Self.elapsed(from: openedAt, to: now))
        case .halfOpen:
            guard probes.running.count + probes.finished < settings.permittedInHalfOpen else {
                return .refused(retryAfter: nil)
            }
            let permit = newPermit()
            let deadline = now.addingReportingOverflow(settings.probeTimeout)
            probes.running.append((permit.number, deadline.overflow ? .max : deadline.partialValue))
            return .permitted(permit)
        }
    }

    private mutating func newPermit() -> Permit {
        permitNumber &+= 1
        return Permit(generation: generation, number: permitNumber)
    }

    private mutating func record(_ outcome: Outcome, at now: Int64) {
        guard outcome != .cancelled else { return }
        calls.add(at: now)
        if outcome == .failure { failures.add(at: now) }
    }

    private mutating func expireProbes(at now: Int64) {
        let running = probes.running.count
        probes.running.removeAll { $0.deadline <= now }
        probes.failed += running - probes.running.count
        judgeProbes(at: now)
    }

    /// HALF_OPEN is judged when as many calls have ended as were permitted.
    private mutating func judgeProbes(at now: Int64) {
        guard probes.finished >= settings.permittedInHalfOpen else { return }
        let rate = probes.failed * 100 / probes.finished
        enter(rate >= settings.failureRateThreshold ? .open : .closed, at: now)
    }

    private mutating func enter(_ next: State, at now: Int64) {
        state = next
        generation &+= 1
        probes = Probes()
        calls.reset()
        failures.reset()
        if next == .open { openedAt = now }
    }

    /// Not negative: a clock that goes backwards only prolongs the wait.
    private static func elapsed(from start: Int64, to now: Int64) -> Int64 {
        let (difference, overflow) = now.subtractingReportingOverflow(start)
        return overflow ? (now > start ? .max : 0) : max(difference, 0)
    }
}
