/// The last time that was known to be right, and where the gateway's own time was then.
package struct KnownGoodTime: Sendable, Equatable {
    /// Microseconds since 1970: the largest that a synchronised clock has said.
    package var wallTime: Int64
    /// Microseconds of the gateway's own time.
    package var gatewayTime: Int64
    /// Since then the gateway was off for a time that it does not know.
    package var hasGap: Bool

    package init(wallTime: Int64, gatewayTime: Int64, hasGap: Bool) {
        self.wallTime = wallTime
        self.gatewayTime = gatewayTime
        self.hasGap = hasGap
    }
}

/// What the gateway knows of time: its own, and the last that was known to be right. A value that is stored with each
/// stamp; `docs/decisions/0013-the-gateways-clock.md` says why it decides as it does.
package struct GatewayClock: Sendable, Equatable {
    package let time: GatewayTime
    package private(set) var good: KnownGoodTime?
    /// Since when a synchronised clock has been behind the known good time without a step; microseconds on the monotonic
    /// clock.
    private var behindSince: Int64?
    private var last: FrameClock

    /// How far an unsynchronised clock may be ahead after the gateway was off, and still be believed: ten years.
    package static let longestGap: Int64 = 10 * 366 * 86_400 * 1_000_000
    /// A clock that is synchronised for so long is right, whatever one said before.
    package static let proofTime: Int64 = 3_600_000_000
    /// More than this is a step; below it are the moments between the readings of two clocks.
    package static let step: Int64 = 1_000_000
    /// To the end of the year 9999; what is read from a damaged file is held to it.
    private static let times: ClosedRange<Int64> = 0...253_402_300_799_999_999

    /// - Parameters:
    ///   - stamp: the last that was stored.
    ///   - good: stored with it.
    ///   - clock: now.
    package init(after stamp: GatewayTimeStamp?, good: KnownGoodTime?, at clock: FrameClock) {
        time = GatewayTime(after: stamp, at: clock)
        last = clock
        if var good, Self.times.contains(good.wallTime), Self.times.contains(good.gatewayTime) {
            good.hasGap = good.hasGap || !time.isContinuous
            self.good = good
        }
        observe(clock)
    }

    /// What the clocks say now; to be called at each stamp.
    package mutating func observe(_ clock: FrameClock) {
        defer { last = clock }
        guard clock.isSynchronised else {
            behindSince = nil
            return
        }
        guard let good, clock.wallTime < good.wallTime else {
            believe(clock)
            return
        }
        let isSteady = last.isSynchronised && abs(clock.offset &- last.offset) <= Self.step
        guard let since = behindSince, isSteady else {
            behindSince = clock.monotonicTime
            return
        }
        if clock.monotonicTime - since >= Self.proofTime { believe(clock) }
    }

    private mutating func believe(_ clock: FrameClock) {
        behindSince = nil
        guard Self.times.contains(clock.wallTime) else { return }
        good = KnownGoodTime(
            wallTime: clock.wallTime, gatewayTime: time.microseconds(at: clock.monotonicTime), hasGap: false)
    }

    /// The time by which certificates are judged, microseconds since 1970: the later of the clock and the last known
    /// good time, which goes on with the gateway's own. A clock that nobody has synchronised is not believed to be ahead
    /// where the gateway knows better, or by more than a gateway is off.
    package func judgingTime(at clock: FrameClock) -> Int64 {
        guard let good else { return clock.wallTime }
        if clock.isSynchronised { return max(clock.wallTime, good.wallTime) }
        let estimate = good.wallTime + max(0, time.microseconds(at: clock.monotonicTime) - good.gatewayTime)
        guard clock.wallTime > estimate, good.hasGap, clock.wallTime - estimate <= Self.longestGap else {
            return estimate
        }
        return clock.wallTime
    }
}
