extension AuditTally {
    /// Compares what was collected.
    package func report() -> AuditReport {
        var report = AuditReport()
        report.problems = notes
        for (source, epoch) in epochs.sorted(by: { ($0.key.gateway, $0.key.epoch) < ($1.key.gateway, $1.key.epoch) }) {
            compare(epoch, source, &report)
        }
        for (reason, count) in dropped { report.dropped["\(reason)"] = count }
        compareJournals(&report)
        if report.duplicated > 0 { report.conclusive = true }
        report.sound = report.lost == 0 && report.duplicated == 0 && report.problems.isEmpty
        report.closed = report.sound && report.buffered == 0 && report.inLog == 0
        return report
    }

    private func compare(_ epoch: EpochState, _ source: Source, _ report: inout AuditReport) {
        let stored = epoch.stored()
        report.stored += stored.messages
        report.retired += epoch.retired.count
        report.rows += epoch.rowCount
        report.deadLettered += epoch.deadLettered
        report.archived += epoch.archived.count
        report.duplicated += stored.doubled
        if stored.doubled > 0 {
            report.problems.append("\(Self.name(source)): \(stored.doubled) messages have a row twice")
        }
        let ended = missingByDeduplication(stored, epoch, source, &report)
        if ended > 0 || stored.doubled > 0 || !stored.incomplete.isEmpty { report.conclusive = true }
        let absent = missingBySequence(stored, epoch, source, &report)
        // Both see the same losses: the sequences where they are, deduplication also where no account says how many
        // there were. Messages that lack only some rows are seen by neither.
        report.lost += max(ended, absent)
        for range in stored.incomplete {
            report.lost += Self.count(range)
            Self.add(range, lost: Self.count(range), source, to: &report)
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
        let present = stored.messages + epoch.appliedLedger
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
        _ stored: EpochState.Stored, _ epoch: EpochState, _ source: Source, _ report: inout AuditReport
    ) -> UInt64 {
        var present = IntervalSet(maximumRanges: .max)
        // Inserting cannot throw: there is no bound on the ranges, and sequences fit (they were checked when read).
        for range in stored.sequences { _ = try? present.insert(range) }
        for range in epoch.inLog.ranges {
            report.inLog += present.gaps(in: range).reduce(0) { $0 + Self.count($1) }
            _ = try? present.insert(range)
        }
        for range in epoch.buffered.ranges {
            report.buffered += present.gaps(in: range).reduce(0) { $0 + Self.count($1) }
            _ = try? present.insert(range)
        }
        for range in epoch.inDeadLetters.ranges {
            let waiting = present.gaps(in: range).reduce(0) { $0 + Self.count($1) }
            report.deadLettersWaiting += waiting
            report.deadLettered += waiting
            _ = try? present.insert(range)
        }
        // A line that counts as many messages as it spans says which they were.
        var sparse: [Ledger] = []
        for line in epoch.ledger {
            if Self.count(line.sequences) == line.messages {
                _ = try? present.insert(line.sequences)
            } else {
                sparse.append(line)
            }
        }
        // What came after an accounting may be anywhere: it is judged by the next audit.
        let last =
            epoch.isAccounted ? epoch.lastSequence : max(epoch.lastSequence, present.ranges.last?.upperBound ?? 0)
        report.acknowledged += last
        guard last > 0 else { return 0 }
        let gaps = present.gaps(in: 1...last)
        var missing: UInt64 = 0
        for (gap, lost) in zip(gaps, LedgerCover.unexplained(gaps, ledger: sparse)) where lost > 0 {
            missing += lost
            Self.add(gap, lost: lost, source, to: &report)
        }
        if missing > 0 {
            report.problems.append("\(Self.name(source)): \(missing) sequences are nowhere")
            if !accounted.contains(source.gateway) {
                report.problems.append(
                    "gateway \(source.gateway): its accounting was not given, so what is in its buffer counts as lost")
            }
        }
        return missing
    }

    private func compareJournals(_ report: inout AuditReport) {
        guard hasJournal else { return }
        var totals = AuditJournal.Totals()
        for journal in devices.values { totals += journal.totals() }
        report.published = totals.published
        report.acknowledged = totals.acknowledged
        report.redelivered = totals.redelivered
        report.duplicated += totals.duplicated
        if totals.duplicated > 0 {
            report.problems.append("\(totals.duplicated) messages are stored twice, and the journals show no resend")
        }
        if totals.unpublished > 0 {
            report.problems.append("\(totals.unpublished) stored messages are in no journal")
        }
        // The buffer, the log, the ledger, refused messages and those whose time is over tell sequences, not n: so many may be there.
        let elsewhere =
            report.buffered + report.inLog + report.deadLettered + report.retired + dropped.values.reduce(0, +)
        guard totals.missing > elsewhere else { return }
        report.problems.append("\(totals.missing - elsewhere) acknowledged messages of the journals are nowhere")
        // A message lost after its commit is missing by its sequence as well; it is one loss.
        report.lost = max(report.lost, totals.missing - elsewhere)
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
