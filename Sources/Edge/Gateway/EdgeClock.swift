import MQTTSession
import Operations
import SyncModel

/// The event loop's view of time; its parts are read together, so that a message's stamps belong together.
struct EdgeClock {
    private let source: SystemClock
    /// Asking the kernel is a system call, so it is asked a few times a second.
    private var isSynchronised = SystemClock.isSynchronised()

    init(_ source: SystemClock) { self.source = source }

    func now() -> BrokerTime {
        let clock = FrameClock(
            wallTime: SystemClock.wallMicroseconds(), monotonicTime: SystemClock.monotonicMicroseconds(),
            bootHigh: source.bootHigh, bootLow: source.bootLow, isSynchronised: isSynchronised)
        return BrokerTime(monotonic: clock.monotonicTime, clock: clock)
    }

    mutating func refreshSynchronisation() { isSynchronised = SystemClock.isSynchronised() }

    /// Microseconds.
    static func monotonicTime() -> Int64 { SystemClock.monotonicMicroseconds() }
    /// Seconds since 1970.
    static func wallSeconds() -> Int64 { SystemClock.wallMicroseconds() / 1_000_000 }
}
