import Flow
import SyncModel
import Testing

@Suite struct RowBalanceTests {
    private struct Row {
        var sequence: UInt64
        var part: UInt16
        var parts: UInt16
    }

    private static let rows: [Row] = {
        var rows: [Row] = []
        for sequence: UInt64 in 1...50 {
            let parts = UInt16(sequence % 7 + 1)
            for part in 0..<parts { rows.append(Row(sequence: sequence, part: part, parts: parts)) }
        }
        return rows
    }()

    private static func balance(_ rows: [Row]) -> RowBalance {
        var balance = RowBalance()
        for row in rows { balance.add(sequence: row.sequence, part: row.part, parts: row.parts) }
        return balance
    }

    @Test(arguments: UInt64(1)...20) func wholeMessagesAreInBalanceWhereverTheirRowsAre(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let shuffled = Self.rows.shuffled(using: &random)
        #expect(Self.balance(shuffled) == RowBalance())
        let cut = Int.random(in: 0...shuffled.count, using: &random)
        var sum = Self.balance(Array(shuffled[..<cut]))
        sum.add(Self.balance(Array(shuffled[cut...])).value)
        #expect(sum == RowBalance())
    }

    /// Nor does a second loss, or a row that is there twice, make up for the first.
    @Test func whatIsMissingOrDoubledIsSeen() {
        let rows = Self.rows.filter { $0.parts > 1 }
        for first in rows.indices {
            var left = rows
            let lost = left.remove(at: first)
            #expect(Self.balance(left) != RowBalance(), "\(lost)")
            #expect(Self.balance(rows + [lost]) != RowBalance(), "\(lost)")
            for second in first..<left.count {
                // Both parts of a message of two: it is gone, as its sequence tells.
                if lost.parts == 2, left[second].sequence == lost.sequence { continue }
                var further = left
                further.remove(at: second)
                #expect(Self.balance(further) != RowBalance())
                #expect(Self.balance(left + [left[second]]) != RowBalance())
            }
        }
    }

    /// Manifests of the archive hold such numbers.
    @Test func aRowAddsWhatItAlwaysDid() {
        var balance = RowBalance()
        balance.add(sequence: 1, part: 1, parts: 2)
        #expect(balance.value == 0xd08b_f4ec_cba8_d3a1)
        balance.add(sequence: 7, part: 0, parts: 3)
        #expect(balance.value == 0x6729_9d50_f847_51b2)
    }
}
