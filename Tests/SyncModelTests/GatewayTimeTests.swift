import Testing

@testable import SyncModel

private let second: Int64 = 1_000_000
private let fiftyYears = 50 * 365 * 86_400 * second
private let now: Int64 = 1_780_000_000 * second

private func clock(_ wall: Int64, _ monotonic: Int64, boot: UInt64 = 1, synchronised: Bool = true) -> FrameClock {
    FrameClock(wallTime: wall, monotonicTime: monotonic, bootHigh: boot, bootLow: boot, isSynchronised: synchronised)
}

/// The gateway's own time goes on where it was, however the wall clock jumps.
@Suite struct GatewayTimeTests {
    /// 100 s of the gateway's time, set down 40 s after the boot.
    private let stamp = GatewayTimeStamp(gatewayTime: 100 * second, clock: clock(now, 40 * second))

    private func after(_ stamp: GatewayTimeStamp?, _ clock: FrameClock) -> Int64 {
        GatewayTime(after: stamp, at: clock).microseconds(at: clock.monotonicTime)
    }

    @Test func itBeginsAtNothing() {
        #expect(after(nil, clock(now, 40 * second)) == 0)
    }

    @Test(arguments: [0, 1, fiftyYears, -fiftyYears], [true, false])
    func withinABootItIsExactWhateverTheWallClockDoes(step: Int64, synchronised: Bool) {
        #expect(
            after(stamp, clock(now + step, 47 * second, synchronised: synchronised)) == 107 * second,
            "the time in which the daemon was down counts")
        let time = GatewayTime(after: stamp, at: clock(now, 47 * second))
        #expect(time.microseconds(at: 50 * second) == 110 * second && time.isContinuous)
    }

    @Test func itNeverGoesBack() {
        #expect(after(stamp, clock(now, 39 * second)) == 100 * second)
        #expect(after(stamp, clock(now - 1, 3 * second, boot: 2)) == 100 * second)
    }

    @Test func acrossBootsASynchronisedClockTellsHowLongTheGatewayWasOff() {
        let time = GatewayTime(after: stamp, at: clock(now + 3_600 * second, 9 * second, boot: 2))
        #expect(time.microseconds(at: 9 * second) == 3_700 * second && time.isContinuous)
    }

    /// A gateway without a clock that keeps running boots in 1970, or 50 years ahead: neither counts.
    @Test(arguments: [0, now + fiftyYears])
    func acrossBootsAClockThatNobodySetDoesNotCount(wall: Int64) {
        let unset = GatewayTime(after: stamp, at: clock(wall, 9 * second, boot: 2, synchronised: false))
        #expect(unset.microseconds(at: 9 * second) == 100 * second && !unset.isContinuous)
        var earlier = stamp
        earlier.clock.isSynchronised = false
        earlier.clock.wallTime = wall
        #expect(after(earlier, clock(now, 9 * second, boot: 2)) == 100 * second)
    }

    @Test func anUnknownBootIsNeverTheSame() {
        let unknown = GatewayTimeStamp(gatewayTime: 5, clock: clock(now, 40 * second, boot: 0, synchronised: false))
        #expect(after(unknown, clock(now, 90 * second, boot: 0, synchronised: false)) == 5)
    }

    @Test(arguments: [Int64.min, -1, .max]) func aStampOutOfADamagedFileEndsNothing(value: Int64) {
        let damaged = GatewayTimeStamp(gatewayTime: value, clock: clock(value, value))
        let found = after(damaged, clock(now, 9 * second, boot: 1))
        #expect(found >= 0 && found <= 1 << 61)
        #expect(after(damaged, clock(now, 9 * second, boot: 2)) >= 0)
    }

    @Test func whereOlderFilesBegin() {
        #expect(GatewayTime.origin(newest: now - 5, at: clock(now, 1)) == now)
        #expect(GatewayTime.origin(newest: now - 5, at: clock(now + fiftyYears, 1, synchronised: false)) == now - 5)
        #expect(GatewayTime.origin(newest: nil, at: clock(7, 1, synchronised: false)) == 7)
    }
}
