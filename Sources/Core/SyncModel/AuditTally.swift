/// Collects what an audit reads and compares it. Pure: sequences, parts and numbers in, a report out.
///
/// Whoever fills it must read in the direction in which messages travel, first the gateways' accounting, then the log,
/// then one snapshot of the tables. A message that moves on meanwhile is then seen twice, which is harmless here, and
/// never not at all.
package struct AuditTally: Sendable {
    package static let maximumGaps = 1_000

    package struct Source: Hashable, Sendable {
        package var gateway: String
        package var epoch: Epoch

        package init(gateway: String, epoch: Epoch) {
            self.gateway = gateway
            self.epoch = epoch
        }
    }

    struct Ledger: Sendable {
        var sequences: ClosedRange<UInt64>
        var messages: UInt64
    }

    /// The rows of one message: which of its parts were seen.
    fileprivate struct Rows: Sendable {
        /// Parts 0 to 63; more are in `furtherParts`.
        var parts: UInt64 = 0
        /// As the rows say; 0: no row.
        var expected: UInt16 = 0
        var isDoubled = false
    }

    struct EpochState: Sendable {
        var lastSequence: UInt64 = 0
        var isClosed = false
        /// `lastSequence` comes from the gateway itself, and `buffered` with it.
        var isAccounted = false
        var buffered = IntervalSet(maximumRanges: .max)
        var inLog = IntervalSet(maximumRanges: .max)
        var ledger: [Ledger] = []
        /// Messages that deduplication has as stored or dropped.
        var ended: UInt64 = 0
        /// Messages of ledger lines in the tables.
        var appliedLedger: UInt64 = 0
        fileprivate var rows = SparseTable<Rows>(empty: Rows())
        fileprivate var furtherParts: [UInt64: Set<UInt16>] = [:]
        var rowCount: UInt64 = 0
        var deadLettered: UInt64 = 0
        /// Messages whose rows were dropped at the end of their time.
        var retired = IntervalSet(maximumRanges: .max)
        /// As many as `retired` holds, or some were there twice.
        var retiredMessages: UInt64 = 0
        /// Messages of days that are in the cold archive and in the tables no more.
        var archived = IntervalSet(maximumRanges: .max)
        /// In objects of dead letters that are not replayed.
        var inDeadLetters = IntervalSet(maximumRanges: .max)
    }

    var epochs: [Source: EpochState] = [:]
    var devices: [String: AuditJournal] = [:]
    var dropped: [LedgerReason: UInt64] = [:]
    var notes: [String] = []
    /// Gateways whose accounting was given.
    var accounted: Set<String> = []

    package init() {}

    /// Something that a reader of the report must know, and that keeps the audit from closing.
    package mutating func note(_ text: String) { notes.append(text) }

    // MARK: Gateways

    /// - Returns: `false` where the accounting names an epoch that is none.
    package mutating func add(_ accounting: GatewayAccounting) -> Bool {
        accounted.insert(accounting.gateway)
        for entry in accounting.epochs {
            guard let epoch = Epoch(hexadecimal: entry.epoch) else { return false }
            let source = Source(gateway: accounting.gateway, epoch: epoch)
            epochs[source, default: .init()].isAccounted = true
            raise(source, to: entry.lastSequence)
            for run in entry.buffered where run.count == 2 && run[0] <= run[1] {
                // Cannot throw: sequences fit, and the number of ranges is not bounded.
                _ = try? epochs[source]?.buffered.insert(run[0]...run[1])
            }
        }
        return true
    }

    /// What the database was told of an epoch. It may be ahead of the rows, so it counts where nothing better is known.
    package mutating func add(account source: Source, lastSequence: UInt64, isClosed: Bool) {
        epochs[source, default: .init()].isClosed = isClosed
        if epochs[source]?.isAccounted != true { raise(source, to: lastSequence) }
    }

    private mutating func raise(_ source: Source, to sequence: UInt64) {
        epochs[source, default: .init()].lastSequence = max(epochs[source]?.lastSequence ?? 0, sequence)
    }

    // MARK: Log

    package mutating func add(logged entry: LogEntry) {
        switch entry {
        case .messages(let messages):
            let source = Source(gateway: messages.gateway, epoch: messages.epoch)
            for message in messages.messages {
                _ = try? epochs[source, default: .init()].inLog.insert(message.sequence)
            }
        case .ledger(let gateway, let line):
            // Not applied yet; for the comparison it explains its sequences all the same.
            add(
                ledger: Source(gateway: gateway, epoch: line.epoch), sequences: line.sequences,
                messages: line.numbers.upperBound - line.numbers.lowerBound + 1, reason: line.reason, isApplied: false)
        case .account, .correction: break
        }
    }

    /// What is in an object of dead letters that is not replayed.
    package mutating func add(deadLetter entry: LogEntry) {
        guard case .messages(let messages) = entry else { return add(logged: entry) }
        let source = Source(gateway: messages.gateway, epoch: messages.epoch)
        for message in messages.messages {
            _ = try? epochs[source, default: .init()].inDeadLetters.insert(message.sequence)
        }
    }

    // MARK: Tables

    /// - Returns: whether the row is the first of its kind, not a doubled one.
    package mutating func add(row source: Source, sequence: UInt64, part: UInt16, parts: UInt16) -> Bool {
        epochs[source, default: .init()].add(row: sequence, part: part, parts: parts)
    }

    package mutating func add(deadLetter source: Source) { epochs[source, default: .init()].deadLettered += 1 }

    /// Whole messages of the cold archive, of a day that the tables no longer have.
    package mutating func add(archived source: Source, sequences: ClosedRange<UInt64>) {
        // Cannot throw: the number of ranges is not bounded, and who reads them checks that sequences fit.
        _ = try? epochs[source, default: .init()].archived.insert(sequences)
    }

    /// - Parameters:
    ///   - rows: of the archive.
    ///   - deadLettered: messages among them that PostgreSQL had refused.
    package mutating func add(archived source: Source, rows: UInt64, deadLettered: UInt64) {
        epochs[source, default: .init()].rowCount += rows
        epochs[source]?.deadLettered += deadLettered
    }

    package mutating func add(
        ledger source: Source, sequences: ClosedRange<UInt64>, messages: UInt64, reason: LedgerReason?,
        isApplied: Bool = true
    ) {
        epochs[source, default: .init()].ledger.append(Ledger(sequences: sequences, messages: messages))
        guard isApplied else { return }
        if let reason { dropped[reason] = (dropped[reason] ?? 0).addingSaturated(messages) }
        if let applied = epochs[source]?.appliedLedger {
            epochs[source]?.appliedLedger = applied.addingSaturated(messages)
        }
    }

    /// Messages whose rows were all dropped at the end of their time.
    package mutating func add(retired source: Source, sequences: ClosedRange<UInt64>) {
        _ = try? epochs[source, default: .init()].retired.insert(sequences)
    }

    /// What was counted when they were dropped.
    package mutating func add(retired source: Source, messages: UInt64, rows: UInt64, deadLetters: UInt64) {
        epochs[source, default: .init()].retiredMessages += messages
        epochs[source, default: .init()].rowCount += rows
        epochs[source, default: .init()].deadLettered += deadLetters
    }

    /// Numbers of a device that deduplication has as ended.
    package mutating func add(ended count: UInt64, of source: Source) {
        epochs[source, default: .init()].ended = (epochs[source]?.ended ?? 0).addingSaturated(count)
    }

    // MARK: Journal

    package mutating func published(_ device: String, n: UInt64, qos: UInt8) {
        devices[device, default: AuditJournal()].published(n, qos: qos)
    }

    package mutating func resent(_ device: String, n: UInt64) { devices[device, default: AuditJournal()].resent(n) }

    package mutating func acknowledged(_ device: String, n: UInt64) {
        devices[device, default: AuditJournal()].acknowledged(n)
    }

    package var hasJournal: Bool { !devices.isEmpty }

    package func hasJournal(of device: String) -> Bool { devices[device] != nil }

    /// A message with this `n` has a row.
    package mutating func found(_ device: String, n: UInt64) { devices[device]?.found(n) }
}

