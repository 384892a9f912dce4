import MQTTSession
import MQTTWire
import NIOConcurrencyHelpers
import SyncModel

@testable import Buffer

/// The promise, looked at when all faults have ended and everything has drained.
extension World {
    /// Nothing is on its way anywhere.
    var isQuiet: Bool { unrest == "" }

    var unrest: String {
        guard let edge else { return "the daemon is down" }
        if devices.contains(where: { !$0.pending.isEmpty || !$0.isOpen }) {
            let fill = edge.store.shared.fill.withLockedValue { $0 }
            return "a device waits; \(edge.store.waiting), the uplink is \(edge.uplink.state), the buffer \(fill)"
        }
        if !edge.output.group.isEmpty || edge.group != nil { return "a group waits" }
        // Of the backlog one may be left whose messages were all dropped: it goes with the next backlog. Wrong bits may make
        // up others.
        if edge.store.openCuts[.live] != nil, !isDamaged { return "a batch waits" }
        if !edge.store.drops.held.queues.isEmpty || edge.store.local.isSpentDue { return "a window waits" }
        let waiting = edge.store.waiting
        if waiting.live.messages + waiting.backlog.messages != 0 {
            return "\(waiting) waits, the uplink is \(edge.uplink.state)"
        }
        if !cloud.isProcessed { return "the cloud processes" }
        let left = edge.store.attempt { () throws(SQLiteError) in
            let accounts = try edge.store.connection.integer(
                "SELECT count(*) FROM epoch WHERE closed = 1 AND reported = 0")
            return try edge.store.lastUnreportedLedger() + (accounts ?? 0)
        }
        return left == .success(0) ? "" : "the ledger or an account waits: \(left)"
    }

    func findings() -> [String] {
        guard let edge else { return ["the daemon is down"] }
        truth.compare(edge.store, isDamaged: isDamaged)
        var problems = truth.problems + rowProblems() + promiseProblems()
        problems += endProblems() + localProblems()
        if !isDamaged { problems += auditProblems(edge.store) }
        return problems
    }

    /// Every row is a message as it was given its identity; nothing is stored twice.
    private func rowProblems() -> [String] {
        var problems: [String] = []
        var copies: [String: Int] = [:]
        for (identity, row) in cloud.tables.rows.sorted(by: { $0.key < $1.key }) {
            copies[row.payload, default: 0] += 1
            let given = truth.epochs[identity.epoch]?.messages[identity.sequence]
            if given != row {
                problems.append("\(identity) is stored as \(row), and was \(given.map { "\($0)" } ?? "never given")")
            }
        }
        // What a salvage finds may be of a commit that failed: its messages come again, and how far QoS 2 had got is not known.
        for (payload, count) in copies where count > 1 && !isDamaged && salvages == 0 {
            guard let message = truth.published[payload] else { continue }
            let index = devices.firstIndex { $0.id == message.device }
            let isResent = index.map { devices[$0].resent.contains(message.number) } ?? false
            if message.qos != .atLeastOnce || !isResent {
                problems.append("\(message) is stored \(count) times")
            }
        }
        return problems
    }

    /// What was acknowledged has been committed.
    private func promiseProblems() -> [String] {
        guard !isDamaged else { return [] }
        var committed: Set<String> = []
        for known in truth.epochs.values {
            for (sequence, row) in known.messages where sequence <= known.last ?? known.confirmed {
                committed.insert(row.payload)
            }
        }
        return truth.published.compactMap { payload, message in
            guard let device = devices.first(where: { $0.id == message.device }),
                device.promised.contains(message.number), !committed.contains(payload)
            else { return nil }
            return "\(message) was acknowledged and is not committed"
        }
    }

