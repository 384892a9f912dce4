import Flow
import Testing

@testable import SyncModel

@Suite struct LedgerCoverTests {
    private typealias Line = LedgerCover.Line

    /// 3 is one message's: two lines that both reach it explain it once.
    @Test func noSequenceIsExplainedTwice() {
        let lines = [Line(sequences: 2...14, messages: 2), Line(sequences: 3...7, messages: 2)]
        #expect(LedgerCover.unexplained([1...3, 5...14], ledger: lines) == [1, 8])
    }

    @Test func aLineThatEndsFirstExplainsFirst() {
        let lines = [Line(sequences: 1...9, messages: 1), Line(sequences: 1...2, messages: 1)]
        #expect(LedgerCover.unexplained([2...2, 9...9], ledger: lines) == [0, 0])
    }

    @Test func noLineExplainsWhatItDoesNotReach() {
        #expect(LedgerCover.unexplained([5...6], ledger: [Line(sequences: 1...4, messages: 4)]) == [2])
        #expect(LedgerCover.unexplained([5...6], ledger: [Line(sequences: 6...9, messages: 4)]) == [1])
        #expect(LedgerCover.unexplained([5...6], ledger: []) == [2])
        #expect(LedgerCover.unexplained([], ledger: [Line(sequences: 1...4, messages: 4)]) == [])
    }

    /// As many as the best of all ways leaves, which is found by augmenting paths.
    @Test(arguments: UInt64(1)...400) func nothingIsLeftThatCouldBeExplained(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var gaps: [ClosedRange<UInt64>] = []
        var next: UInt64 = 1
        for _ in 0..<Int.random(in: 1...4, using: &random) {
            let first = next + UInt64.random(in: 0...3, using: &random)
            let last = first + UInt64.random(in: 0...4, using: &random)
            gaps.append(first...last)
            next = last + 2
        }
        let lines = (0..<Int.random(in: 0...5, using: &random)).map { _ in
            let first = UInt64.random(in: 1...next, using: &random)
            let last = first + UInt64.random(in: 0...8, using: &random)
            return Line(sequences: first...last, messages: UInt64.random(in: 1...(last - first + 1), using: &random))
        }
        let left = LedgerCover.unexplained(gaps, ledger: lines)
        #expect(left.reduce(0, +) == Self.leastUnexplained(gaps.flatMap(Array.init), lines), "\(gaps), \(lines)")
        for (gap, count) in zip(gaps, left) { #expect(count <= UInt64(gap.count)) }
    }

    private static func leastUnexplained(_ sequences: [UInt64], _ lines: [Line]) -> UInt64 {
        let places = lines.flatMap { line in (0..<line.messages).map { _ in line.sequences } }
        var taken = [Int?](repeating: nil, count: places.count)
        func finds(_ index: Int, _ seen: inout Set<Int>) -> Bool {
            for place in places.indices where places[place].contains(sequences[index]) && seen.insert(place).inserted {
                if taken[place].map({ finds($0, &seen) }) ?? true {
                    taken[place] = index
                    return true
                }
            }
            return false
        }
        return sequences.indices.reduce(0) { sum, index in
            var seen: Set<Int> = []
            return finds(index, &seen) ? sum : sum + 1
        }
    }
}