extension AuditTally.EpochState {
    fileprivate mutating func add(row sequence: UInt64, part: UInt16, parts: UInt16) -> Bool {
        rowCount += 1
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
            // The parts that are not here were of another day, which the archive has.
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

extension Epoch {
    /// 32 hexadecimal digits, with or without a uuid's hyphens.
    package init?(hexadecimal text: String) {
        let digits = text.filter { $0 != "-" }
        guard digits.utf8.count == 32, digits.allSatisfy(\.isHexDigit),
            let high = UInt64(digits.prefix(16), radix: 16), let low = UInt64(digits.suffix(16), radix: 16)
        else { return nil }
        self.init(high: high, low: low)
    }

    /// 32 hexadecimal digits.
    package var hexadecimalText: String { Self.digits(high) + Self.digits(low) }

    private static func digits(_ value: UInt64) -> String {
        let text = String(value, radix: 16)
        return String(repeating: "0", count: 16 - text.utf8.count) + text
    }
}

extension UInt64 {
    /// Gateways may claim any range of numbers; a sum that does not fit is as large as it gets.
    fileprivate func addingSaturated(_ other: UInt64) -> UInt64 {
        let (sum, isTooLarge) = addingReportingOverflow(other)
        return isTooLarge ? .max : sum
    }
}
