import HeapModule

/// A ledger line spans sequences and counts messages; other devices' messages may lie between. So each line explains as
/// many missing sequences within its span as it counts, and no more.
package enum LedgerCover {
    /// A line that has not explained as much as it counts.
    private struct Rest: Comparable {
        var last: UInt64
        var messages: UInt64

        static func < (a: Self, b: Self) -> Bool { a.last < b.last }
    }

    struct Line: Sendable {
        var sequences: ClosedRange<UInt64>
        var messages: UInt64
    }

    package static func unexplained(_ gaps: [ClosedRange<UInt64>], lines: [LedgerLine]) -> [UInt64] {
        unexplained(
            gaps,
            ledger: lines.map {
                Line(sequences: $0.sequences, messages: $0.numbers.upperBound - $0.numbers.lowerBound + 1)
            })
    }

    /// How many sequences of each gap no line explains. Gaps ascending and disjoint. Each sequence in turn is explained by the
    /// line that ends first, which leaves the most for the others: no other way explains more of them (Glover, 1967).
    static func unexplained(_ gaps: [ClosedRange<UInt64>], ledger: [Line]) -> [UInt64] {
        let lines = ledger.sorted { $0.sequences.lowerBound < $1.sequences.lowerBound }
        var next = 0
        var open = Heap<Rest>()
        return gaps.map { gap in
            var left = gap.upperBound - gap.lowerBound + 1
            var sequence = gap.lowerBound
            while sequence <= gap.upperBound {
                while next < lines.count, lines[next].sequences.lowerBound <= sequence {
                    open.insert(Rest(last: lines[next].sequences.upperBound, messages: lines[next].messages))
                    next += 1
                }
                while let first = open.min, first.last < sequence || first.messages == 0 { open.removeMin() }
                // Up to here no other line begins.
                let end =
                    next < lines.count ? min(gap.upperBound, lines[next].sequences.lowerBound - 1) : gap.upperBound
                guard var line = open.min else {
                    sequence = end + 1
                    continue
                }
                let explained = min(line.messages, min(end, line.last) - sequence + 1)
                left -= explained
                sequence += explained
                line.messages -= explained
                open.replaceMin(with: line)
            }
            return left
        }
    }
}
