import CoreMetrics
import Synchronization

/// One time series that only grows. Increments are one relaxed atomic addition: fit for the hot path.
package final class MetricCounter: CounterHandler, FloatingPointCounterHandler {
    private let value = Atomic<Int64>(0)
    /// What a floating-point counter has beyond whole numbers.
    private let fraction = Mutex<Double>(0)

    package init() {}

    package func increment(by amount: Int64) { value.add(amount, ordering: .relaxed) }

    package func increment(by amount: Double) {
        guard amount.isFinite, amount >= 0 else { return }
        fraction.withLock { $0 += amount }
    }

    /// For a count that is kept elsewhere and only copied here; it must never fall.
    package func set(total: UInt64) { value.store(Int64(clamping: total), ordering: .relaxed) }

    package func reset() {
        value.store(0, ordering: .relaxed)
        fraction.withLock { $0 = 0 }
    }

    package var current: Double { Double(value.load(ordering: .relaxed)) + fraction.withLock { $0 } }
}

/// One time series that goes up and down.
package final class MetricGauge: MeterHandler, RecorderHandler {
    private let bits = Atomic<UInt64>(0)

    package init() {}

    package func set(_ value: Int64) { set(Double(value)) }
    package func set(_ value: Double) { bits.store(value.bitPattern, ordering: .relaxed) }

    package func increment(by amount: Double) { add(amount) }
    package func decrement(by amount: Double) { add(-amount) }

    private func add(_ amount: Double) {
        var old = bits.load(ordering: .relaxed)
        while true {
            let new = (Double(bitPattern: old) + amount).bitPattern
            let (exchanged, original) = bits.weakCompareExchange(expected: old, desired: new, ordering: .relaxed)
            if exchanged { return }
            old = original
        }
    }

    /// A recorder that does not aggregate is a gauge.
    package func record(_ value: Int64) { set(value) }
    package func record(_ value: Double) { set(value) }

    package var current: Double { Double(bitPattern: bits.load(ordering: .relaxed)) }
}

/// A distribution in fixed buckets.
package final class MetricHistogram: RecorderHandler, TimerHandler {
    /// Upper bounds in seconds from 100 µs to 60 s: an fsync, an acknowledgement, a request and a drain all fit.
    package static let seconds: [Double] = [
        0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
    ]
    /// Upper bounds for sizes and counts, powers of four from 1 to 16 Mi.
    package static let sizes: [Double] = (0...12).map { Double(1 << (2 * $0)) }

    package struct Reading: Sendable, Equatable {
        /// Cumulative, as Prometheus wants them; the last is the count of all.
        package var buckets: [UInt64]
        package var sum: Double
        package var count: UInt64
    }

    package let bounds: [Double]
    private let state: Mutex<(counts: [UInt64], sum: Double)>

    package init(bounds: [Double]) {
        self.bounds = bounds
        state = Mutex((Array(repeating: 0, count: bounds.count + 1), 0))
    }

    package func record(_ value: Int64) { record(Double(value)) }

    package func record(_ value: Double) {
        guard value.isFinite else { return }
        let index = bounds.firstIndex { value <= $0 } ?? bounds.count
        state.withLock {
            $0.counts[index] += 1
            $0.sum += value
        }
    }

    package func recordNanoseconds(_ duration: Int64) { record(Double(duration) / 1e9) }
    package func recordMicroseconds(_ duration: Int64) { record(Double(duration) / 1e6) }

    package var current: Reading {
        let (counts, sum) = state.withLock { $0 }
        var total: UInt64 = 0
        let cumulative = counts.map { count in
            total += count
            return total
        }
        return Reading(buckets: cumulative, sum: sum, count: total)
    }
}
