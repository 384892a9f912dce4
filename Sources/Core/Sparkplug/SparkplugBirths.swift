/// Where a message stands among all of its gateway's. A node's own clock has no part in it: it may begin in 1970 at each
/// start, or step back.
package struct GatewayPosition: Sendable, Hashable {
    /// Which run of the gateway (an epoch). Runs follow one another, and within one the sequence is the order.
    package var run: Int32
    package var sequence: Int64
    /// Microseconds since 1970 by the gateway's clock.
    package var wallTime: Int64
    /// Microseconds of the gateway's monotonic clock since its boot.
    package var monotonicTime: Int64
    /// The gateway's boot id; zeros: not known.
    package var bootHigh: UInt64
    package var bootLow: UInt64

    package init(
        run: Int32, sequence: Int64, wallTime: Int64, monotonicTime: Int64 = 0, bootHigh: UInt64 = 0,
        bootLow: UInt64 = 0
    ) {
        self.run = run
        self.sequence = sequence
        self.wallTime = wallTime
        self.monotonicTime = monotonicTime
        self.bootHigh = bootHigh
        self.bootLow = bootLow
    }

    fileprivate func isOfSameBoot(as other: GatewayPosition) -> Bool {
        bootHigh == other.bootHigh && bootLow == other.bootLow && (bootHigh != 0 || bootLow != 0)
    }
}

/// That there was a birth; what it says is apart, because much of it is the same and little of it is needed.
package struct SparkplugBirth: Sendable, Hashable {
    package var position: GatewayPosition
    package var digest: SparkplugDigest
    /// Of its definition.
    package var metricCount: Int

    package init(position: GatewayPosition, digest: SparkplugDigest, metricCount: Int) {
        self.position = position
        self.digest = digest
        self.metricCount = metricCount
    }

    package init(position: GatewayPosition, definition: SparkplugDefinition) {
        self.init(position: position, digest: definition.digest, metricCount: definition.metrics.count)
    }
}

