import NIOCore
import SyncModel
import Testing

private let source = AuditTally.Source(gateway: "g", epoch: Epoch(high: 1, low: 2))
private let epochText = "00000000000000010000000000000002"

/// A tally whose tables agree with each other, with these sequences of one row each.
private func tally(stored: [UInt64], last: UInt64? = nil, buffered: [[UInt64]] = []) -> AuditTally {
    var tally = AuditTally()
    if let last {
        let entry = GatewayAccounting.EpochEntry(epoch: epochText, lastSequence: last, buffered: buffered)
        let isKnown = tally.add(
            GatewayAccounting(gateway: "g", epochs: [entry], bufferedMessages: 0, bufferedBytes: 0))
        #expect(isKnown)
    }
    for sequence in stored { _ = tally.add(row: source, sequence: sequence, part: 0, parts: 1) }
    tally.add(ended: UInt64(stored.count), of: source)
    return tally
}

extension AuditTally {
    /// As many numbers of a device.
    fileprivate mutating func add(ended count: UInt64, of source: Source, device: String = "d") {
        var numbers = IntervalSet()
        if count > 0 { _ = try? numbers.insert(1...count) }
        add(ended: numbers, of: source, device: device)
    }
}

@Suite struct AuditTallyTests {
    @Test func everythingStoredCloses() {
        let report = tally(stored: Array(1...3_000), last: 3_000).report()
        #expect(report.closed && report.sound)
        #expect(report.stored == 3_000 && report.rows == 3_000 && report.acknowledged == 3_000)
        #expect(report.gaps.isEmpty && report.published == nil)
    }

