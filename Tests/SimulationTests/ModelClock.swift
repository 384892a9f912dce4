import Operations
import SyncModel

/// The clocks of the simulated machine. Microseconds.
///
/// `@unchecked Sendable`: a simulation is one thread; `SystemClock` wants closures that may be sent.
final class ModelClock: @unchecked Sendable {
    /// Since the simulation began; nobody in it can see this.
    private(set) var now: Int64 = 0
    private var bootedAt: Int64 = 0
    /// What the wall clock is ahead of `now`.
    private var wallLead: Int64
    private(set) var boot: UInt64 = 1
    var isSynchronised = true

    static let year: Int64 = 365 * 86_400 * 1_000_000
    private static let start: Int64 = 1_700_000_000_000_000

    init() { wallLead = Self.start }

    func advance(to time: Int64) { now = max(now, time) }

    /// Begins near 0 with each boot.
    var monotonic: Int64 { now - bootedAt + 2_000_000 }
    var wall: Int64 { now + wallLead }

    func step(by difference: Int64) { wallLead = min(max(wallLead + difference, -now), Self.start + 60 * Self.year) }

    /// The time server is right.
    func synchronise() {
        wallLead = Self.start
        isSynchronised = true
    }

    func reboot() {
        boot += 1
        bootedAt = now
        isSynchronised = false
    }

    /// Of this boot.
    func system() -> SystemClock {
        SystemClock(
            bootHigh: 0xb007, bootLow: boot, wall: { self.wall }, monotonic: { self.monotonic },
            synchronised: { self.isSynchronised })
    }
}
