import CTimex
import Glibc
import SyncModel

/// The gateway's clocks. The boot id is read once; the rest is read at each call.
package struct SystemClock: Sendable {
    /// The kernel's boot id, 128 bits.
    package let bootHigh: UInt64
    package let bootLow: UInt64
    private let wall: @Sendable () -> Int64
    private let monotonic: @Sendable () -> Int64
    private let synchronised: @Sendable () -> Bool
    private let sinceBoot: (@Sendable () -> Int64)?

    /// The kernel's clocks of this boot; where it does not tell its boot id, that is zeros, which means unknown.
    package static let ofThisBoot = (try? SystemClock()) ?? SystemClock(bootHigh: 0, bootLow: 0)

    /// Other clocks than the kernel's, for tests of what a step does.
    ///
    /// - Parameter sinceBoot: as `monotonic`, with the time in which the machine slept; `nil`: it never sleeps.
    package init(
        bootHigh: UInt64, bootLow: UInt64, wall: @escaping @Sendable () -> Int64 = Self.wallMicroseconds,
        monotonic: @escaping @Sendable () -> Int64 = Self.monotonicMicroseconds,
        synchronised: @escaping @Sendable () -> Bool = Self.isSynchronised,
        sinceBoot: (@Sendable () -> Int64)? = nil
    ) {
        self.bootHigh = bootHigh
        self.bootLow = bootLow
        self.wall = wall
        self.monotonic = monotonic
        self.synchronised = synchronised
        self.sinceBoot = sinceBoot
    }

    /// - Throws: where the kernel does not tell its boot id.
    package init(bootIDFile: String = "/proc/sys/kernel/random/boot_id") throws(ClockError) {
        let bytes: [UInt8]
        do {
            bytes = try AtomicFile.read(bootIDFile, maximumBytes: 256)
        } catch {
            throw .unreadable(error)
        }
        let text = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isWhitespace).first ?? ""
        let digits = text.filter { $0 != "-" }
        guard digits.utf8.count == 32, let high = UInt64(digits.prefix(16), radix: 16),
            let low = UInt64(digits.suffix(16), radix: 16)
        else { throw .noBootID(file: bootIDFile) }
        self.init(bootHigh: high, bootLow: low, sinceBoot: { Self.microseconds(CLOCK_BOOTTIME) })
    }

    package func now() -> FrameClock { now(isSynchronised: isSynchronisedNow()) }

    /// Asking the kernel whether the clock is synchronised is a system call, which some callers do seldom.
    package func now(isSynchronised: Bool) -> FrameClock {
        let monotonicTime = monotonic()
        return FrameClock(
            wallTime: wall(), monotonicTime: monotonicTime, bootHigh: bootHigh, bootLow: bootLow,
            isSynchronised: isSynchronised, asleepTime: sinceBoot.map { $0() - monotonicTime } ?? 0)
    }

    /// Microseconds since the boot.
    package func monotonicTime() -> Int64 { monotonic() }

    package func isSynchronisedNow() -> Bool { synchronised() }

    /// Microseconds since 1970.
    package static func wallMicroseconds() -> Int64 { microseconds(CLOCK_REALTIME) }

    /// Microseconds since the boot, without the time in which the machine slept.
    package static func monotonicMicroseconds() -> Int64 { microseconds(CLOCK_MONOTONIC) }

    /// Whether something steers the clock (NTP, PTP, GPS): the kernel knows, whoever does it.
    package static func isSynchronised() -> Bool {
        // All zero: a query that changes nothing and needs no privilege.
        var state = timex()
        let answer = adjtimex(&state)
        // Below 0 where a sandbox forbids to ask.
        return answer >= 0 && answer != TIME_ERROR && state.status & STA_UNSYNC == 0
    }

    private static func microseconds(_ clock: clockid_t) -> Int64 {
        var time = timespec()
        // Fails for a clock that does not exist alone; these two exist on every Linux.
        clock_gettime(clock, &time)
        return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
    }
}

package enum ClockError: Error, Equatable, CustomStringConvertible {
    case unreadable(FileError)
    case noBootID(file: String)

    package var description: String {
        switch self {
        case .unreadable(let error): error.description
        case .noBootID(let file): "\(file) holds no boot id (32 hexadecimal digits with hyphens)"
        }
    }
}
