import Buffer
import Flow

/// What the uplink is about, for a status page; read from any thread.
package struct UplinkStatus: Sendable, Equatable {
    package var waiting = WaitingData()
    /// Until the backlog is sent, as it goes now; 0 without one, `nil` when that cannot be told or nothing gets less.
    package var drainSeconds: Double? = 0
    package var breaker: CircuitBreaker.State = .closed
    /// Attempts without an answer or with another than 200, since the last 200.
    package var failures = 0
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
}