    @Test func aMissingSequenceIsAGap() {
        let report = tally(stored: [1, 2, 5, 6], last: 8).report()
        #expect(report.lost == 4 && !report.closed && !report.sound)
        #expect(
            report.gaps == [
                .init(gateway: "g", epoch: epochText, first: 3, last: 4, lost: 2),
                .init(gateway: "g", epoch: epochText, first: 7, last: 8, lost: 2),
            ])
    }

    @Test func whatIsOnItsWayIsNotLostButDoesNotClose() {
        var tally = tally(stored: [1, 2], last: 6, buffered: [[4, 6]])
        let message = SyncedMessage(
            sequence: 3, number: 3, qos: 1, wallTime: 0, topic: ByteBuffer(), payload: ByteBuffer())
        tally.add(
            logged: .messages(
                DeviceMessages(gateway: "g", epoch: source.epoch, device: "d", lane: .live, messages: [message])))
        let report = tally.report()
        #expect(report.sound && !report.closed)
        #expect(report.buffered == 3 && report.inLog == 1 && report.lost == 0)
    }

    @Test func whatIsSeenAtTwoPlacesCountsOnce() {
        let report = tally(stored: [1, 2, 3], last: 4, buffered: [[2, 4]]).report()
        #expect(report.buffered == 1 && report.sound)
    }

    @Test func rowsNewerThanTheAccountingAreNotJudged() {
        let report = tally(stored: [1, 2, 3, 9], last: 3).report()
        #expect(report.sound && report.stored == 4)
    }

    @Test func ledgerLinesExplainAsManyAsTheyCount() {
        var tally = tally(stored: [1, 10], last: 10)
        tally.add(ledger: source, device: "d", sequences: 2...9, numbers: 3...7, reason: .bufferFull)
        tally.add(ended: 5, of: source)
        var report = tally.report()
        #expect(report.lost == 3 && report.dropped == ["bufferFull": 5])
        tally.add(ledger: source, device: "e", sequences: 3...6, numbers: 1...3, reason: .expiredByAge)
        tally.add(ended: 3, of: source)
        report = tally.report()
        #expect(report.lost == 0 && report.closed)
    }

    @Test func aLedgerLineDoesNotExplainOutsideItsSpan() {
        var tally = tally(stored: [3], last: 4)
        tally.add(ledger: source, device: "d", sequences: 1...3, numbers: 1...3, reason: .bufferFull)
        tally.add(ended: 3, of: source)
        let report = tally.report()
        #expect(report.gaps.map(\.first) == [4] && report.lost == 1)
    }

    @Test func aDoubledRowIsFound() {
        var tally = AuditTally()
        for part: UInt16 in 0..<100 {
            let isNew = tally.add(row: source, sequence: 7, part: part, parts: 100)
            #expect(isNew)
        }
        tally.add(ended: 1, of: source)
        var other = tally
        #expect(tally.report().duplicated == 0)
        let isNew = tally.add(row: source, sequence: 7, part: 3, parts: 100)
        #expect(!isNew && tally.report().duplicated == 1)
        let isNewBeyondTheMask = other.add(row: source, sequence: 7, part: 80, parts: 100)
        #expect(!isNewBeyondTheMask && other.report().duplicated == 1)
    }

    @Test func aMessageStoredTwiceInDifferentShapesIsDoubled() {
        var tally = AuditTally()
        _ = tally.add(row: source, sequence: 1, part: 0, parts: 1)
        _ = tally.add(row: source, sequence: 1, part: 1, parts: 2)
        tally.add(ended: 1, of: source)
        #expect(tally.report().duplicated == 1)
    }

    @Test func aMissingPartIsALoss() {
        var tally = AuditTally()
        for part: UInt16 in 0..<70 where part != 66 { _ = tally.add(row: source, sequence: 1, part: part, parts: 70) }
        tally.add(ended: 1, of: source)
        let report = tally.report()
        #expect(report.lost == 1 && report.gaps.map(\.first) == [1])
        #expect(report.problems.joined().contains("lack some of their rows"))
    }

    @Test func deduplicationKnowsOfRowsThatAreGone() {
        var tally = AuditTally()
        _ = tally.add(row: source, sequence: 1, part: 0, parts: 1)
        tally.add(ended: 2, of: source)
        #expect(tally.report().lost == 1)
        tally = AuditTally()
        _ = tally.add(row: source, sequence: 1, part: 0, parts: 1)
        #expect(!tally.report().sound, "a row that nobody stored")
    }

    @Test func withoutAccountingTheDatabasesAccountCounts() {
        var tally = tally(stored: [1, 2])
        tally.add(account: source, lastSequence: 4, isClosed: true)
        let report = tally.report()
        #expect(report.lost == 2)
        #expect(report.problems.contains { $0.contains("accounting was not given") })
    }

    @Test func journalsDecideWhatIsRedeliveredAndWhatIsDuplicated() {
        var tally = tally(stored: [1, 2, 3, 4, 5, 6, 7], last: 7)
        for n: UInt64 in 1...5 { tally.published("d", n: n, qos: n == 5 ? 2 : 1) }
        for n: UInt64 in 1...5 { tally.acknowledged("d", n: n) }
        tally.resent("d", n: 2)
        tally.resent("d", n: 5)
        for n: UInt64 in [1, 2, 2, 3, 3, 5, 5] { tally.found("d", n: n) }
        let report = tally.report()
        #expect(report.published == 5 && report.acknowledged == 5)
        #expect(report.redelivered == 1, "n 2")
        #expect(report.duplicated == 2, "n 3 was sent once, n 5 at QoS 2")
        #expect(report.lost == 1, "n 4")
        #expect(!report.closed)
    }

    @Test func acknowledgedMessagesMayBeOnTheirWay() {
        var tally = tally(stored: [1], last: 2, buffered: [[2, 2]])
        for n: UInt64 in 1...2 {
            tally.published("d", n: n, qos: 1)
            tally.acknowledged("d", n: n)
        }
        tally.found("d", n: 1)
        #expect(tally.report().sound)
    }

    @Test func whatNobodyPublishedIsAProblem() {
        var tally = tally(stored: [1], last: 1)
        tally.published("d", n: 1, qos: 1)
        tally.found("d", n: 2)
        #expect(!tally.report().sound)
    }

    // MARK: What comes twice

    /// A batch came twice: its first copy is stored, its second waits in a dead letter.
    @Test(arguments: [1, 2]) func aLineInDeadLettersCountsOnce(copies: Int) {
        let line = LedgerLine(
            epoch: source.epoch, device: "e", sequences: 1...1_000, numbers: 1...10, reason: .bufferFull)
        var tally = tally(stored: Array(1...980), last: 1_000)
        for _ in 0..<copies { tally.add(deadLetter: .ledger(gateway: "g", line)) }
        #expect(tally.report().lost == 10 && tally.report().dropsInLog == 0)
        tally.add(logged: .ledger(gateway: "g", line))
        #expect(tally.report().lost == 10)
        tally.add(ledger: source, device: "e", sequences: 1...1_000, numbers: 1...10, reason: .bufferFull)
        tally.add(ended: 10, of: source, device: "e")
        #expect(tally.report().lost == 10 && tally.report().dropsInLog == 0)
    }

    /// Of numbers that the first line names the second says nothing new.
    @Test func linesThatOverlapCountWhatIsNew() {
        var tally = tally(stored: Array(1...6), last: 12)
        for numbers: ClosedRange<UInt64> in [1...3, 2...4] {
            tally.add(
                logged: .ledger(
                    gateway: "g",
                    LedgerLine(
                        epoch: source.epoch, device: "e", sequences: 1...20, numbers: numbers, reason: .bufferFull)))
        }
        #expect(tally.report().lost == 2 && tally.report().dropsInLog == 4)
    }

    // MARK: Buffers that were put back

    private func ahead(entries: [(String, UInt64)], account: UInt64, isClosed: Bool) -> AuditTally {
        var tally = AuditTally()
        let isKnown = tally.add(accounting(entries))
        #expect(isKnown)
        for sequence: UInt64 in 1...4 { _ = tally.add(row: source, sequence: sequence, part: 0, parts: 1) }
        tally.add(ended: 4, of: source)
        tally.add(account: source, lastSequence: account, isClosed: isClosed)
        return tally
    }

    private func accounting(_ entries: [(String, UInt64)]) -> GatewayAccounting {
        GatewayAccounting(
            gateway: "g", epochs: entries.map { .init(epoch: $0.0, lastSequence: $0.1, buffered: []) },
            bufferedMessages: 0, bufferedBytes: 0)
    }

    private static let newer = "00000000000000010000000000000003"

    @Test func anOpenEpochMayHaveGoneOn() {
        var tally = ahead(entries: [(epochText, 2)], account: 6, isClosed: false)
        #expect(tally.report().sound && tally.isAheadOfAccounting)
        // The same gateway, asked after the tables: 5 and 6 are in its buffer.
        tally.add(again: accounting([(epochText, 9)]))
        #expect(tally.report().sound)
        tally = ahead(entries: [(epochText, 2)], account: 6, isClosed: true)
        tally.add(again: accounting([(epochText, 6), (Self.newer, 1)]))
        #expect(tally.report().sound)
        // It was all answered, and the gateway has forgotten it.
        tally = ahead(entries: [(epochText, 2)], account: 6, isClosed: true)
        tally.add(again: accounting([(Self.newer, 1)]))
        #expect(tally.report().sound)
        tally = ahead(entries: [(epochText, 4)], account: 4, isClosed: false)
        #expect(!tally.isAheadOfAccounting)
    }

    @Test func whoKnowsLessThanTheCloudWasPutBack() {
        var tally = ahead(entries: [(epochText, 2)], account: 6, isClosed: false)
        tally.add(again: accounting([(epochText, 2)]))
        #expect(tally.report().lost == 2)
        #expect(tally.report().gaps.map(\.first) == [5])
        // A file of another host, which cannot be asked again.
        #expect(ahead(entries: [(epochText, 2)], account: 6, isClosed: true).report().lost == 2)
        #expect(ahead(entries: [(epochText, 2), (Self.newer, 0)], account: 6, isClosed: false).report().lost == 2)
        // Nothing is missing of it.
        tally = ahead(entries: [(epochText, 2)], account: 4, isClosed: true)
        #expect(tally.report().closed)
    }

    /// No account came, but rows did.
    @Test func rowsAreKnownToTheCloudToo() {
        var tally = ahead(entries: [(epochText, 2)], account: 0, isClosed: false)
        _ = tally.add(row: source, sequence: 8, part: 0, parts: 1)
        tally.add(ended: 1, of: source, device: "e")
        #expect(tally.isAheadOfAccounting && tally.report().sound)
        tally.add(again: accounting([(epochText, 2)]))
        #expect(tally.report().lost == 3)
    }

    @Test func epochsAreReadAsTheyAreWritten() {
        #expect(Epoch(hexadecimal: epochText) == source.epoch)
        #expect(Epoch(hexadecimal: "00000000-0000-0001-0000-000000000002") == source.epoch)
        #expect(source.epoch.hexadecimalText == epochText)
        #expect(Epoch(hexadecimal: "xyz") == nil)
        #expect(Epoch(hexadecimal: "0000000000000001000000000000000g") == nil)
    }
}
