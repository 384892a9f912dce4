import Flow
import Testing

@Suite struct RateMeterTests {
    @Test func theRatesAreThoseOfTheLastTenSecondsAndOfTheLastMinute() {
        var meter = RateMeter()
        var (messages, bytes) = (UInt64(0), UInt64(0))
        for _ in 0..<10 { meter.sample(messages: messages, bytes: bytes, elapsed: RateMeter.interval) }
        for _ in 0..<2 {
            messages += 50
            bytes += 5_000
            meter.sample(messages: messages, bytes: bytes, elapsed: RateMeter.interval)
        }
        #expect(meter.lastTenSeconds == .init(messages: 10, bytes: 1_000))
        #expect(abs(meter.lastMinute.messages - 100.0 / 60) < 0.001)
        for _ in 0..<2 { meter.sample(messages: messages, bytes: bytes, elapsed: RateMeter.interval) }
        #expect(meter.lastTenSeconds == .zero)
        #expect(abs(meter.lastMinute.messages - 100.0 / 60) < 0.001)
        for _ in 0..<24 { meter.sample(messages: messages, bytes: bytes, elapsed: RateMeter.interval) }
        #expect(meter.lastMinute == .zero)
    }

    @Test func aLateSampleIsNoHigherRate() {
        var meter = RateMeter()
        for step in UInt64(1)...2 {
            meter.sample(messages: step * 100, bytes: 0, elapsed: 2 * RateMeter.interval)
        }
        #expect(meter.lastTenSeconds.messages == 10)
    }

    @Test func aMinuteFarAboveTheUsualIsFoundByTheMeter() {
        var meter = RateMeter()
        var messages: UInt64 = 0
        func minute(_ perSample: UInt64) {
            for _ in 0..<12 {
                messages += perSample
                meter.sample(messages: messages, bytes: 0, elapsed: RateMeter.interval)
            }
        }
        for _ in 0..<UsualRate.warmUp { minute(5) }
        #expect(abs(meter.usual.average - 1) < 0.001 && !meter.usual.isExceeded)
        minute(60)
        #expect(meter.usual.isExceeded)
        minute(5)
        #expect(!meter.usual.isExceeded)
    }
}

@Suite struct UsualRateTests {
    private func warm(_ rate: Double) -> UsualRate {
        var usual = UsualRate()
        for _ in 0..<UsualRate.warmUp { usual.observe(minute: rate) }
        return usual
    }

    @Test func nothingIsJudgedBeforeItIsKnown() {
        var usual = UsualRate()
        usual.observe(minute: 1)
        for _ in 1..<UsualRate.warmUp { usual.observe(minute: 1_000) }
        #expect(!usual.isExceeded)
    }

    @Test func tenTimesTheUsualIsExceededAndHalfOfThatEndsIt() {
        var usual = warm(2)
        usual.observe(minute: 20)
        #expect(!usual.isExceeded, "the threshold itself is not beyond it")
        usual = warm(2)
        usual.observe(minute: 20.1)
        #expect(usual.isExceeded)
        usual.observe(minute: 15)
        #expect(usual.isExceeded, "above half of the threshold")
        usual.observe(minute: 5)
        #expect(!usual.isExceeded)
    }

    @Test func aSlowDeviceMayUseTheFloor() {
        var usual = warm(0.001)
        usual.observe(minute: UsualRate.floor)
        #expect(!usual.isExceeded)
        usual.observe(minute: UsualRate.floor + 0.1)
        #expect(usual.isExceeded)
    }

    /// A day of it, by simulated minutes.
    @Test func silenceIsNotUsualAndABurstDoesNotBecomeSo() {
        var usual = warm(5)
        for _ in 0..<1_440 {
            for _ in 0..<9 { usual.observe(minute: 0) }
            usual.observe(minute: 5)
            #expect(!usual.isExceeded)
        }
        #expect(abs(usual.average - 5) < 0.001)
        var minutes = 0
        repeat {
            usual.observe(minute: 5_000)
            minutes += 1
        } while usual.isExceeded && minutes < 100_000
        // An hour of a broken sensor stays remarkable; what stays for days is the new usual.
        #expect(minutes > 600 && minutes < 30 * 1_440, "\(minutes)")
    }
}