    /// Every sequence that was committed ended once.
    private func endProblems() -> [String] {
        var problems: [String] = []
        for (epoch, known) in truth.epochs {
            let lines = cloud.tables.ledger.filter { $0.line.epoch == epoch }
            var ends = DamagedEnds()
            for (sequence, row) in known.messages.sorted(by: { $0.key < $1.key })
            where sequence <= known.last ?? known.confirmed {
                let identity = ModelCloud.Identity(epoch: epoch, sequence: sequence)
                let own = lines.filter { $0.line.device == row.device && $0.line.numbers.contains(row.number) }
                let ending = own.filter { $0.new.contains { $0.contains(row.number) } }
                if cloud.tables.rows[identity] != nil {
                    // A salvage may bring back from an old page what was aggregated: the cloud takes one of the two.
                    let exclusive: [LedgerReason] = isDamaged ? [.malformed] : [.malformed, .aggregated, .filtered]
                    if !ending.isEmpty || own.contains(where: { exclusive.contains($0.line.reason) }) {
                        problems.append("\(identity) is a row and in the ledger")
                    }
                } else if isDamaged {
                    ends.add("\(identity) of \(row.device), number \(row.number)", sequence, lines, own: ending.count)
                } else if ending.count != 1 {
                    problems.append("\(identity) of \(row.device), number \(row.number), is nowhere")
                }
                let isOutside = own.contains { !$0.line.sequences.contains(sequence) }
                if isOutside { problems.append("\(identity) is outside its ledger line's sequences") }
            }
            // A log whose last transaction alone is hit looks like a torn one: see decision 14.
            if salvages > 0 || !hasRottenLog { problems += ends.problems }
            for line in lines where line.line.reason == .damaged && !isDamaged {
                problems.append("a ledger line says damaged, and nothing was: \(line.line)")
            }
        }
        return problems
    }

    /// Messages without a row after damage. A salvage knows of a hole between two numbers of a device which message it was,
    /// and of all holes that it covers which sequences are missing; it does not know which of them that message had. So the
    /// lines of the unknown device may name one of them that is a device's, and not name another.
    private struct DamagedEnds {
        private var unnamed: [String] = []
        private var doublyNamed = 0
        private(set) var wrong: [String] = []

        mutating func add(
            _ message: String, _ sequence: UInt64, _ lines: [ModelCloud.Line], own: Int
        ) {
            let others = lines.filter { $0.line.sequences.contains(sequence) }
            let isUnknown = others.contains { $0.line.device == MissingMessages.unknownDevice }
            if own > 1 { wrong.append("\(message), ends \(own) times") }
            if own == 1, isUnknown { doublyNamed += 1 }
            guard own == 0, !isUnknown else { return }
            if others.isEmpty { wrong.append("\(message), is nowhere") } else { unnamed.append(message) }
        }

        var problems: [String] {
            wrong + (unnamed.count > doublyNamed ? unnamed.map { "\($0), is in nobody's line" } : [])
        }
    }

    /// The audit closes, by the same arithmetic as `sluice audit`.
    private func auditProblems(_ store: BufferStore) -> [String] {
        var tally = AuditTally()
        let result = store.attempt { () throws(SQLiteError) in try store.accounting() }
        guard case .success(let accounting) = result, tally.add(accounting) else { return ["no accounting: \(result)"] }
        func source(_ epoch: Epoch) -> AuditTally.Source { .init(gateway: Self.gateway, epoch: epoch) }
        for (epoch, account) in cloud.tables.accounts {
            tally.add(account: source(epoch), lastSequence: account.lastSequence, isClosed: account.isClosed)
        }
        for device in devices {
            for number in 0..<device.count {
                let isKnown = device.promised.contains(number + 1)
                tally.published(device.id, n: UInt64(number + 1), qos: 1)
                if isKnown { tally.acknowledged(device.id, n: UInt64(number + 1)) }
                if device.resent.contains(number + 1) { tally.resent(device.id, n: UInt64(number + 1)) }
            }
        }
        for (identity, row) in cloud.tables.rows {
            _ = tally.add(row: source(identity.epoch), sequence: identity.sequence, part: 0, parts: 1)
            if let message = truth.published[row.payload] {
                tally.found(message.device, n: UInt64(message.number))
            }
        }
        for applied in cloud.tables.ledger {
            for numbers in applied.new {
                tally.add(
                    ledger: source(applied.line.epoch), device: applied.line.device, sequences: applied.line.sequences,
                    numbers: numbers, reason: applied.line.reason)
            }
        }
        for (device, state) in cloud.tables.ended {
            tally.add(ended: state.numbers, of: source(device.epoch), device: device.id)
        }
        let report = tally.report()
        guard !report.closed else { return [] }
        return ["the audit does not close: \(report.problems.joined(separator: "; ")), \(report.lost) lost"]
    }
}
