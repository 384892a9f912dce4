/// Which of one device's numbers in one epoch have ended: stored, or dropped by a ledger line. The first to be applied
/// wins, the later one is counted.
package struct DeduplicationState: Sendable, Equatable {
    /// Numbers that have ended.
    package private(set) var numbers: IntervalSet

    package init(_ numbers: IntervalSet = IntervalSet()) { self.numbers = numbers }

    package struct LedgerResult: Sendable, Equatable {
        /// Numbers that the line ends.
        package var new: [ClosedRange<UInt64>]
        /// Numbers that had ended before.
        package var late: UInt64
    }

    /// Applies messages of the device.
    ///
    /// - Returns: the positions of those that are new, ascending; the others are repeats. When it throws, nothing has
    ///   changed and none may be stored.
    package mutating func apply(_ messages: [SyncedMessage]) throws(IntervalSetError) -> [Int] {
        if let dense = Self.denseRange(of: messages) {
            let new = try numbers.insert(dense)
            if new.count == 1, new[0] == dense { return Array(messages.indices) }
            return new.flatMap { range in
                Int(range.lowerBound - dense.lowerBound)...Int(range.upperBound - dense.lowerBound)
            }
        }
        var next = numbers
        var new: [Int] = []
        new.reserveCapacity(messages.count)
        for (index, message) in messages.enumerated() where try next.insert(message.number) { new.append(index) }
        numbers = next
        return new
    }

    /// Applies a ledger line of the device. When it throws, nothing has changed.
    package mutating func apply(_ line: LedgerLine) throws(IntervalSetError) -> LedgerResult {
        let new = try numbers.insert(line.numbers)
        let total = line.numbers.upperBound - line.numbers.lowerBound + 1
        return LedgerResult(new: new, late: total - new.reduce(0) { $0 + ($1.upperBound - $1.lowerBound + 1) })
    }

    /// The messages' numbers, if each is the one after the last.
    private static func denseRange(of messages: [SyncedMessage]) -> ClosedRange<UInt64>? {
        guard let first = messages.first else { return nil }
        var expected = first.number
        for message in messages {
            guard message.number == expected, expected < IntervalSet.maximumValue else { return nil }
            expected += 1
        }
        return first.number...(expected - 1)
    }
}
