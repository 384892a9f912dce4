import CLinux
import Glibc
import SyncModel

/// The machine's clocks, for the drivers; Core gets the time as a parameter.
package enum SystemClock {
    /// Microseconds since 1970-01-01T00:00:00Z. It may step in either direction.
    package static func wallTime() -> Int64 { microseconds(CLOCK_REALTIME) }

    /// Microseconds since some point of this boot; never steps. It runs on in suspend, as a device's keep-alive does.
    package static func monotonicTime() -> Int64 { microseconds(CLOCK_BOOTTIME) }

    /// Whether the kernel holds the wall clock for synchronised (`adjtimex`, STA_UNSYNC is off).
    package static func isSynchronised() -> Bool {
        var state = timex()
        return adjtimex(&state) != TIME_ERROR && state.status & STA_UNSYNC == 0
    }

    /// The kernel's boot id, 128 bits; zeros where the system has none.
    package static func bootID() -> (high: UInt64, low: UInt64) {
        guard let file = fopen("/proc/sys/kernel/random/boot_id", "r") else { return (0, 0) }
        defer { fclose(file) }
        var text = [UInt8](repeating: 0, count: 64)
        let count = fread(&text, 1, text.count, file)
        let digits = text.prefix(count).compactMap { Character(UnicodeScalar($0)).hexDigitValue }
        guard digits.count == 32 else { return (0, 0) }
        func value(_ part: ArraySlice<Int>) -> UInt64 { part.reduce(0) { $0 << 4 | UInt64($1) } }
        return (value(digits[0..<16]), value(digits[16..<32]))
    }

    private static func microseconds(_ clock: clockid_t) -> Int64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
    }
}

/// Stamps messages: what does not change is read once, whether the clock is synchronised now and then.
package struct FrameClockSource: Sendable {
    private let boot = SystemClock.bootID()
    private var isSynchronised = SystemClock.isSynchronised()

    package init() {}

    package func now() -> FrameClock {
        FrameClock(
            wallTime: SystemClock.wallTime(), monotonicTime: SystemClock.monotonicTime(), bootHigh: boot.high,
            bootLow: boot.low, isSynchronised: isSynchronised)
    }

    /// A system call; not for the hot path.
    package mutating func refreshSynchronisation() { isSynchronised = SystemClock.isSynchronised() }
}