/// The births of one node or device as one gateway has taken them. What is known decides, not the order in which it came.
package struct SparkplugBirths: Sendable {
    package struct Limits: Sendable {
        package var births = 256
        /// Of all definitions that differ; a single one may have more.
        package var metrics = 20_000

        package init() {}
    }

    /// What had to go.
    package struct Removed: Sendable, Equatable {
        /// Between births that say the same: nothing that is known is read otherwise without them.
        package var repeats: [GatewayPosition] = []
        /// The oldest: data of their time has no names any more.
        package var oldest: [GatewayPosition] = []

        package init() {}
    }

    private let limits: Limits
    /// Births of each run, ascending by sequence, never empty.
    private var runs: [Int32: [SparkplugBirth]] = [:]
    /// How many births have each definition.
    private var uses: [SparkplugDigest: Int] = [:]
    /// Runs with births since room was made last.
    private var learning: Set<Int32> = []
    package private(set) var count = 0
    /// Of all definitions that differ.
    package private(set) var metricCount = 0

    package init(limits: Limits = Limits()) { self.limits = limits }

    // MARK: Reading

    /// The newest birth before this position, or at it; `nil` where none is known.
    ///
    /// Runs do not overlap, and neither do boots. So a birth of the message's own run is nearer than any other, then one of
    /// the same boot, where the monotonic clock tells which run was earlier; only between boots the wall clock has to.
    package func birth(at position: GatewayPosition) -> SparkplugBirth? {
        if let births = runs[position.run] {
            let after = Self.place(of: position.sequence, in: births, isAfterEqual: true)
            if after > 0 { return births[after - 1] }
        }
        return newestRun(before: position)?.last
    }

    private func newestRun(before position: GatewayPosition) -> [SparkplugBirth]? {
        var ofBoot: (time: Int64, run: Int32)?
        var ofOthers: (time: Int64, run: Int32)?
        for (run, births) in runs where run != position.run {
            if births[0].position.isOfSameBoot(as: position) {
                let time = births[0].position.monotonicTime
                if time <= position.monotonicTime, ofBoot.map({ ($0.time, $0.run) < (time, run) }) ?? true {
                    ofBoot = (time, run)
                }
            } else if let time = births.lazy.map(\.position.wallTime).filter({ $0 <= position.wallTime }).max(),
                ofOthers.map({ ($0.time, $0.run) < (time, run) }) ?? true
            {
                ofOthers = (time, run)
            }
        }
        return (ofBoot ?? ofOthers).flatMap { runs[$0.run] }
    }

    /// - Returns: where the sequence belongs; behind an equal one, if that is asked.
    private static func place(of sequence: Int64, in births: [SparkplugBirth], isAfterEqual: Bool) -> Int {
        var range = 0..<births.count
        while !range.isEmpty {
            let middle = range.lowerBound + range.count / 2
            let found = births[middle].position.sequence
            if found < sequence || isAfterEqual && found == sequence {
                range = (middle + 1)..<range.upperBound
            } else {
                range = range.lowerBound..<middle
            }
        }
        return range.lowerBound
    }

    // MARK: Learning

    /// A birth that comes now.
    ///
    /// - Returns: whether it was not known: the same message may come twice.
    @discardableResult
    package mutating func learn(_ birth: SparkplugBirth) -> Bool {
        guard insert(birth) else { return false }
        learning.insert(birth.position.run)
        return true
    }

    /// One that was learned before, by whoever.
    package mutating func restore(_ birth: SparkplugBirth) { _ = insert(birth) }

    private mutating func insert(_ birth: SparkplugBirth) -> Bool {
        let run = birth.position.run
        let place = Self.place(of: birth.position.sequence, in: runs[run] ?? [], isAfterEqual: false)
        if let births = runs[run], place < births.count, births[place].position.sequence == birth.position.sequence {
            return false
        }
        if uses[birth.digest] == nil { metricCount += birth.metricCount }
        uses[birth.digest, default: 0] += 1
        runs[run, default: []].insert(birth, at: place)
        count += 1
        return true
    }

    // MARK: Bounds

    private var isTooLarge: Bool { count > limits.births || metricCount > limits.metrics && uses.count > 1 }

    /// Holds the limits. To be called when what was learned has been used, so that each birth serves the data that came
    /// with it.
    ///
    /// Repeats go first, then births of runs that the cloud met first. Runs that have just told something, and the one
    /// with the newest time, come last; of theirs the older go.
    package mutating func makeRoom() -> Removed {
        var removed = Removed()
        defer { learning = [] }
        guard isTooLarge else { return removed }
        for run in runs.keys { removed.repeats += removeRepeats(of: run) }
        let newest = runs.max { newestTime($0.value) < newestTime($1.value) }?.key
        let order = runs.keys.sorted()
        let kept = order.filter { learning.contains($0) || $0 == newest }
        for run in order where !kept.contains(run) { removeOldest(of: run, leaving: 0, &removed) }
        for run in kept { removeOldest(of: run, leaving: 1, &removed) }
        for run in kept where run != newest { removeOldest(of: run, leaving: 0, &removed) }
        return removed
    }

    private func newestTime(_ births: [SparkplugBirth]) -> Int64 { births.lazy.map(\.position.wallTime).max() ?? .min }

    /// Of births in a row that say the same, the first and the last stay: what comes late between them is told from them.
    private mutating func removeRepeats(of run: Int32) -> [GatewayPosition] {
        guard let births = runs[run], births.count > 2 else { return [] }
        var kept: [SparkplugBirth] = []
        var removed: [GatewayPosition] = []
        for (index, birth) in births.enumerated() {
            let isRepeat =
                0 < index && index < births.count - 1 && births[index - 1].digest == birth.digest
                && births[index + 1].digest == birth.digest
            if isRepeat {
                removed.append(birth.position)
                forget(birth)
            } else {
                kept.append(birth)
            }
        }
        runs[run] = kept
        return removed
    }

    private mutating func removeOldest(of run: Int32, leaving minimum: Int, _ removed: inout Removed) {
        guard let births = runs[run] else { return }
        var gone = 0
        while isTooLarge, births.count - gone > minimum {
            removed.oldest.append(births[gone].position)
            forget(births[gone])
            gone += 1
        }
        runs[run] = gone == births.count ? nil : Array(births[gone...])
    }

    private mutating func forget(_ birth: SparkplugBirth) {
        count -= 1
        guard let left = uses[birth.digest] else { return }
        uses[birth.digest] = left > 1 ? left - 1 : nil
        if left == 1 { metricCount -= birth.metricCount }
    }
}
