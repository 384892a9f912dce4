/// A moment of the gateway's own time, and what its clocks said then. Stored with the messages, so that the next start
/// goes on from there.
package struct GatewayTimeStamp: Sendable, Equatable {
    /// Microseconds of the gateway's own time.
    package var gatewayTime: Int64
    package var clock: FrameClock

    package init(gatewayTime: Int64, clock: FrameClock) {
        self.gatewayTime = gatewayTime
        self.clock = clock
    }
}

/// The gateway's own time: microseconds that it has lived, as far as it can know. Whatever expires counts in it, because
/// it only ever ascends, and no step of the wall clock moves it.
///
/// While a daemon runs it is the monotonic clock, moved by a constant. From one daemon to the next it goes on from the
/// last stamp. The time between them counts exactly within one boot, by the wall clock across boots when that was
/// synchronised at both ends, and not at all otherwise: what waits is then kept longer, never lost.
package struct GatewayTime: Sendable, Equatable {
    /// What the gateway's time is ahead of the monotonic clock of this boot.
    private let lead: Int64
    /// All time since the stamp before counts. False where it was not known how long the gateway was off.
    package let isContinuous: Bool

    /// A gateway that lives so long has other worries; what is read from a damaged file is held to it.
    private static let longest: Int64 = 1 << 60

    /// - Parameters:
    ///   - stamp: the last that was stored; `nil` where there is none, and time begins at 0.
    ///   - clock: now.
    package init(after stamp: GatewayTimeStamp?, at clock: FrameClock) {
        guard let stamp else {
            lead = 0 - clock.monotonicTime
            isContinuous = true
            return
        }
        let passed = Self.passed(from: stamp.clock, to: clock)
        isContinuous = passed != nil
        lead = min(max(0, stamp.gatewayTime), Self.longest) + (passed ?? 0) - clock.monotonicTime
    }

    /// `nil` where nobody knows.
    private static func passed(from earlier: FrameClock, to later: FrameClock) -> Int64? {
        if later.isOfSameBoot(as: earlier) {
            return later.monotonicTime.microseconds(since: earlier.monotonicTime) ?? 0
        }
        guard earlier.isSynchronised, later.isSynchronised else { return nil }
        return later.wallTime.microseconds(since: earlier.wallTime)
    }

    /// - Parameter monotonic: microseconds on the monotonic clock of this boot.
    package func microseconds(at monotonic: Int64) -> Int64 { lead + monotonic }

    package func stamp(at clock: FrameClock) -> GatewayTimeStamp {
        GatewayTimeStamp(gatewayTime: microseconds(at: clock.monotonicTime), clock: clock)
    }

    /// What moment of the wall clock the gateway's time begins at, for files in which expiry was stored by the wall
    /// clock. A clock that is not synchronised is not asked where the file knows better: what expires by then lives on.
    ///
    /// - Parameter newest: the latest wall time that the file names for something that had happened.
    package static func origin(newest: Int64?, at clock: FrameClock) -> Int64 {
        clock.isSynchronised ? clock.wallTime : newest ?? clock.wallTime
    }
}

extension FrameClock {
    /// A boot id of zeros is not known, and the same as no other.
    package func isOfSameBoot(as other: FrameClock) -> Bool {
        bootHigh == other.bootHigh && bootLow == other.bootLow && (bootHigh, bootLow) != (0, 0)
    }

    /// What the wall clock is ahead of the monotonic clock; only a step changes it, since both are slewed alike.
    package var offset: Int64 { wallTime &- monotonicTime }

    /// Microseconds since the boot, sleep included.
    package var bootTime: Int64 { monotonicTime &+ asleepTime }

    /// The same as `offset`, but that sleep does not change it either.
    package var bootOffset: Int64 { wallTime &- bootTime }
}

extension Int64 {
    /// `nil` for a time that is not later, or further away than can be told.
    fileprivate func microseconds(since earlier: Int64) -> Int64? {
        let (difference, isTooLarge) = subtractingReportingOverflow(earlier)
        return isTooLarge || difference < 0 || difference > 1 << 60 ? nil : difference
    }
}
