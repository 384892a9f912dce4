import Testing

@testable import SyncModel

private let second: Int64 = 1_000_000
private let hour = 3_600 * second
private let year = 365 * 24 * hour
private let now: Int64 = 1_780_000_000 * second

private func clock(_ wall: Int64, _ monotonic: Int64, boot: UInt64 = 1, synchronised: Bool = true) -> FrameClock {
    FrameClock(wallTime: wall, monotonicTime: monotonic, bootHigh: boot, bootLow: boot, isSynchronised: synchronised)
}

/// By which time a certificate is judged.
@Suite struct GatewayClockTests {
    /// Synchronised for a minute, then without a network.
    private func running() -> GatewayClock {
        var clocks = GatewayClock(after: nil, good: nil, at: clock(now - 60 * second, 0))
        clocks.observe(clock(now, 60 * second))
        return clocks
    }

    /// After a boot without synchronisation.
    private func booted(_ wall: Int64) -> (GatewayClock, FrameClock) {
        let before = running()
        let first = clock(wall, second, boot: 2, synchronised: false)
        return (
            GatewayClock(after: before.time.stamp(at: clock(now, 60 * second)), good: before.good, at: first), first
        )
    }

    @Test func withoutAnythingBetterItIsTheClock() {
        let first = clock(7, 1, synchronised: false)
        #expect(GatewayClock(after: nil, good: nil, at: first).judgingTime(at: first) == 7)
    }

    @Test func aBootIn1970IsJudgedByTheLastKnownGoodTime() {
        let (clocks, first) = booted(0)
        #expect(clocks.judgingTime(at: first) == now)
        #expect(
            clocks.judgingTime(at: clock(5 * second, 6 * second, boot: 2, synchronised: false)) == now + 5 * second,
            "which goes on")
    }

    /// A clock with a battery, and no network: the years in a store room are known to it alone.
    @Test func theLaterOfTheTwoIsTaken() {
        let (clocks, first) = booted(now + 3 * year)
        #expect(clocks.judgingTime(at: first) == now + 3 * year)
    }

    @Test func aClockFarAheadAfterABootIsNotBelieved() {
        let (clocks, first) = booted(now + 50 * year)
        #expect(clocks.judgingTime(at: first) == now)
    }

    @Test(arguments: [-50 * year, -1, 2 * year, 50 * year])
    func withinABootAStepWithoutSynchronisationChangesNothing(step: Int64) {
        var clocks = running()
        let later = clock(now + hour + step, 60 * second + hour, synchronised: false)
        clocks.observe(later)
        #expect(clocks.judgingTime(at: later) == now + hour)
    }

    @Test func aSynchronisedClockIsBelieved() {
        var (clocks, _) = booted(0)
        let right = clock(now + 2 * year, hour, boot: 2)
        #expect(clocks.judgingTime(at: right) == now + 2 * year)
        clocks.observe(right)
        #expect(clocks.good?.wallTime == now + 2 * year && clocks.good?.hasGap == false)
    }

    /// A time server that was wrong must not shut devices out for ever.
    @Test func aKnownGoodTimeThatWasWrongIsGivenUpAfterAnHour() {
        var clocks = GatewayClock(after: nil, good: nil, at: clock(now + 50 * year, 0))
        for minute in 1...60 as ClosedRange<Int64> {
            let right = clock(now + minute * 60 * second, minute * 60 * second)
            clocks.observe(right)
            #expect(clocks.judgingTime(at: right) == now + 50 * year)
        }
        let proved = clock(now + 61 * 60 * second, 61 * 60 * second)
        clocks.observe(proved)
        #expect(clocks.judgingTime(at: proved) == proved.wallTime)
    }

    /// Nobody may roll time back by a moment's synchronisation.
    @Test func aStepBackBeginsTheHourAnew() {
        var clocks = running()
        for minute in 1...300 as ClosedRange<Int64> {
            let step = minute % 2 == 0 ? year : 2 * year
            clocks.observe(clock(now + minute * second - step, 60 * second + minute * 60 * second))
        }
        #expect(clocks.good?.wallTime == now)
    }

    @Test(arguments: [Int64.min, -1, .max]) func aDamagedFileEndsNothing(value: Int64) {
        let damaged = KnownGoodTime(wallTime: value, gatewayTime: value, hasGap: true)
        let first = clock(now, second, synchronised: false)
        #expect(GatewayClock(after: nil, good: damaged, at: first).judgingTime(at: first) == now)
    }
}
