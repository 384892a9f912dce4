/// How fast something comes, from running totals that are sampled every few seconds: over the last ten seconds, over the
/// last minute, and whether that is far above the usual. What is silent keeps no history of its own.
package struct RateMeter: Sendable, Equatable {
    package struct Rate: Sendable, Equatable {
        /// Per second.
        package var messages: Double
        /// Per second.
        package var bytes: Double

        package static let zero = Rate(messages: 0, bytes: 0)

        package init(messages: Double, bytes: Double) {
            self.messages = messages
            self.bytes = bytes
        }
    }

    /// Microseconds from one sample to the next.
    package static let interval: Int64 = 5_000_000
    private static let samplesPerMinute = 12

    private struct Sample: Equatable {
        /// Both per second.
        var messages: Float = 0
        var bytes: Float = 0
    }

    /// A ring; empty while a whole minute was silent.
    private var samples: [Sample] = []
    private var newest = 0
    /// Of this minute.
    private var taken = 0
    private var lastMessages: UInt64 = 0
    private var lastBytes: UInt64 = 0
    package private(set) var usual = UsualRate()

    package init() {}

    /// - Parameters:
    ///   - messages: since the beginning; so are `bytes`.
    ///   - elapsed: microseconds since the last sample.
    package mutating func sample(messages: UInt64, bytes: UInt64, elapsed: Int64) {
        let seconds = Double(max(elapsed, 1)) / 1e6
        let sample = Sample(
            messages: Float(Double(messages &- lastMessages) / seconds),
            bytes: Float(Double(bytes &- lastBytes) / seconds))
        (lastMessages, lastBytes) = (messages, bytes)
        if samples.isEmpty, sample != Sample() {
            samples = Array(repeating: Sample(), count: Self.samplesPerMinute)
        }
        if !samples.isEmpty {
            newest = (newest + 1) % Self.samplesPerMinute
            samples[newest] = sample
        }
        taken += 1
        guard taken == Self.samplesPerMinute else { return }
        taken = 0
        usual.observe(minute: lastMinute.messages)
        if samples.allSatisfy({ $0 == Sample() }) { samples = [] }
    }

    /// Over the last two samples.
    package var lastTenSeconds: Rate { mean(of: 2) }

    package var lastMinute: Rate { mean(of: Self.samplesPerMinute) }

    private func mean(of count: Int) -> Rate {
        guard !samples.isEmpty else { return .zero }
        var rate = Rate.zero
        for step in 0..<count {
            let sample = samples[(newest + Self.samplesPerMinute - step) % Self.samplesPerMinute]
            rate.messages += Double(sample.messages)
            rate.bytes += Double(sample.bytes)
        }
        return Rate(messages: rate.messages / Double(count), bytes: rate.bytes / Double(count))
    }
}
