import Flow
import Testing

private let second: Int64 = 1_000_000

extension CircuitBreaker {
    fileprivate mutating func permit(at now: Int64) throws -> Permit {
        let decision = acquire(at: now).decision
        guard case .permitted(let permit) = decision else { throw Refused(decision: decision) }
        return permit
    }

    fileprivate mutating func run(_ outcomes: [Outcome], at now: Int64) throws {
        for outcome in outcomes { _ = complete(try permit(at: now), outcome, at: now) }
    }
}

private struct Refused: Error { let decision: CircuitBreaker.Decision }

struct CircuitBreakerTests {
    @Test func opensAtTheThresholdAndNotBelowTheMinimum() throws {
        var breaker = CircuitBreaker()
        try breaker.run([.failure, .failure, .failure, .failure], at: 0)
        #expect(breaker.state == .closed)
        #expect(breaker.failureRate(at: 0) == nil)
        let last = try breaker.permit(at: 0)
        #expect(breaker.complete(last, .failure, at: 0) == .init(from: .closed, to: .open))
        #expect(breaker.acquire(at: second).decision == .refused(retryAfter: 29 * second))
        #expect(breaker.refusedCalls == 1)
    }

    @Test func staysClosedBelowTheThreshold() throws {
        var breaker = CircuitBreaker()
        for _ in 0..<50 { try breaker.run([.success, .success, .failure], at: 0) }
        #expect(breaker.state == .closed)
        #expect(breaker.failureRate(at: 0) == 33)
    }

    /// What was down is back: whoever waited for it must not be held up by what was before.
    @Test func aSuccessNeverOpens() throws {
        var breaker = CircuitBreaker()
        try breaker.run([.failure, .failure, .failure, .failure, .success], at: 0)
        #expect(breaker.state == .closed && breaker.failureRate(at: 0) == 80)
        try breaker.run([.failure], at: 0)
        #expect(breaker.state == .open)
    }

    @Test func failuresThatLeftTheWindowDoNotCount() throws {
        var breaker = CircuitBreaker()
        try breaker.run([.failure, .failure, .failure, .failure], at: 0)
        try breaker.run([.success, .success, .success, .success, .failure], at: 10 * second)
        #expect(breaker.state == .closed)
        #expect(breaker.failureRate(at: 10 * second) == 20)
    }

    private func opened(at now: Int64 = 0, _ change: (inout CircuitBreaker.Settings) -> Void = { _ in }) throws
        -> CircuitBreaker
    {
        var settings = CircuitBreaker.Settings()
        change(&settings)
        var breaker = CircuitBreaker(settings)
        try breaker.run(Array(repeating: .failure, count: 5), at: now)
        #expect(breaker.state == .open)
        return breaker
    }

    @Test func theFirstAttemptAfterTheWaitProbes() throws {
        var breaker = try opened()
        #expect(breaker.acquire(at: 30 * second - 1).decision == .refused(retryAfter: 1))
        let (decision, transition) = breaker.acquire(at: 30 * second)
        #expect(transition == .init(from: .open, to: .halfOpen))
        guard case .permitted(let probe) = decision else { throw Refused(decision: decision) }
        #expect(breaker.acquire(at: 30 * second).decision == .refused(retryAfter: nil))
        #expect(breaker.complete(probe, .success, at: 31 * second) == .init(from: .halfOpen, to: .closed))
        #expect(breaker.failureRate(at: 31 * second) == nil)
    }

    @Test func aFailedProbeOpensAgainForTheWholeWait() throws {
        var breaker = try opened()
        let probe = try breaker.permit(at: 30 * second)
        #expect(breaker.complete(probe, .failure, at: 35 * second) == .init(from: .halfOpen, to: .open))
        #expect(breaker.acquire(at: 64 * second).decision == .refused(retryAfter: second))
        _ = try breaker.permit(at: 65 * second)
    }

    @Test func aCancelledProbeGivesItsPermitBack() throws {
        var breaker = try opened()
        let probe = try breaker.permit(at: 30 * second)
        #expect(breaker.complete(probe, .cancelled, at: 30 * second) == nil)
        #expect(breaker.state == .halfOpen)
        let next = try breaker.permit(at: 30 * second)
        #expect(breaker.complete(probe, .success, at: 30 * second) == nil, "a permit counts once")
        #expect(breaker.complete(next, .success, at: 30 * second)?.to == .closed)
    }

    @Test func cancelledCallsDoNotCountInClosed() throws {
        var breaker = CircuitBreaker()
        try breaker.run(Array(repeating: .cancelled, count: 50) + [.failure, .failure, .failure, .failure], at: 0)
        #expect(breaker.state == .closed)
    }

