import Atomics

/// Counts up. Register it once and keep it: adding is one atomic instruction.
package final class MetricCounter: Sendable {
    private let count = ManagedAtomic<UInt64>(0)

    package init() {}

    package var value: UInt64 { count.load(ordering: .relaxed) }

    package func add(_ amount: UInt64 = 1) { count.wrappingIncrement(by: amount, ordering: .relaxed) }
}

/// A number that goes up and down.
package final class MetricGauge: Sendable {
    private let bits = ManagedAtomic<UInt64>(0)

    package init() {}

    package var value: Double { Double(bitPattern: bits.load(ordering: .relaxed)) }

    package func set(_ value: Double) { bits.store(value.bitPattern, ordering: .relaxed) }

    package func add(_ amount: Double) { bits.add(amount) }
}

/// Counts of observations up to fixed bounds, and their sum.
package final class MetricHistogram: Sendable {
    /// Ascending; what is beyond the last goes into one more bucket.
    package let bounds: [Double]
    private let counts: [ManagedAtomic<UInt64>]
    private let sum = ManagedAtomic<UInt64>(0)

    /// For times in seconds: 100 µs to 10 s.
    package static let secondsBounds: [Double] = [
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
    ]
    /// For counts and sizes: powers of four to 16 Mi.
    package static let sizeBounds: [Double] = (0...12).map { Double(1 << (2 * $0)) }

    package init(bounds: [Double]) {
        let ascending = Set(bounds.filter(\.isFinite)).sorted()
        self.bounds = ascending
        counts = (0...ascending.count).map { _ in ManagedAtomic(0) }
    }

    /// - Parameter count: how many observations had this value.
    package func observe(_ value: Double, count: UInt64 = 1) {
        guard !value.isNaN, count > 0 else { return }
        counts[bounds.firstIndex { value <= $0 } ?? bounds.count].wrappingIncrement(by: count, ordering: .relaxed)
        sum.add(value * Double(count))
    }

    /// Cumulative, one for each bound and one for all; the total is the last, so that the two never disagree.
    package var snapshot: (cumulative: [UInt64], sum: Double) {
        var total: UInt64 = 0
        let cumulative = counts.map { count in
            total &+= count.load(ordering: .relaxed)
            return total
        }
        return (cumulative, Double(bitPattern: sum.load(ordering: .relaxed)))
    }
}

extension ManagedAtomic<UInt64> {
    /// The value is a Double's bit pattern.
    fileprivate func add(_ amount: Double) {
        var current = load(ordering: .relaxed)
        while true {
            let next = (Double(bitPattern: current) + amount).bitPattern
            let (exchanged, original) = weakCompareExchange(expected: current, desired: next, ordering: .relaxed)
            if exchanged { return }
            current = original
        }
    }
}
