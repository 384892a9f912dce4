extension AuditTally {
    /// At 100,000 messages a second, more than 20,000 years.
    private static let maximumCredible: UInt64 = 1 << 56

    /// Compares what was collected.
    package func report() -> AuditReport {
        var report = AuditReport()
        report.problems = notes
        var explained = Explained()
        for (source, epoch) in epochs.sorted(by: { ($0.key.gateway, $0.key.epoch) < ($1.key.gateway, $1.key.epoch) }) {
            compare(epoch, source, &report, &explained)
        }
        for (gateway, claimed) in explained.claims.sorted(by: { $0.key < $1.key }) where claimed > Self.maximumCredible
        {
            report.problems.append(
                "gateway \(gateway): it claims \(claimed) or more messages, which cannot be true; what is counted of it, and "
                    + "every sum that it is part of, means nothing")
        }
        for (reason, count) in dropped { report.dropped["\(reason)"] = count }
        compareJournals(&report, explained)
        if report.duplicated > 0 { report.conclusive = true }
        report.sound = report.lost == 0 && report.duplicated == 0 && report.problems.isEmpty
        report.closed = report.sound && report.buffered == 0 && report.inLog == 0 && report.dropsInLog == 0
        return report
    }

    private func compare(
        _ epoch: EpochState, _ source: Source, _ report: inout AuditReport, _ explained: inout Explained
    ) {
        let stored = epoch.stored()
        report.stored.addSaturated(stored.messages)
        report.retired.addSaturated(epoch.retired.count)
        report.rows.addSaturated(epoch.rowCount)
        report.deadLettered.addSaturated(epoch.deadLettered)
        report.archived.addSaturated(epoch.archived.count)
        report.duplicated.addSaturated(stored.doubled)
        explained.withoutName.addSaturated(epoch.partlyRetired.count)
        if stored.doubled > 0 {
            report.problems.append("\(Self.name(source)): \(stored.doubled) messages have a row twice")
        }
        let ended = missingByDeduplication(stored, epoch, source, &report)
        if ended > 0 || stored.doubled > 0 || !stored.incomplete.isEmpty { report.conclusive = true }
        let absent = missingBySequence(stored, epoch, source, &report, &explained)
        // Both see the same losses: the sequences where they are, deduplication also where no account says how many
        // there were. Messages that lack only some rows are seen by neither.
        report.lost.addSaturated(max(ended, absent))
        for range in stored.incomplete {
            report.lost.addSaturated(Self.count(range))
            Self.add(range, lost: Self.count(range), source, to: &report)
        }
        // Such messages are seen themselves, with their numbers, unless the archive has a part of them.
        if stored.incomplete.isEmpty, stored.doubled == 0, epoch.isBalanceKnown, epoch.balance != RowBalance() {
            report.lost.addSaturated(1)
            report.conclusive = true
            report.problems.append(
                "\(Self.name(source)): one message or more with rows in the cold archive lacks some of its rows, or has one twice"
            )
        }
        if !stored.incomplete.isEmpty {
            let count = stored.incomplete.reduce(0) { $0 + Self.count($1) }
            report.problems.append("\(Self.name(source)): \(count) messages lack some of their rows")
        }
    }

    /// Rows, ledger and deduplication are written in one transaction and read in one snapshot: they agree at any time.
    private func missingByDeduplication(
        _ stored: EpochState.Stored, _ epoch: EpochState, _ source: Source, _ report: inout AuditReport
    ) -> UInt64 {
        let present = stored.messages.addingSaturated(epoch.appliedLedger)
        if present > epoch.ended {
            report.problems.append(
                "\(Self.name(source)): \(present - epoch.ended) messages have rows that deduplication does not know")
            return 0
        }
        if present < epoch.ended {
            report.problems.append(
                "\(Self.name(source)): \(epoch.ended - present) messages were stored once and have no row now")
        }
        return epoch.ended - present
    }

    /// Sequences that were given away and are neither stored, nor in the log or buffer, nor explained by the ledger.
    private func missingBySequence(
        _ stored: EpochState.Stored, _ epoch: EpochState, _ source: Source, _ report: inout AuditReport,
        _ explained: inout Explained
    ) -> UInt64 {
        var present = IntervalSet(maximumRanges: .max)
        // Inserting cannot throw: there is no bound on the ranges, and sequences fit (they were checked when read).
        for range in stored.sequences { _ = try? present.insert(range) }
        explained.add(epoch, stored: present)
        report.inLog.addSaturated(Self.add(epoch.inLog, to: &present))
        report.buffered.addSaturated(Self.add(epoch.buffered, to: &present))
        let waiting = Self.add(epoch.inDeadLetters, to: &present)
        report.deadLettersWaiting.addSaturated(waiting)
        report.deadLettered.addSaturated(waiting)
        let sparse = ledger(of: epoch, addedTo: &present, &report, &explained)
        let last = epoch.end(known: present.ranges.last?.upperBound ?? 0)
        report.acknowledged.addSaturated(last)
        explained.claims[source.gateway, default: 0].addSaturated(last)
        explained.claims[source.gateway, default: 0].addSaturated(epoch.appliedLedger)
        guard last > 0 else { return 0 }
        let gaps = present.gaps(in: 1...last)
        var missing: UInt64 = 0
        for (gap, lost) in zip(gaps, LedgerCover.unexplained(gaps, ledger: sparse)) where lost > 0 {
            missing.addSaturated(lost)
            Self.add(gap, lost: lost, source, to: &report)
        }
        if missing > 0 { explain(missing, epoch, last: last, source, &report) }
        return missing
    }

    /// - Returns: how many were not there.
    private static func add(_ sequences: IntervalSet, to present: inout IntervalSet) -> UInt64 {
        var new: UInt64 = 0
        for range in sequences.ranges {
            new.addSaturated(((try? present.insert(range)) ?? []).map(count).saturatedSum())
        }
        return new
    }

    /// A line that counts as many messages as it spans says which they were.
    ///
    /// - Returns: the others.
    private func ledger(
        of epoch: EpochState, addedTo present: inout IntervalSet, _ report: inout AuditReport,
        _ explained: inout Explained
    ) -> [LedgerCover.Line] {
        var sparse: [LedgerCover.Line] = []
        let toCome = epoch.linesToCome()
        for (line, messages) in epoch.ledger.map({ ($0, $0.messages) }) + toCome {
            explained.add(dropped: messages, of: line.device)
            if Self.count(line.sequences) == messages {
                _ = try? present.insert(line.sequences)
            } else {
                sparse.append(.init(sequences: line.sequences, messages: messages))
            }
        }
        for (line, messages) in toCome where line.isInLog { report.dropsInLog.addSaturated(messages) }
        return sparse
    }

    private func explain(
        _ missing: UInt64, _ epoch: EpochState, last: UInt64, _ source: Source, _ report: inout AuditReport
    ) {
        report.problems.append("\(Self.name(source)): \(missing) sequences are nowhere")
        if !accounted.contains(source.gateway) {
            report.problems.append(
                "gateway \(source.gateway): its accounting was not given, so what is in its buffer counts as lost")
        } else if epoch.isAccounted, last > epoch.lastSequence {
            report.problems.append(
                "\(Self.name(source)): its accounting ends at \(epoch.lastSequence), the cloud knows of \(last): the "
                    + "accounting is an old one, or the buffer was put back to an earlier state")
        }
    }

    private static func add(
        _ range: ClosedRange<UInt64>, lost: UInt64, _ source: Source, to report: inout AuditReport
    ) {
        guard report.gaps.count < maximumGaps else { return }
        report.gaps.append(
            AuditReport.Gap(
                gateway: source.gateway, epoch: source.epoch.hexadecimalText, first: range.lowerBound,
                last: range.upperBound, lost: lost))
    }

    private static func name(_ source: Source) -> String {
        "gateway \(source.gateway), epoch \(source.epoch.hexadecimalText)"
    }

    private static func count(_ range: ClosedRange<UInt64>) -> UInt64 { range.upperBound - range.lowerBound + 1 }
}
