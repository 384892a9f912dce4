/// Latencies in microseconds, in buckets that are at most 1/64 wide of their value.
struct Histogram {
    private static let steps = 64
    /// 64 exact values, then 64 steps for each further power of two up to 2^40 µs.
    private var counts = Array(repeating: 0, count: steps * 36)
    private(set) var maximum: Int64 = 0
    private(set) var count = 0

    mutating func add(_ microseconds: Int64) {
        let value = max(microseconds, 0)
        counts[Self.index(of: value)] += 1
        count += 1
        maximum = max(maximum, value)
    }

    /// The upper end of the bucket in which the share lies.
    func percentile(_ share: Double) -> Int64 {
        var rest = Int((Double(count) * share).rounded(.up))
        for (index, bucket) in counts.enumerated() where bucket > 0 {
            rest -= bucket
            if rest <= 0 { return min(Self.upperBound(of: index), maximum) }
        }
        return maximum
    }

    private static func index(of value: Int64) -> Int {
        guard value >= steps else { return Int(value) }
        let power = min(63 - value.leadingZeroBitCount, 40)
        let shift = power - 6
        return (power - 5) * steps + min(Int(value >> shift) - steps, steps - 1)
    }

    private static func upperBound(of index: Int) -> Int64 {
        guard index >= steps else { return Int64(index) }
        let shift = index / steps - 1
        return ((Int64(index % steps + steps) + 1) << Int64(shift)) - 1
    }
}
