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

    var epochs: [Source: EpochState] = [:]
    var devices: [String: AuditJournal] = [:]
    /// Of devices that have a journal: numbers that have ended, over all epochs.
    var endedOf: [String: UInt64] = [:]
    /// Of devices that have a journal: rows of messages that PostgreSQL refused.
    var refusedOf: [String: UInt64] = [:]
    var dropped: [LedgerReason: UInt64] = [:]
    var notes: [String] = []
    /// Gateways whose accounting was given.
    var accounted: Set<String> = []

    package init() {}

    /// Something that a reader of the report must know, and that keeps the audit from closing.
    package mutating func note(_ text: String) { notes.append(text) }

    // MARK: Gateways

    /// - Returns: `false` where the accounting names an epoch that is none, or contradicts itself.
    package mutating func add(_ accounting: GatewayAccounting) -> Bool {
        accounted.insert(accounting.gateway)
        for (index, entry) in accounting.epochs.enumerated() {
            guard let epoch = Epoch(hexadecimal: entry.epoch), entry.lastSequence <= IntervalSet.maximumValue,
                let buffered = entry.bufferedRanges
            else { return false }
            var state = epochs[Source(gateway: accounting.gateway, epoch: epoch)] ?? EpochState()
            state.isAccounted = true
            // Epochs are in their order, and a newer one begins when the daemon of the older has ended.
            if index + 1 < accounting.epochs.count { state.isOver = true }
            state.lastSequence = max(state.lastSequence, entry.lastSequence)
            // Cannot throw: sequences fit, and the number of ranges is not bounded.
            for run in buffered { _ = try? state.buffered.insert(run) }
            epochs[Source(gateway: accounting.gateway, epoch: epoch)] = state
        }
        return true
    }

    /// What the database was told of an epoch. It may be ahead of the rows.
    package mutating func add(account source: Source, lastSequence: UInt64, isClosed: Bool) {
        epochs[source, default: .init()].isClosed = isClosed
        epochs[source, default: .init()].account = lastSequence
    }

    /// Whether the tables know of later messages than the gateway did when it was asked.
    package var isAheadOfAccounting: Bool {
        epochs.values.contains { $0.isAccounted && max($0.account, $0.lastRow) > $0.lastSequence }
    }

    /// The gateway's answer when it is asked after the tables were read: now it must know of all that they have.
    package mutating func add(again accounting: GatewayAccounting) {
        var last: [Epoch: UInt64] = [:]
        for entry in accounting.epochs {
            if let epoch = Epoch(hexadecimal: entry.epoch) { last[epoch] = max(last[epoch] ?? 0, entry.lastSequence) }
        }
        for source in epochs.keys where source.gateway == accounting.gateway {
            let before = epochs[source]?.lastAgain ?? 0
            epochs[source]?.lastAgain = max(before, last[source.epoch] ?? .max)
        }
    }

    // MARK: Log

    package mutating func add(logged entry: LogEntry) { add(waiting: entry, isInLog: true) }

    /// What is in an object of dead letters that is not replayed.
    package mutating func add(deadLetter entry: LogEntry) { add(waiting: entry, isInLog: false) }

    private mutating func add(waiting entry: LogEntry, isInLog: Bool) {
        switch entry {
        case .messages(let messages):
            let source = Source(gateway: messages.gateway, epoch: messages.epoch)
            let device = hasJournal(of: messages.device) ? messages.device : nil
            // Taken out meanwhile, so that nothing of it is copied.
            var state = epochs.removeValue(forKey: source) ?? EpochState()
            for message in messages.messages {
                state.add(waiting: message.sequence, of: device, isInLog: isInLog)
            }
            epochs[source] = state
        case .ledger(let gateway, let line):
            epochs[Source(gateway: gateway, epoch: line.epoch), default: .init()]
                .waitingLedger[line.device, default: []].append(
                    LedgerEntry(device: line.device, sequences: line.sequences, numbers: line.numbers, isInLog: isInLog)
                )
        case .account, .correction: break
        }
    }

    // MARK: Tables

    /// - Returns: whether the row is the first of its kind, not a doubled one.
    package mutating func add(row source: Source, sequence: UInt64, part: UInt16, parts: UInt16) -> Bool {
        epochs[source, default: .init()].add(row: sequence, part: part, parts: parts)
    }

    /// - Parameter device: whose the message is, if it has a journal.
    package mutating func add(refused source: Source, device: String?) {
        epochs[source, default: .init()].deadLettered += 1
        if let device { refusedOf[device, default: 0] += 1 }
    }

    /// Whole messages of the cold archive, of a day that the tables no longer have.
    package mutating func add(archived source: Source, sequences: ClosedRange<UInt64>) {
        // Cannot throw: the number of ranges is not bounded, and who reads them checks that sequences fit.
        _ = try? epochs[source, default: .init()].archived.insert(sequences)
    }

    /// What the archive's rows add to the balance of the epoch; `nil`: it cannot tell.
    package mutating func add(archived source: Source, balance: UInt64?) {
        if let balance {
            epochs[source, default: .init()].balance.add(balance)
        } else {
            epochs[source, default: .init()].isBalanceKnown = false
        }
    }

    /// - Parameters:
    ///   - rows: of the archive.
    ///   - deadLettered: messages among them that PostgreSQL had refused.
    package mutating func add(archived source: Source, rows: UInt64, deadLettered: UInt64) {
        epochs[source, default: .init()].rowCount.addSaturated(rows)
        epochs[source]?.deadLettered.addSaturated(deadLettered)
    }

    package mutating func add(
        ledger source: Source, device: String, sequences: ClosedRange<UInt64>, numbers: ClosedRange<UInt64>,
        reason: LedgerReason?
    ) {
        let entry = LedgerEntry(device: device, sequences: sequences, numbers: numbers)
        epochs[source, default: .init()].ledger.append(entry)
        epochs[source]?.appliedLedger.addSaturated(entry.messages)
        if let reason { dropped[reason, default: 0].addSaturated(entry.messages) }
    }

    /// Messages whose rows were all dropped at the end of their time.
    package mutating func add(retired source: Source, sequences: ClosedRange<UInt64>) {
        _ = try? epochs[source, default: .init()].retired.insert(sequences)
    }

    /// What was counted when they were dropped.
    package mutating func add(retired source: Source, messages: UInt64, rows: UInt64, deadLetters: UInt64) {
        epochs[source, default: .init()].retiredMessages.addSaturated(messages)
        epochs[source]?.rowCount.addSaturated(rows)
        epochs[source]?.deadLettered.addSaturated(deadLetters)
    }

    /// A row that was dropped at the end of its time, of a message that has others elsewhere.
    package mutating func add(retiredRow source: Source, sequence: UInt64, part: UInt16, parts: UInt16) {
        _ = add(row: source, sequence: sequence, part: part, parts: parts)
        _ = try? epochs[source]?.partlyRetired.insert(sequence)
    }

    /// Numbers of a device that deduplication has as ended.
    package mutating func add(ended numbers: IntervalSet, of source: Source, device: String) {
        epochs[source, default: .init()].ended.addSaturated(numbers.count)
        if hasJournal(of: device) { endedOf[device, default: 0].addSaturated(numbers.count) }
        if epochs[source]?.waitingLedger[device] != nil { epochs[source]?.endedNumbers[device] = numbers }
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
