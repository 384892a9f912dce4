/// When what waits will be gone if it goes on as in the last minute. Times are microseconds of any monotonic clock.
package struct DrainForecast: Sendable, Equatable {
    private struct Sample: Equatable {
        var time: Int64
        var waiting: Int
    }

    private static let window: Int64 = 60_000_000
    /// Samples are kept this far apart, and so at most one more than the window has of it.
    private static let interval: Int64 = 1_000_000

    private var samples: [Sample] = []
    private var waiting = 0

    package init() {}

    package mutating func observe(_ waiting: Int, at now: Int64) {
        // What begins now says nothing about the rate before it.
        if self.waiting == 0 { samples.removeAll() }
        self.waiting = waiting
        trim(at: now)
        if samples.last.map({ now - $0.time >= Self.interval }) ?? true {
            samples.append(Sample(time: now, waiting: waiting))
        }
    }

    /// - Returns: `nil` when it grows or stands still, or cannot be told yet; 0 when nothing waits.
    package mutating func seconds(at now: Int64) -> Double? {
        guard waiting > 0 else { return 0 }
        trim(at: now)
        guard let oldest = samples.first, now - oldest.time >= Self.interval, oldest.waiting > waiting else {
            return nil
        }
        let rate = Double(oldest.waiting - waiting) / Double(now - oldest.time)
        return Double(waiting) / rate / 1e6
    }

    /// One sample from before the window is kept: a rate needs two ends.
    private mutating func trim(at now: Int64) {
        while samples.count > 1, now - samples[1].time >= Self.window { samples.removeFirst() }
    }
}
