package enum IntervalSetError: Error, Sendable, Equatable {
    /// Another range would be needed and `maximum` are there: the set is unchanged.
    case tooManyRanges(maximum: Int)
    /// Values go from 0 to `IntervalSet.maximumValue`.
    case valueTooLarge(UInt64)
    /// Not the text of an int8multirange; the offset of the first byte that does not fit.
    case malformedText(offset: Int)
}

/// A set of numbers as sorted, disjoint, non-adjacent closed ranges. It is bounded: an overflow is an error and changes
/// nothing, never a guess.
package struct IntervalSet: Sendable {
    /// The exclusive end of a range must fit PostgreSQL's bigint.
    package static let maximumValue = UInt64(Int64.max - 1)
    package static let defaultMaximumRanges = 65_536

    package private(set) var ranges: [ClosedRange<UInt64>] = []
    package let maximumRanges: Int

    package init(maximumRanges: Int = defaultMaximumRanges) {
        precondition(maximumRanges > 0, "an interval set holds at least one range")
        self.maximumRanges = maximumRanges
    }

    package var isEmpty: Bool { ranges.isEmpty }

    /// How many values it holds.
    package var count: UInt64 { ranges.reduce(0) { $0 + ($1.upperBound - $1.lowerBound + 1) } }

    package func contains(_ value: UInt64) -> Bool {
        let index = firstIndex(endingAtOrAfter: value)
        return index < ranges.count && ranges[index].lowerBound <= value
    }

    package func contains(_ range: ClosedRange<UInt64>) -> Bool {
        let index = firstIndex(endingAtOrAfter: range.upperBound)
        return index < ranges.count && ranges[index].lowerBound <= range.lowerBound
    }

    /// The parts of `range` that are not in the set, ascending.
    package func gaps(in range: ClosedRange<UInt64>) -> [ClosedRange<UInt64>] {
        var gaps: [ClosedRange<UInt64>] = []
        var next = range.lowerBound
        var index = firstIndex(endingAtOrAfter: range.lowerBound)
        while index < ranges.count, ranges[index].lowerBound <= range.upperBound {
            if ranges[index].lowerBound > next { gaps.append(next...(ranges[index].lowerBound - 1)) }
            guard ranges[index].upperBound < range.upperBound else { return gaps }
            next = ranges[index].upperBound + 1
            index += 1
        }
        gaps.append(next...range.upperBound)
        return gaps
    }

    /// - Returns: whether the value was new.
    package mutating func insert(_ value: UInt64) throws(IntervalSetError) -> Bool {
        // Dense numbers mostly follow the last.
        if let last = ranges.last, last.upperBound < Self.maximumValue, value == last.upperBound + 1 {
            ranges[ranges.count - 1] = last.lowerBound...value
            return true
        }
        guard !contains(value) else { return false }
        return try !insert(value...value).isEmpty
    }

    /// - Returns: the parts that were new, ascending.
    package mutating func insert(_ range: ClosedRange<UInt64>) throws(IntervalSetError) -> [ClosedRange<UInt64>] {
        guard range.upperBound <= Self.maximumValue else { throw .valueTooLarge(range.upperBound) }
        let new = gaps(in: range)
        guard !new.isEmpty else { return [] }
        // Ranges that touch or overlap the new one, adjacent ones included, become one with it.
        let first = firstIndex(endingAtOrAfter: range.lowerBound == 0 ? 0 : range.lowerBound - 1)
        var end = first
        while end < ranges.count, ranges[end].lowerBound <= range.upperBound + 1 { end += 1 }
        guard first < end else {
            guard ranges.count < maximumRanges else { throw .tooManyRanges(maximum: maximumRanges) }
            ranges.insert(range, at: first)
            return new
        }
        let lower = min(range.lowerBound, ranges[first].lowerBound)
        let upper = max(range.upperBound, ranges[end - 1].upperBound)
        ranges.replaceSubrange(first..<end, with: CollectionOfOne(lower...upper))
        return new
    }

    /// Unchanged when it throws.
    package mutating func formUnion(_ other: IntervalSet) throws(IntervalSetError) {
        var union = self
        for range in other.ranges { _ = try union.insert(range) }
        self = union
    }

    package func union(_ other: IntervalSet) throws(IntervalSetError) -> IntervalSet {
        var union = self
        try union.formUnion(other)
        return union
    }

    /// The first range whose end is not before `value`.
    private func firstIndex(endingAtOrAfter value: UInt64) -> Int {
        var low = 0
        var high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].upperBound < value { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

extension IntervalSet: Equatable {
    /// By content; the bound on the number of ranges is none.
    package static func == (a: IntervalSet, b: IntervalSet) -> Bool { a.ranges == b.ranges }
}

extension IntervalSet {
    /// A literal of PostgreSQL's int8multirange in its canonical form: `{[1,5),[7,9)}`.
    package var text: String {
        var text = "{"
        for range in ranges {
            if text.utf8.count > 1 { text += "," }
            text += "[\(range.lowerBound),\(range.upperBound + 1))"
        }
        return text + "}"
    }

    /// Reads what PostgreSQL prints for an int8multirange: the canonical form only, so ascending, disjoint and with no
    /// spaces.
    package init(text: String, maximumRanges: Int = defaultMaximumRanges) throws(IntervalSetError) {
        self.init(maximumRanges: maximumRanges)
        var parser = MultirangeParser(text)
        try parser.expect("{")
        while !parser.take("}") {
            if !ranges.isEmpty { try parser.expect(",") }
            let begin = parser.offset
            try parser.expect("[")
            let lower = try parser.number()
            try parser.expect(",")
            let end = try parser.number()
            try parser.expect(")")
            guard lower < end, ranges.last.map({ $0.upperBound + 1 < lower }) ?? true else {
                throw .malformedText(offset: begin)
            }
            guard ranges.count < maximumRanges else { throw .tooManyRanges(maximum: maximumRanges) }
            ranges.append(lower...(end - 1))
        }
        guard parser.isAtEnd else { throw .malformedText(offset: parser.offset) }
    }
}

private struct MultirangeParser {
    private let bytes: [UInt8]
    private(set) var offset = 0

    init(_ text: String) { bytes = Array(text.utf8) }

    var isAtEnd: Bool { offset == bytes.count }

    mutating func take(_ character: Unicode.Scalar) -> Bool {
        guard offset < bytes.count, bytes[offset] == UInt8(ascii: character) else { return false }
        offset += 1
        return true
    }

    mutating func expect(_ character: Unicode.Scalar) throws(IntervalSetError) {
        guard take(character) else { throw .malformedText(offset: offset) }
    }

    /// Decimal, at most Int64's largest, without superfluous zeros.
    mutating func number() throws(IntervalSetError) -> UInt64 {
        let begin = offset
        while offset < bytes.count, UInt8(ascii: "0")...UInt8(ascii: "9") ~= bytes[offset], offset - begin < 20 {
            offset += 1
        }
        guard let value = UInt64(String(decoding: bytes[begin..<offset], as: UTF8.self)), value <= UInt64(Int64.max),
            bytes[begin] != UInt8(ascii: "0") || offset == begin + 1
        else { throw .malformedText(offset: begin) }
        return value
    }
}
