import Buffer
import Flow
import Operations

/// What the uplink is about, for a status page; read from any thread.
package struct UplinkStatus: Sendable, Equatable {
    package var waiting = WaitingData()
    /// Until all that waits is sent, as it goes now; 0 where the next batch takes it, `nil` when that cannot be told or nothing
    /// gets less.
    package var drainSeconds: Double? = 0
    package var breaker: CircuitBreaker.State = .closed
    /// Attempts without an answer or with another than 200, since the last 200.
    package var failures = 0
    /// Since the first of them.
    package var failingSince: ContinuousClock.Instant?
    /// Seconds since 1970; `nil`: not since the start.
    package var lastSuccess: Int?
    /// The cloud refuses a batch, and someone must look.
    package var isRefused = false
    /// Messages made dead letters since the start.
    package var buried = 0
    /// Compressed bytes.
    package var bytesThisHour = 0
    package var bytesLastHour = 0
    /// `nil`: unlimited.
    package var bytesPerHour: Int?
    /// Something waits for the next hour's bytes.
    package var isHeldBack = false

    /// Without an answer for so long, it is no hiccup of the link.
    private static let patience = Duration.seconds(180)

    package func health(at now: ContinuousClock.Instant = .now) -> HealthState {
        if isRefused { return .degraded("the cloud refuses a batch; the log says why") }
        guard let failingSince, failures > 0 else { return .good }
        let away = now - failingSince
        guard breaker != .closed || away >= Self.patience else { return .good }
        return .degraded(
            "the cloud has taken nothing for \(Shown.duration(seconds: away.components.seconds)), in \(failures) attempts"
                + (breaker == .closed ? "" : ", and the circuit breaker is open") + "; the log says why")
    }
}
