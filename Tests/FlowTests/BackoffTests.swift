import Flow
import Testing

struct BackoffTests {
    @Test func ceilingDoublesUpToTheCap() {
        var backoff = Backoff()
        var generator = SplitMix64(seed: 1)
        var ceilings: [Int64] = []
        for _ in 0..<10 {
            ceilings.append(backoff.ceiling / 1_000_000)
            _ = backoff.next(using: &generator)
        }
        #expect(ceilings == [1, 2, 4, 8, 16, 32, 64, 120, 120, 120])
        backoff.succeeded()
        #expect(backoff.ceiling == 1_000_000)
        #expect(backoff.attempts == 0)
    }

    @Test func staysWithinTheCeilingForeverWhateverTheNumbers() {
        var generator = SplitMix64(seed: 2)
        for (base, cap) in [(1, 1), (1_000_000, 120_000_000), (3, .max), (.max, .max), (0, 0), (10, 1)]
            as [(Int64, Int64)]
        {
            var backoff = Backoff(base: base, cap: cap)
            for _ in 0..<200 {
                let ceiling = backoff.ceiling
                #expect(ceiling >= 1 && ceiling <= max(cap, base, 1))
                #expect((0...ceiling).contains(backoff.next(using: &generator)))
            }
            #expect(backoff.attempts == 200)
        }
    }

    /// Full jitter is even over the whole range: each tenth of it gets about a tenth.
    @Test func jitterIsFull() {
        var generator = SplitMix64(seed: 3)
        var tenths = Array(repeating: 0, count: 10)
        for _ in 0..<10_000 {
            var backoff = Backoff(base: 1_000_000)
            tenths[min(9, Int(backoff.next(using: &generator) / 100_000))] += 1
        }
        #expect(tenths.allSatisfy { (850...1150).contains($0) }, "\(tenths)")
    }

    @Test func retryAfterIsAFloorWithJitterOnTop() {
        var generator = SplitMix64(seed: 4)
        var delays: Set<Int64> = []
        for _ in 0..<100 {
            var backoff = Backoff()
            let delay = backoff.next(retryAfter: 30_000_000, using: &generator)
            #expect((30_000_000...31_000_000).contains(delay))
            delays.insert(delay)
        }
        #expect(delays.count > 90)
    }

    @Test func retryAfterIsBounded() {
        var generator = SplitMix64(seed: 5)
        var backoff = Backoff(maximumRetryAfter: 60_000_000)
        #expect(backoff.next(retryAfter: .max, using: &generator) <= 61_000_000)
        #expect((0...2_000_000).contains(backoff.next(retryAfter: .min, using: &generator)))
    }

    @Test func sameSeedSameDelays() {
        func delays(seed: UInt64) -> [Int64] {
            var generator = SplitMix64(seed: seed)
            var backoff = Backoff()
            return (0..<20).map { _ in backoff.next(using: &generator) }
        }
        #expect(delays(seed: 7) == delays(seed: 7))
        #expect(delays(seed: 7) != delays(seed: 8))
    }

    /// The published first outputs for seed 1234567.
    @Test func generatorIsSplitMix64() {
        var generator = SplitMix64(seed: 1_234_567)
        #expect(generator.next() == 6_457_827_717_110_365_317)
        #expect(generator.next() == 3_203_168_211_198_807_973)
    }
}
