import Flow
import Testing

private let second: Int64 = 1_000_000

@Suite struct DatabaseFallbackTests {
    private func fallback(_ mode: DatabaseFallback.Mode) -> DatabaseFallback {
        var settings = DatabaseFallback.Settings()
        settings.mode = mode
        return DatabaseFallback(settings)
    }

    private func permit(
        _ fallback: inout DatabaseFallback, at now: Int64
    ) throws -> CircuitBreaker.Permit {
        guard case .call(let permit) = fallback.next(hasWork: true, at: now).order else {
            throw Refused()
        }
        return permit
    }

    private struct Refused: Error {}

    @discardableResult
    private func call(
        _ fallback: inout DatabaseFallback, _ result: DatabaseFallback.Result, from start: Int64 = 0, to end: Int64 = 0
    ) throws -> CircuitBreaker.Transition? {
        let permit = try permit(&fallback, at: start)
        return fallback.ended(permit, result, started: start, at: end)
    }

    @Test(arguments: [
        (DatabaseFallback.Mode.pause, DatabaseFallback.Order.wait(30 * second)), (.deadLetter, .deadLetter),
        (.sample, .wait(30 * second)),
    ])
    func fiveFailuresOpenItAndTheModeSaysWhatComesThen(mode: DatabaseFallback.Mode, order: DatabaseFallback.Order)
        throws
    {
        var fallback = fallback(mode)
        for _ in 0..<4 { #expect(try call(&fallback, .unreachable) == nil) }
        #expect(try call(&fallback, .unreachable) == .init(from: .closed, to: .open))
        #expect(fallback.next(hasWork: true, at: 0).order == order)
        #expect(fallback.next(hasWork: false, at: 0).order == .wait(30 * second))
    }

    @Test func aProbeAfterTheWaitClosesIt() throws {
        var fallback = fallback(.deadLetter)
        for _ in 0..<5 { try call(&fallback, .unreachable) }
        #expect(fallback.next(hasWork: true, at: 30 * second - 1).order == .deadLetter)
        let probe = try permit(&fallback, at: 30 * second)
        #expect(fallback.state == .halfOpen && fallback.isOpen)
        #expect(fallback.next(hasWork: true, at: 30 * second).order == .deadLetter, "one probe at a time")
        #expect(
            fallback.ended(probe, .answered, started: 30 * second, at: 30 * second)
                == .init(from: .halfOpen, to: .closed))
        #expect(!fallback.isOpen)
    }

    @Test func whatTellsNothingNeitherOpensNorCloses() throws {
        var fallback = fallback(.pause)
        for _ in 0..<100 { try call(&fallback, .untold) }
        #expect(!fallback.isOpen)
        for _ in 0..<5 { try call(&fallback, .unreachable) }
        try call(&fallback, .untold, from: 30 * second, to: 30 * second)
        #expect(fallback.state == .halfOpen)
        try call(&fallback, .answered, from: 30 * second, to: 30 * second)
        #expect(fallback.state == .closed)
    }

    /// One connection makes one call after the other: time-outs of ten seconds would never be five in ten seconds.
    @Test func aLongFailureCountsForTheCallsItKeptAway() throws {
        var fallback = fallback(.sample)
        #expect(try call(&fallback, .timedOut, from: 0, to: 10 * second) == .init(from: .closed, to: .open))
        #expect(fallback.openedBySlowness)
        #expect(fallback.next(hasWork: true, at: 10 * second).order == .sample)
        #expect(fallback.next(hasWork: false, at: 10 * second).order == .wait(30 * second))

        var shorter = self.fallback(.sample)
        #expect(try call(&shorter, .timedOut, from: 0, to: 4 * second) == nil)
        #expect(try call(&shorter, .timedOut, from: 4 * second, to: 8 * second) == nil)
        #expect(try call(&shorter, .timedOut, from: 8 * second, to: 9 * second) != nil)
    }

    @Test func onlySlownessIsSampled() throws {
        var fallback = fallback(.sample)
        for _ in 0..<4 { try call(&fallback, .timedOut) }
        try call(&fallback, .unreachable)
        #expect(fallback.isOpen && !fallback.openedBySlowness)
        #expect(fallback.next(hasWork: true, at: 0).order == .wait(30 * second))

        var slow = self.fallback(.sample)
        for _ in 0..<5 { try call(&slow, .timedOut) }
        slow.sampleFailed(.timedOut)
        #expect(slow.next(hasWork: true, at: 0).order == .sample)
        slow.sampleFailed(.unreachable)
        #expect(slow.next(hasWork: true, at: 0).order == .wait(30 * second))
    }

    @Test func slowSuccessesCountWhereTheyAreSampled() throws {
        for mode in DatabaseFallback.Mode.allCases {
            var fallback = fallback(mode)
            try call(&fallback, .answered, from: 0, to: 6 * second)
            try call(&fallback, .answered, from: 6 * second, to: 12 * second)
            #expect(fallback.isOpen == (mode == .sample))
        }
    }
}
