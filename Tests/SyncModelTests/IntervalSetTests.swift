import Testing

@testable import SyncModel

@Suite struct IntervalSetTests {
    @Test func rangesCoalesce() throws {
        var set = IntervalSet()
        #expect(try set.insert(5...7) == [5...7])
        #expect(try set.insert(9))
        #expect(try !set.insert(6))
        #expect(set.text == "{[5,8),[9,10)}")
        #expect(try set.insert(8))
        #expect(set.ranges == [5...9])
        #expect(try set.insert(1...12) == [1...4, 10...12])
        #expect(set.ranges == [1...12] && set.count == 12)
        #expect(try set.insert(3...4) == [])
        #expect(set.contains(1...12) && !set.contains(0...3) && !set.contains(12...13) && !set.contains(0))
    }

    @Test func gapsAreWhatIsMissing() throws {
        let set = try IntervalSet(text: "{[2,4),[6,7)}")
        #expect(set.gaps(in: 1...8) == [1...1, 4...5, 7...8])
        #expect(set.gaps(in: 2...3) == [])
        #expect(set.gaps(in: 3...4) == [4...4])
        #expect(set.gaps(in: 9...9) == [9...9])
    }

    @Test(arguments: 1...40 as ClosedRange<UInt64>)
    func itIsWhatASetWouldBe(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        var set = IntervalSet()
        var naive: Set<UInt64> = []
        for _ in 0..<300 {
            let lower = UInt64.random(in: 0...120, using: &generator)
            let range = lower...(lower + UInt64.random(in: 0...6, using: &generator))
            let missing = range.filter { !naive.contains($0) }
            #expect(set.gaps(in: range).flatMap { Array($0) } == missing)
            #expect(set.contains(range) == missing.isEmpty)
            if Bool.random(using: &generator) {
                #expect(try set.insert(range).flatMap { Array($0) } == missing)
                naive.formUnion(range)
            } else {
                #expect(try set.insert(lower) == naive.insert(lower).inserted)
            }
            #expect(set.count == UInt64(naive.count))
        }
        #expect(set.ranges.flatMap { Array($0) } == naive.sorted())
        #expect(zip(set.ranges, set.ranges.dropFirst()).allSatisfy { $0.upperBound + 1 < $1.lowerBound })
        #expect(try IntervalSet(text: set.text) == set)
        var other = IntervalSet()
        for _ in 0..<20 { _ = try other.insert(UInt64.random(in: 0...300, using: &generator)) }
        let union = try set.union(other)
        #expect(union.ranges.flatMap { Array($0) } == naive.union(other.ranges.flatMap { Array($0) }).sorted())
    }

    @Test func aFullSetRefusesAndStaysAsItWas() throws {
        var set = IntervalSet(maximumRanges: 2)
        _ = try set.insert(1)
        _ = try set.insert(5)
        let before = set
        #expect(throws: IntervalSetError.tooManyRanges(maximum: 2)) { try set.insert(9) }
        #expect(throws: IntervalSetError.tooManyRanges(maximum: 2)) {
            try set.formUnion(IntervalSet(text: "{[2,3),[20,21)}"))
        }
        #expect(set == before)
        #expect(try set.insert(2...4) == [2...4], "a range that joins others needs no more room")
        #expect(set.ranges == [1...5])
        #expect(throws: IntervalSetError.tooManyRanges(maximum: 1)) {
            try IntervalSet(text: "{[1,2),[3,4)}", maximumRanges: 1)
        }
    }

    @Test func theLargestValuesFit() throws {
        var set = IntervalSet()
        let largest = IntervalSet.maximumValue
        #expect(try set.insert(largest - 1))
        #expect(try set.insert(largest))
        #expect(throws: IntervalSetError.valueTooLarge(largest + 1)) { try set.insert(largest + 1) }
        #expect(throws: IntervalSetError.valueTooLarge(.max)) { try set.insert(1...UInt64.max) }
        #expect(try set.insert(0...(largest - 2)) == [0...(largest - 2)])
        #expect(set.text == "{[0,9223372036854775807)}")
        #expect(try IntervalSet(text: set.text) == set)
        #expect(set.count == UInt64(Int64.max))
    }

    @Test(arguments: [
        ("", 0), ("{", 1), ("{[1,2)", 6), ("{[1,2)}x", 7), ("{[1,2),}", 7), ("{[2,2)}", 1), ("{[3,2)}", 1),
        ("{(1,2)}", 1), ("{[1,2]}", 5), ("{[1,2),[2,3)}", 7), ("{[5,6),[1,2)}", 7), ("{[-1,2)}", 2), ("{[1,)}", 4),
        ("{[1,9223372036854775808)}", 4), ("{[01,2)}", 2), ("{[1,99999999999999999999999)}", 4), ("{ }", 1),
    ])
    func otherTextIsRefused(text: String, offset: Int) {
        #expect(throws: IntervalSetError.malformedText(offset: offset)) { try IntervalSet(text: text) }
    }

    @Test func noneIsEmptyBraces() throws {
        #expect(IntervalSet().text == "{}")
        #expect(try IntervalSet(text: "{}").isEmpty)
    }
}

