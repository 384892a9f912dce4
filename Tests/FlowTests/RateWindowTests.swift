import Flow
import Testing

struct RateWindowTests {
    @Test func forgetsWholeSeconds() {
        var window = RateWindow(seconds: 3)
        window.add(5, at: 0)
        window.add(2, at: 999_999)
        window.add(1, at: 1_000_000)
        #expect(window.total(at: 2_999_999) == 8)
        #expect(window.total(at: 3_000_000) == 1)
        #expect(window.total(at: 4_000_000) == 0)
    }

    @Test func timesBeforeTheNewestCountInTheNewest() {
        var window = RateWindow(seconds: 3)
        window.add(at: 10_000_000)
        window.add(at: 0)
        #expect(window.total(at: 0) == 2)
        #expect(window.total(at: 12_999_999) == 2)
        #expect(window.total(at: 13_000_000) == 0)
    }

    @Test func extremeTimesAndSizes() {
        var window = RateWindow(seconds: 0)
        #expect(window.seconds == 1)
        #expect(RateWindow(seconds: .max).seconds == 3_600)
        window.add(3, at: .min)
        #expect(window.total(at: .min) == 3)
        #expect(window.total(at: .max) == 0)
        window.add(at: .max)
        window.reset()
        #expect(window.total(at: .min) == 0)
    }

    /// Against a list of everything that was ever added.
    @Test(arguments: 0..<20) func agreesWithTheWholeHistory(seed: UInt64) {
        var generator = SplitMix64(seed: seed)
        let seconds = Int.random(in: 1...12, using: &generator)
        var window = RateWindow(seconds: seconds)
        var now = Int64.random(in: -20_000_000...0, using: &generator)
        var history: [(second: Int64, count: Int)] = []
        for _ in 0..<500 {
            let isLeap = Int.random(in: 0..<20, using: &generator) == 0
            now += Int64.random(in: 0...(isLeap ? 30_000_000 : 700_000), using: &generator)
            let second = Int64((Double(now) / 1_000_000).rounded(.down))
            if Bool.random(using: &generator) {
                let count = Int.random(in: 0...9, using: &generator)
                window.add(count, at: now)
                history.append((second, count))
            }
            let expected = history.filter { $0.second > second - Int64(seconds) }.map(\.count).reduce(0, +)
            #expect(window.total(at: now) == expected)
        }
    }
}
