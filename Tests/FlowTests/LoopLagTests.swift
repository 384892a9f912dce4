import Flow
import Testing

/// When is a loop late, and when is it well again?
@Suite struct LoopLagTests {
    private static let interval: Int64 = 50_000

    /// Ticks with these lags, one after another.
    private func run(_ lags: [Int64], limit: Int64?) -> (LoopLag, [LoopLag.Change]) {
        var lag = LoopLag(interval: Self.interval, limit: limit)
        var now: Int64 = 7
        _ = lag.tick(at: now)
        let changes = lags.map { late in
            now += Self.interval + late
            let (found, change) = lag.tick(at: now)
            #expect(found == late)
            return change
        }
        return (lag, changes)
    }

    @Test func theFirstTickIsNeverLate() {
        var lag = LoopLag(interval: Self.interval, limit: 1)
        let (found, change) = lag.tick(at: .max / 2)
        #expect(found == 0 && change == .none)
    }

    @Test func aTickInTimeOrEarlyIsNotLate() {
        var lag = LoopLag(interval: Self.interval, limit: 1)
        _ = lag.tick(at: 0)
        let lags = [lag.tick(at: Self.interval).lag, lag.tick(at: Self.interval + 3).lag]
        #expect(lags == [0, 0])
        #expect(!lag.isOverloaded && lag.worst == 0)
    }

    @Test func overloadBeginsAtTheLimitAndNotBelow() {
        #expect(run([999_999], limit: 1_000_000).1 == [.none])
        #expect(run([1_000_000], limit: 1_000_000).1 == [.began])
    }

    @Test func itEndsAtAQuarterOfTheLimitAndNotBefore() {
        var (lag, changes) = run([1_000_000] + Array(repeating: 0, count: 40), limit: 1_000_000)
        #expect(changes.filter { $0 == .began }.count == 1)
        #expect(changes.filter { $0 == .ended }.count == 1)
        // An eighth a tick: 0.875^10 is above a quarter, 0.875^11 is not.
        #expect(changes.firstIndex(of: .ended) == 11)
        #expect(!lag.isOverloaded)
        (lag, changes) = run([1_000_000] + Array(repeating: 300_000, count: 40), limit: 1_000_000)
        #expect(lag.isOverloaded && !changes.contains(.ended))
    }

    @Test func itDecaysToNothing() {
        #expect(run([5] + Array(repeating: 0, count: 8), limit: nil).0.worst == 0)
    }

    @Test func withoutALimitNothingIsOverloaded() {
        let (lag, changes) = run([.max / 4, 0], limit: nil)
        #expect(!lag.isOverloaded && changes == [.none, .none])
    }
}

/// Does a slow reader still read?
@Suite struct DrainWatchTests {
    /// Whether it is stuck at each of the looks, in pairs of pending bytes and time, with a timeout of 30.
    private func looks(_ looks: [(pending: Int, at: Int64)]) -> [Bool] {
        var watch = DrainWatch(pending: 100, at: 0)
        return looks.map { watch.isStuck(pending: $0.pending, at: $0.at, timeout: 30) }
    }

    @Test func whoTakesNothingIsStuckWhenTheTimeIsOver() {
        #expect(looks([(100, 29), (100, 30)]) == [false, true])
    }

    @Test func whoTakesLittleIsNot() {
        #expect(!looks((1...10).map { (100 - $0, Int64($0) * 29) }).contains(true))
    }

    @Test func moreThatWaitsIsNoProgress() {
        #expect(looks([(200, 20), (150, 29), (100, 30)]) == [false, false, true])
    }
}