    @Test func aProbeThatNeverEndsTimesOut() throws {
        var breaker = try opened { $0.probeTimeout = 5 * second }
        let lost = try breaker.permit(at: 30 * second)
        #expect(breaker.acquire(at: 35 * second - 1).decision == .refused(retryAfter: nil))
        let (decision, transition) = breaker.acquire(at: 35 * second)
        #expect(transition == .init(from: .halfOpen, to: .open))
        #expect(decision == .refused(retryAfter: 30 * second))
        #expect(breaker.complete(lost, .success, at: 36 * second) == nil)
        #expect(breaker.state == .open)
    }

    @Test func lateResultsOfClosedDoNotCountInHalfOpen() throws {
        var breaker = CircuitBreaker()
        let late = try breaker.permit(at: 0)
        try breaker.run(Array(repeating: .failure, count: 5), at: 0)
        let probe = try breaker.permit(at: 30 * second)
        #expect(breaker.complete(late, .failure, at: 30 * second) == nil)
        #expect(breaker.state == .halfOpen)
        #expect(breaker.complete(probe, .success, at: 30 * second)?.to == .closed)
        #expect(breaker.complete(late, .failure, at: 30 * second) == nil)
    }

    @Test(arguments: [(1, CircuitBreaker.State.closed), (2, .open)])
    func halfOpenJudgesWhenAllProbesEnded(failures: Int, expected: CircuitBreaker.State) throws {
        var breaker = try opened { $0.permittedInHalfOpen = 3 }
        let probes = try (0..<3).map { _ in try breaker.permit(at: 30 * second) }
        #expect(breaker.acquire(at: 30 * second).decision == .refused(retryAfter: nil))
        for (index, probe) in probes.enumerated() {
            #expect(breaker.state == .halfOpen)
            _ = breaker.complete(probe, index < failures ? .failure : .success, at: 30 * second)
        }
        #expect(breaker.state == expected)
    }

    @Test func statesByHand() throws {
        var breaker = CircuitBreaker()
        breaker.force(.forcedOpen, at: 0)
        #expect(breaker.acquire(at: .max).decision == .refused(retryAfter: nil))
        breaker.force(.disabled, at: 0)
        try breaker.run(Array(repeating: .failure, count: 20), at: 0)
        #expect(breaker.state == .disabled)
        #expect(breaker.failureRate(at: 0) == nil)
        breaker.force(.metricsOnly, at: 0)
        try breaker.run(Array(repeating: .failure, count: 20), at: 0)
        #expect(breaker.state == .metricsOnly)
        #expect(breaker.failureRate(at: 0) == 100)
        breaker.force(.closed, at: 0)
        #expect(breaker.failureRate(at: 0) == nil)
    }

    @Test func aClockThatGoesBackwardsOnlyProlongsTheWait() throws {
        var breaker = try opened(at: 100 * second)
        #expect(breaker.acquire(at: .min).decision == .refused(retryAfter: 30 * second))
        _ = try breaker.permit(at: .max)
        #expect(breaker.acquire(at: .max).transition?.to == .open, "its deadline is the end of time")
    }

    /// Whatever happens in whatever order: never more probes than permitted, never a call in OPEN before the wait is
    /// over, and it always comes back once every call succeeds.
    @Test(arguments: 0..<50) func invariantsHoldUnderRandomEvents(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        var settings = CircuitBreaker.Settings()
        settings.permittedInHalfOpen = Int.random(in: 1...4, using: &generator)
        settings.probeTimeout = 7 * second
        var breaker = CircuitBreaker(settings)
        var now: Int64 = 0
        var openedAt: Int64 = 0
        var probes = 0
        var running: [CircuitBreaker.Permit] = []

        func follow(_ transition: CircuitBreaker.Transition?) {
            guard let transition else { return }
            if transition.to == .open { openedAt = now }
            probes = 0
        }
        for _ in 0..<2_000 {
            now += Int64.random(in: 0...2_000_000, using: &generator)
            if Bool.random(using: &generator) || running.isEmpty {
                let (decision, transition) = breaker.acquire(at: now)
                follow(transition)
                guard case .permitted(let permit) = decision else { continue }
                #expect(breaker.state != .open)
                running.append(permit)
                if breaker.state == .halfOpen {
                    #expect(now - openedAt >= settings.waitInOpen)
                    probes += 1
                    #expect(probes <= settings.permittedInHalfOpen)
                }
            } else {
                let permit = running.remove(at: Int.random(in: 0..<running.count, using: &generator))
                let outcome: CircuitBreaker.Outcome = [.success, .failure, .failure, .cancelled].randomElement(
                    using: &generator)!
                let before = probes
                let transition = breaker.complete(permit, outcome, at: now)
                // A cancelled probe's permit may be given out again; one of an earlier state gives nothing back.
                if breaker.state == .halfOpen, outcome == .cancelled { probes = max(0, before - 1) }
                follow(transition)
            }
        }
        for _ in 0..<100 {
            now += 8 * second
            if case .permitted(let permit) = breaker.acquire(at: now).decision {
                _ = breaker.complete(permit, .success, at: now)
            }
        }
        #expect(breaker.state == .closed)
    }
}
