/// What an audit has collected of one epoch.
extension AuditTally {
    struct LedgerEntry: Sendable {
        var device: String
        var sequences: ClosedRange<UInt64>
        var numbers: ClosedRange<UInt64>
        /// In the event log, not in a dead letter; of lines that wait.
        var isInLog = false

        var messages: UInt64 { numbers.upperBound - numbers.lowerBound + 1 }
    }

    /// The rows of one message: which of its parts were seen.
    private struct Rows: Sendable {
        /// Parts 0 to 63; more are in `furtherParts`.
        var parts: UInt64 = 0
        /// As the rows say; 0: no row.
        var expected: UInt16 = 0
        var isDoubled = false
    }

    struct EpochState: Sendable {
        /// As the gateway itself says, and `buffered` with it, where `isAccounted`.
        var lastSequence: UInt64 = 0
        var isAccounted = false
        /// The gateway's accounting lists a newer epoch: `lastSequence` is final.
        var isOver = false
        /// What the gateway answered when it was asked once more, after the tables; `.max` where it says nothing any more.
        var lastAgain: UInt64?
        /// As the database was told.
        var account: UInt64 = 0
        var isClosed = false
        /// The highest sequence that has a row.
        var lastRow: UInt64 = 0
        var buffered = IntervalSet(maximumRanges: .max)
        var inLog = IntervalSet(maximumRanges: .max)
        /// In objects of dead letters that are not replayed.
        var inDeadLetters = IntervalSet(maximumRanges: .max)
        /// Of devices that have a journal: what is in the log or in dead letters.
        var waiting: [String: IntervalSet] = [:]
        /// Lines in the tables.
        var ledger: [LedgerEntry] = []
        /// Lines in the log and in dead letters, by their devices. A repeated batch brings them again.
        var waitingLedger: [String: [LedgerEntry]] = [:]
        /// Messages that deduplication has as stored or dropped.
        var ended: UInt64 = 0
        /// Which these are, of devices with a line in `waitingLedger`.
        var endedNumbers: [String: IntervalSet] = [:]
        /// Messages of ledger lines in the tables.
        var appliedLedger: UInt64 = 0
        private var rows = SparseTable<Rows>(empty: Rows())
        private var furtherParts: [UInt64: Set<UInt16>] = [:]
        var rowCount: UInt64 = 0
        var deadLettered: UInt64 = 0
        /// Messages whose rows were dropped at the end of their time.
        var retired = IntervalSet(maximumRanges: .max)
        /// As many as `retired` holds, or some were there twice.
        var retiredMessages: UInt64 = 0
        /// Messages of which some rows were dropped so.
        var partlyRetired = IntervalSet(maximumRanges: .max)
        /// Messages of days that are in the cold archive and in the tables no more.
        var archived = IntervalSet(maximumRanges: .max)
        /// Of all rows, those of the archive included.
        var balance = RowBalance()
        /// The archive tells what its rows add.
        var isBalanceKnown = true

        mutating func add(row sequence: UInt64, part: UInt16, parts: UInt16) -> Bool {
            rowCount += 1
            balance.add(sequence: sequence, part: part, parts: parts)
            lastRow = max(lastRow, sequence)
            let isNew: Bool
            if part < 64 {
                isNew = rows[sequence].parts & 1 << UInt64(part) == 0
                rows[sequence].parts |= 1 << UInt64(part)
            } else {
                isNew = furtherParts[sequence, default: []].insert(part).inserted
            }
            let expected = rows[sequence].expected
            // Rows that disagree about their number belong to two different storings of the message.
            if !isNew || expected != 0 && expected != parts { rows[sequence].isDoubled = true }
            rows[sequence].expected = max(expected, parts)
            return isNew
        }

        /// - Parameter device: whose it is, if it has a journal.
        mutating func add(waiting sequence: UInt64, of device: String?, isInLog: Bool) {
            // Cannot throw: sequences fit, and the number of ranges is not bounded.
            if isInLog { _ = try? inLog.insert(sequence) } else { _ = try? inDeadLetters.insert(sequence) }
            guard let device else { return }
            _ = try? waiting[device, default: IntervalSet(maximumRanges: .max)].insert(sequence)
        }

        /// What lines in the log and in dead letters will end: not what has ended already, and what several name only once.
        func linesToCome() -> [(line: LedgerEntry, messages: UInt64)] {
            guard !waitingLedger.isEmpty else { return [] }
            var known = endedNumbers
            // A dead letter's line may be of a device of which the log had none.
            for entry in ledger where waitingLedger[entry.device] != nil {
                _ = try? known[entry.device, default: IntervalSet(maximumRanges: .max)].insert(entry.numbers)
            }
            var lines: [(line: LedgerEntry, messages: UInt64)] = []
            for (device, waiting) in waitingLedger.sorted(by: { $0.key < $1.key }) {
                for line in waiting {
                    let new = try? known[device, default: IntervalSet(maximumRanges: .max)].insert(line.numbers)
                    let messages = (new ?? []).map { $0.upperBound - $0.lowerBound + 1 }.saturatedSum()
                    if messages > 0 { lines.append((line, messages)) }
                }
            }
            return lines
        }

        /// How far its sequences go.
        ///
        /// What came after an accounting may be anywhere: it is judged by the next audit. Not so where the gateway should
        /// know of it and does not: its buffer was put back to an earlier state.
        ///
        /// - Parameter known: the last sequence that was seen anywhere.
        func end(known: UInt64) -> UInt64 {
            let known = max(known, account)
            guard isAccounted, known > lastSequence else { return max(known, lastSequence) }
            let isPutBack = isOver || (lastAgain.map { $0 < known } ?? isClosed)
            return isPutBack ? known : lastSequence
        }

        struct Stored {
            var messages: UInt64 = 0
            var sequences: [ClosedRange<UInt64>] = []
            var doubled: UInt64 = 0
            var incomplete: [ClosedRange<UInt64>] = []
        }

        func stored() -> Stored {
            var stored = Stored()
            rows.forEach { sequence, rows in
                guard rows.expected > 0 else { return }
                if retired.contains(sequence) {
                    stored.doubled += 1
                    return
                }
                if rows.isDoubled { stored.doubled += 1 }
                // The parts that are not here were of another day, which the archive has; see `balance`.
                if archived.contains(sequence) { return }
                stored.messages += 1
                Self.append(sequence, to: &stored.sequences)
                let found = rows.parts.nonzeroBitCount + (furtherParts[sequence]?.count ?? 0)
                if found < Int(rows.expected) { Self.append(sequence, to: &stored.incomplete) }
            }
            stored.messages += retired.count
            stored.sequences += retired.ranges
            if retiredMessages > retired.count { stored.doubled += retiredMessages - retired.count }
            stored.messages += archived.count
            stored.sequences += archived.ranges
            return stored
        }

        private static func append(_ sequence: UInt64, to ranges: inout [ClosedRange<UInt64>]) {
            if let last = ranges.last, last.upperBound + 1 == sequence {
                ranges[ranges.count - 1] = last.lowerBound...sequence
            } else {
                ranges.append(sequence...sequence)
            }
        }
    }
}
