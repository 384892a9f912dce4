import Database
import EventLog
import Flow
import Logging
import Operations
import ServiceLifecycle

/// The circuit breaker around the database.
extension Processor {
    /// What may be done now.
    func ask() -> DatabaseFallback.Order {
        let canDivert = fallback.settings.mode == .sample || deadLetters != nil
        let (order, transition) = fallback.next(
            hasWork: canDivert && !claims.isEmpty, at: SystemClock.monotonicMicroseconds())
        note(transition)
        return order
    }

    /// - Parameter permit: `nil` where a sample was stored, or was to be.
    /// - Parameter since: microseconds of the monotonic clock.
    func ended(_ permit: CircuitBreaker.Permit?, _ result: DatabaseFallback.Result, since started: Int64) {
        guard let permit else { return fallback.sampleFailed(result) }
        note(
            fallback.ended(permit, result, started: started, at: SystemClock.monotonicMicroseconds()))
    }

    /// What an outcome tells of the database.
    func judged(_ outcome: WriteOutcome) -> DatabaseFallback.Result {
        if case .failed(let error) = outcome { return judged(error) }
        return .answered
    }

    /// What an error tells of the database. It is kept as the reason, should the breaker open.
    func judged(_ error: any Error) -> DatabaseFallback.Result {
        guard let error = error as? PostgresError else { return .untold }
        let result = error.verdict
        if result != .untold { lastTrouble = "\(error)" }
        return result
    }

    private func note(_ transition: CircuitBreaker.Transition?) {
        guard let transition else { return }
        let name = "\(transition.to)"
        metrics.breaker(entered: name)
        metrics.breaker(isOpen: fallback.isOpen)
        let reason = lastTrouble
        status.update { $0.breaker = transition.to == .closed ? nil : reason }
        switch transition.to {
        case .open:
            logger.error(
                "The circuit breaker of the database is open: \(consequence)",
                [.seconds: "\(fallback.settings.breaker.waitInOpen / 1_000_000)", .reason: "\(reason)"])
        case .halfOpen: logger.notice("The circuit breaker of the database lets a probe through")
        default: logger.notice("The circuit breaker of the database is closed: messages are stored again")
        }
    }

    private var consequence: String {
        switch fallback.settings.mode {
        case .deadLetter where deadLetters != nil: "ranges of the event log become dead letters"
        case .sample where fallback.openedBySlowness:
            "a tenth of the messages is stored, the rest waits in the event log"
        default: "messages wait in the event log"
        }
    }

    /// Ends early at shutdown.
    func pause(_ microseconds: Int64) async {
        try? await cancelWhenGracefulShutdown { try await Task.sleep(for: .microseconds(microseconds)) }
    }

    /// A database that is slow gets one sample at a time, and none more often than configured.
    func waitForSample() async {
        let now = ContinuousClock.now
        if nextSample > now { await pause((nextSample - now).wholeMicroseconds) }
        nextSample = .now + configuration.sampleInterval
    }
}

extension PostgresError {
    /// What it tells of the database, for the circuit breaker.
    var verdict: DatabaseFallback.Result {
        // lock_not_available: somebody held a lock for longer than the time limit.
        if isTimeout || sqlState == "55P03" { return .timedOut }
        return isConnectionProblem ? .unreachable : .untold
    }
}
