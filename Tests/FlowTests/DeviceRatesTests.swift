import Flow
import Testing

@Suite struct HeavyHittersTests {
    @Test func whatComesMoreOftenThanOnceInCapacityIsKeptWhateverElseComes() {
        var hitters = HeavyHitters<Int, Int>(capacity: 100)
        var generator = SplitMix64(seed: 7)
        var total = 0
        for _ in 0..<200_000 {
            // Five keys have 2% each, the others are new nearly each time.
            let draw = Int.random(in: 0..<1_000, using: &generator)
            let key = draw < 100 ? draw / 20 : Int.random(in: 1_000..<1_000_000, using: &generator)
            hitters.add(1, of: key, fresh: 0) { $0 += 1 }
            total += 1
        }
        #expect(hitters.entries.count == 100)
        for key in 0..<5 {
            // Its own count from when it was kept, which was at its first messages.
            let counted = hitters[key] ?? 0
            #expect(Double(counted) > Double(total) * 0.015, "key \(key): \(counted)")
        }
        #expect(hitters.entries.reduce(0) { $0 + Int($1.weight) } == total)
    }

    @Test func theLightestMakesRoomAndHalvingKeepsTheOrder() {
        var hitters = HeavyHitters<String, Int>(capacity: 3)
        for (key, weight) in [("a", 10), ("b", 5), ("c", 7)] { hitters.add(UInt64(weight), of: key, fresh: 1) { _ in } }
        hitters.halve()
        hitters.add(4, of: "b", fresh: 1) { _ in }
        // Now a 5, b 6, c 3.
        hitters.add(1, of: "d", fresh: 2) { _ in }
        #expect(hitters["c"] == nil && hitters["d"] == 2 && hitters["a"] == 1 && hitters["b"] == 1)
        #expect(hitters.entries.first { $0.key == "d" }?.weight == 4)
    }
}

@Suite struct DeviceRatesTests {
    private static let second: Int64 = 1_000_000
    private static let minute: Int64 = 60_000_000
    private let device = DeviceRates.Device(gateway: "g", id: "d")

    private func moment(_ monotonic: Int64, boot: UInt64 = 1) -> DeviceRates.Moment {
        .init(bootHigh: 9, bootLow: boot, monotonic: monotonic)
    }

    /// Ten batches a minute with a tenth of its messages each.
    private func send(
        _ rates: inout DeviceRates, perSecond: Int, minutes: Range<Int64>, boot: UInt64 = 1, arrival: Int64? = nil
    ) {
        for step in (minutes.lowerBound * 10)..<(minutes.upperBound * 10) {
            let time = step * Self.minute / 10
            rates.observe(
                device, messages: perSecond * 6, at: moment(time, boot: boot), now: arrival ?? time)
        }
    }

    @Test func moreThanIsExpectedIsUnusualFromTheFirstWholeMinuteOn() {
        var rates = DeviceRates(expected: 10)
        send(&rates, perSecond: 11, minutes: 0..<2)
        #expect(
            rates.unusual(at: 2 * Self.minute).isEmpty,
            "the first minute may be a part of one, the second has not ended")
        send(&rates, perSecond: 11, minutes: 2..<3)
        let found = rates.unusual(at: 3 * Self.minute)
        #expect(found.map(\.device) == [device] && found.first?.rate == 11)
        send(&rates, perSecond: 10, minutes: 3..<5)
        #expect(rates.unusual(at: 5 * Self.minute).isEmpty, "as much as is expected")
    }

    @Test func aDeviceIsJudgedByItsOwnHistoryToo() {
        var rates = DeviceRates(expected: nil)
        send(&rates, perSecond: 1, minutes: 0..<15)
        send(&rates, perSecond: 9, minutes: 15..<17)
        #expect(rates.unusual(at: 17 * Self.minute).isEmpty)
        send(&rates, perSecond: 30, minutes: 17..<19)
        #expect(rates.unusual(at: 19 * Self.minute).map(\.device) == [device])
    }

    @Test func catchingUpIsNoFasterSending() {
        var rates = DeviceRates(expected: 10)
        send(&rates, perSecond: 5, minutes: 0..<3)
        // Half an hour of messages at once.
        send(&rates, perSecond: 5, minutes: 3..<33, arrival: 3 * Self.minute)
        #expect(rates.unusual(at: 3 * Self.minute).isEmpty)
    }

    @Test func aRepeatedBatchCountsOnce() {
        var rates = DeviceRates(expected: 10)
        for minute in Int64(0)..<4 {
            for _ in 0..<5 { send(&rates, perSecond: 6, minutes: minute..<(minute + 1)) }
        }
        #expect(rates.unusual(at: 4 * Self.minute).isEmpty)
    }

    @Test func aNewBootBeginsAnewAndSilenceEndsIt() {
        var rates = DeviceRates(expected: 10)
        send(&rates, perSecond: 50, minutes: 0..<3)
        #expect(rates.unusual(at: 3 * Self.minute).count == 1)
        #expect(rates.unusual(at: 3 * Self.minute + DeviceRates.silence).isEmpty)
        send(&rates, perSecond: 2, minutes: 0..<3, boot: 2, arrival: 4 * Self.minute)
        #expect(rates.unusual(at: 4 * Self.minute).isEmpty)
    }

    /// 100,000 messages a second of 10,000 devices, of which one sends fifty times as much as the others.
    @Test func oneOfTenThousandIsFound() {
        var rates = DeviceRates(expected: 10)
        for second in Int64(0)..<180 {
            let now = second * Self.second
            for index in 0..<10_000 {
                rates.observe(
                    .init(gateway: "g", id: "d\(index)"), messages: index == 77 ? 500 : 10, at: moment(now), now: now)
            }
        }
        #expect(rates.unusual(at: 180 * Self.second).map(\.device.id) == ["d77"])
    }
}
