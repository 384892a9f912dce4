import MQTTSession
import Operations
import SyncModel

/// The event loop's view of time; its parts are read together, so that a message's stamps belong together.
struct EdgeClock {
    private let source: SystemClock
    private let gatewayTime: GatewayTime
    /// Asking the kernel is a system call, so it is asked a few times a second.
    private var isSynchronised: Bool

    init(_ source: SystemClock, gatewayTime: GatewayTime) {
        self.source = source
        self.gatewayTime = gatewayTime
        isSynchronised = source.isSynchronisedNow()
    }

    func now() -> BrokerTime {
        let clock = source.now(isSynchronised: isSynchronised)
        return BrokerTime(
            monotonic: clock.monotonicTime, gateway: gatewayTime.microseconds(at: clock.monotonicTime), clock: clock)
    }

    mutating func refreshSynchronisation() { isSynchronised = source.isSynchronisedNow() }

    /// Microseconds.
    static func monotonicTime() -> Int64 { SystemClock.monotonicMicroseconds() }
}
