import MQTTSession
import Operations
import SyncModel

/// The event loop's view of time; its parts are read together, so that a message's stamps belong together.
struct EdgeClock {
    private var source = FrameClockSource()

    func now() -> BrokerTime {
        let clock = source.now()
        return BrokerTime(monotonic: clock.monotonicTime, clock: clock)
    }

    mutating func refreshSynchronisation() { source.refreshSynchronisation() }

    static func monotonicTime() -> Int64 { SystemClock.monotonicTime() }
    /// Seconds since 1970.
    static func wallSeconds() -> Int64 { SystemClock.wallTime() / 1_000_000 }
}
