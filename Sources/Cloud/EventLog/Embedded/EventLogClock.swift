#if canImport(Musl)
    import Musl
#else
    import Glibc
#endif

/// The clocks of the log: a parameter, so that retention is testable.
package struct EventLogClock: Sendable {
    /// Microseconds since 1970.
    package var wall: @Sendable () -> Int64
    /// Microseconds since some fixed moment; does not jump.
    package var monotonic: @Sendable () -> Int64

    package init(wall: @escaping @Sendable () -> Int64, monotonic: @escaping @Sendable () -> Int64) {
        self.wall = wall
        self.monotonic = monotonic
    }

    package static let system = EventLogClock(
        wall: { microseconds(of: CLOCK_REALTIME) }, monotonic: { microseconds(of: CLOCK_MONOTONIC) })

    private static func microseconds(of clock: clockid_t) -> Int64 {
        var now = timespec()
        clock_gettime(clock, &now)
        return Int64(now.tv_sec) * 1_000_000 + Int64(now.tv_nsec) / 1000
    }
}