@Suite struct DeduplicationTests {
    private func messages(_ numbers: [UInt64]) -> [SyncedMessage] {
        numbers.map {
            SyncedMessage(sequence: $0, number: $0, qos: 1, wallTime: 0, topic: bytes("t"), payload: bytes(""))
        }
    }

    private func line(_ numbers: ClosedRange<UInt64>) -> LedgerLine {
        LedgerLine(epoch: sampleEpoch, device: "d", sequences: numbers, numbers: numbers, reason: .bufferFull)
    }

    @Test func aRepeatIsNotNew() throws {
        var state = DeduplicationState()
        #expect(try state.apply(messages([1, 2, 3])) == [0, 1, 2])
        #expect(try state.apply(messages([1, 2, 3])) == [])
        #expect(try state.apply(messages([2, 3, 4, 5])) == [2, 3])
        #expect(try state.apply(messages([9, 7, 7])) == [0, 1])
        #expect(try state.apply(messages([])) == [])
        #expect(state.numbers.text == "{[1,6),[7,8),[9,10)}")
    }

    @Test func theFirstToBeAppliedWins() throws {
        var state = DeduplicationState()
        #expect(try state.apply(messages([4, 5])) == [0, 1])
        #expect(try state.apply(line(3...8)) == .init(new: [3...3, 6...8], late: 2))
        #expect(try state.apply(line(3...8)) == .init(new: [], late: 6))
        #expect(try state.apply(messages([6, 9])) == [1])
        #expect(state.numbers.ranges == [3...9])
    }

    @Test func anOverflowChangesNothing() throws {
        var state = DeduplicationState(IntervalSet(maximumRanges: 2))
        _ = try state.apply(messages([1]))
        let before = state
        #expect(throws: IntervalSetError.tooManyRanges(maximum: 2)) { try state.apply(messages([5, 9])) }
        #expect(state == before)
        _ = try state.apply(line(4...4))
        #expect(throws: IntervalSetError.tooManyRanges(maximum: 2)) { try state.apply(line(7...7)) }
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func whateverTheOrderEachNumberEndsOnce(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        var state = DeduplicationState()
        var ended: [UInt64: Int] = [:]
        for _ in 0..<200 {
            let lower = UInt64.random(in: 1...80, using: &generator)
            let range = lower...(lower + UInt64.random(in: 0...5, using: &generator))
            switch Int.random(in: 0..<3, using: &generator) {
            case 0:
                let result = try state.apply(line(range))
                for number in result.new.joined() { ended[number, default: 0] += 1 }
                #expect(UInt64(result.new.joined().count) + result.late == UInt64(range.count))
            case 1:
                let group = messages(Array(range))
                for index in try state.apply(group) { ended[group[index].number, default: 0] += 1 }
            default:
                let group = messages(Array(range).shuffled(using: &generator))
                for index in try state.apply(group) { ended[group[index].number, default: 0] += 1 }
            }
        }
        #expect(ended.values.allSatisfy { $0 == 1 })
        #expect(ended.keys.sorted() == state.numbers.ranges.flatMap { Array($0) })
    }
}
