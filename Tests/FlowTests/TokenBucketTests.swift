import Flow
import Testing

struct TokenBucketTests {
    /// Whatever a request's size, it passes when nothing is owed, and the debt is paid off before the next.
    @Test func owingAdmitsALargeRequestBesideSmallOnes() {
        var bucket = TokenBucket(rate: 10, burst: 20, at: 0)
        #expect(bucket.take(19, at: 0) == .admitted)
        #expect(bucket.take(100, at: 0) == .wait(1_900_000), "a full bucket is asked for")
        #expect(bucket.takeOwing(100, at: 0) == .admitted)
        #expect(bucket.takeOwing(1, at: 0) == .wait(10_000_000))
        #expect(bucket.takeOwing(1, at: 9_999_999) != .admitted)
        #expect(bucket.takeOwing(1, at: 10_000_000) == .admitted)
    }

    @Test func admitsTheBurstAndThenTheRate() {
        var bucket = TokenBucket(rate: 10, burst: 20, at: 0)
        for _ in 0..<20 { #expect(bucket.take(at: 0) == .admitted) }
        #expect(bucket.take(at: 0) == .wait(100_000))
        #expect(bucket.take(at: 99_999) == .wait(1))
        #expect(bucket.take(at: 100_000) == .admitted)
        #expect(bucket.take(at: 100_000) == .wait(100_000))
    }

    @Test func neverHoldsMoreThanTheBurst() {
        var bucket = TokenBucket(rate: 10, burst: 20, at: 0)
        #expect(bucket.available(at: .max) == 20)
        bucket.giveBack(5)
        #expect(bucket.available(at: .max) == 20)
    }

    @Test func waitIsExact() {
        var generator = SplitMix64(seed: 1)
        for _ in 0..<2_000 {
            let rate = Double(Int.random(in: 1...1_000_000, using: &generator)) / 1000
            let burst = Int64.random(in: 1...50, using: &generator)
            var bucket = TokenBucket(rate: rate, burst: burst, at: 0)
            #expect(bucket.take(burst, at: 0) == .admitted)
            let count = Int64.random(in: 1...burst, using: &generator)
            guard case .wait(let wait) = bucket.take(count, at: 0) else {
                Issue.record("an empty bucket admitted")
                return
            }
            var early = bucket
            #expect(early.take(count, at: wait - 1) != .admitted, "rate \(rate), \(count) of \(burst)")
            #expect(bucket.take(count, at: wait) == .admitted, "rate \(rate), \(count) of \(burst)")
        }
    }

    /// Asked at every odd microsecond or once a second, the sum over a long time is the same.
    @Test(arguments: [1.0, 0.333, 7.0, 9_999.999]) func doesNotDrift(rate: Double) {
        var generator = SplitMix64(seed: 2)
        var bucket = TokenBucket(rate: rate, burst: 100_000, at: 0)
        #expect(bucket.take(100_000, at: 0) == .admitted)
        var now: Int64 = 0
        for _ in 0..<100_000 {
            now += Int64.random(in: 0...99, using: &generator)
            _ = bucket.available(at: now)
        }
        #expect(bucket.available(at: now) == Int64(Double(now) * rate / 1_000_000))
    }

    /// The invariant of every token bucket, over all spans of a random history.
    @Test(arguments: 0..<20) func admitsAtMostBurstPlusRateInAnySpan(seed: UInt64) {
        var generator = SplitMix64(seed: seed)
        let rate = Double(Int.random(in: 1...500, using: &generator))
        let burst = Int64.random(in: 1...40, using: &generator)
        var bucket = TokenBucket(rate: rate, burst: burst, at: 0)
        var now: Int64 = 0
        var history: [(time: Int64, count: Int64)] = []
        for _ in 0..<400 {
            now += Int64.random(in: 0...30_000, using: &generator)
            let count = Int64.random(in: 1...burst, using: &generator)
            if bucket.take(count, at: now) == .admitted { history.append((now, count)) }
        }
        #expect(history.count > 10)
        for first in history.indices {
            var sum: Int64 = 0
            for last in first..<history.count {
                sum += history[last].count
                let span = Double(history[last].time - history[first].time) / 1_000_000
                #expect(Double(sum) <= Double(burst) + rate * span + 0.001)
            }
        }
    }

    @Test func aClockThatGoesBackwardsNeitherStallsNorPays() {
        var bucket = TokenBucket(rate: 10, burst: 2, at: 1_000_000_000)
        #expect(bucket.take(2, at: 1_000_000_000) == .admitted)
        #expect(bucket.take(at: 0) == .wait(100_000))
        #expect(bucket.take(at: 100_000) == .admitted)
        #expect(bucket.take(at: .min) == .wait(100_000))
        #expect(bucket.take(2, at: .max) == .admitted)
    }

    @Test func moreThanTheBurstPassesWhenFullAndLeavesADebt() {
        var bucket = TokenBucket(rate: 1, burst: 10, at: 0)
        #expect(bucket.take(25, at: 0) == .admitted)
        #expect(bucket.available(at: 0) == -15)
        #expect(bucket.take(1, at: 0) == .wait(16_000_000))
        #expect(bucket.take(25, at: 24_999_999) == .wait(1))
        #expect(bucket.take(25, at: 25_000_000) == .admitted)
    }

    @Test func aRefusalTakesNothingAndAReturnRestores() {
        var bucket = TokenBucket(rate: 1, burst: 3, at: 0)
        #expect(bucket.take(2, at: 0) == .admitted)
        #expect(bucket.take(2, at: 0) == .wait(1_000_000))
        #expect(bucket.take(1, at: 0) == .admitted)
        bucket.giveBack(2)
        #expect(bucket.take(2, at: 0) == .admitted)
    }

    @Test(arguments: [0, -5, .nan, .infinity, 1e300] as [Double]) func extremeRatesAreBounded(rate: Double) {
        var bucket = TokenBucket(rate: rate, burst: .max, at: 0)
        #expect(bucket.take(.max, at: 0) == .admitted)
        guard case .wait(let wait) = bucket.take(.max, at: 0) else {
            Issue.record("admitted twice")
            return
        }
        #expect(wait > 0)
        #expect(bucket.take(.min, at: .max) == .admitted)
    }
}
