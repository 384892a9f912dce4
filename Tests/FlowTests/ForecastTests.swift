import Flow
import Testing

private let second: Int64 = 1_000_000

@Suite struct DrainForecastTests {
    @Test func whatShrinksEvenlyIsForetold() throws {
        var forecast = DrainForecast()
        for step in 0...30 { forecast.observe(100_000 - step * 1_000, at: Int64(step) * second) }
        let foretold = forecast.seconds(at: 30 * second) ?? -1
        #expect(abs(foretold - 70) < 0.01)
    }

    @Test func whatGrowsOrStandsStillIsNot() {
        var growing = DrainForecast()
        var standing = DrainForecast()
        for step in 0...30 {
            growing.observe(1_000 + step, at: Int64(step) * second)
            standing.observe(1_000, at: Int64(step) * second)
        }
        #expect(growing.seconds(at: 30 * second) == nil && standing.seconds(at: 30 * second) == nil)
    }

    @Test func theLastMinuteCounts() {
        var forecast = DrainForecast()
        var waiting = 1_000_000
        for step in 0...200 {
            waiting -= step < 100 ? 10 : 1_000
            forecast.observe(waiting, at: Int64(step) * second)
        }
        let foretold = forecast.seconds(at: 200 * second) ?? -1
        #expect(abs(foretold - Double(waiting) / 1_000) < 20)
        let stalled = forecast.seconds(at: 230 * second) ?? -1
        #expect(stalled > Double(waiting) / 1_000, "a standstill makes it later")
    }

    @Test func nothingWaitsNothingToWaitFor() {
        var forecast = DrainForecast()
        #expect(forecast.seconds(at: 0) == 0)
        forecast.observe(100, at: 0)
        #expect(forecast.seconds(at: second / 2) == nil, "not known yet")
        forecast.observe(0, at: 2 * second)
        #expect(forecast.seconds(at: 3 * second) == 0)
        forecast.observe(500, at: 100 * second)
        forecast.observe(400, at: 102 * second)
        #expect(forecast.seconds(at: 102 * second) == 8, "a new one begins with its own rate")
    }
}

@Suite struct HourMeterTests {
    @Test func hoursFollowEachOther() {
        var meter = HourMeter(at: 500)
        meter.add(10, at: 600)
        meter.add(5, at: HourMeter.hour + 499)
        #expect(meter.current(at: HourMeter.hour + 499) == 15 && meter.nextHour(at: 600) == HourMeter.hour + 500)
        #expect(meter.current(at: HourMeter.hour + 500) == 0 && meter.previous(at: HourMeter.hour + 500) == 15)
        meter.add(1, at: HourMeter.hour + 500)
        #expect(meter.previous(at: 4 * HourMeter.hour) == 0, "an hour in which nothing was sent")
        #expect(meter.nextHour(at: 4 * HourMeter.hour) == 4 * HourMeter.hour + 500)
        meter.add(7, at: 0)
        #expect(meter.current(at: 4 * HourMeter.hour) == 7, "a clock that goes back spends in the hour that is")
    }
}
