extension AuditTally {
    /// Where messages are that have no row with their `n`: by device where that is known, so that what became of one device's
    /// messages excuses no other's.
    struct Explained {
        /// Dropped, refused, in the log or in a dead letter.
        private(set) var byDevice: [String: UInt64] = [:]
        /// Of these, lines in the tables.
        private(set) var droppedOf: [String: UInt64] = [:]
        /// Dropped, and a salvage did not know whose.
        private(set) var unknown: UInt64 = 0
        /// Some of their rows were dropped at the end of their time.
        var withoutName: UInt64 = 0
        /// Messages that a gateway says it has had.
        var claims: [String: UInt64] = [:]

        mutating func add(dropped messages: UInt64, of device: String) {
            if device == LedgerLine.unknownDevice {
                unknown.addSaturated(messages)
            } else {
                byDevice[device, default: 0].addSaturated(messages)
            }
        }

        mutating func add(_ epoch: EpochState, stored: IntervalSet) {
            for line in epoch.ledger { droppedOf[line.device, default: 0].addSaturated(line.messages) }
            for (device, sequences) in epoch.waiting {
                for range in sequences.ranges {
                    let waiting = stored.gaps(in: range).map { $0.upperBound - $0.lowerBound + 1 }.saturatedSum()
                    byDevice[device, default: 0].addSaturated(waiting)
                }
            }
        }
    }

    func compareJournals(_ report: inout AuditReport, _ explained: Explained) {
        guard hasJournal else { return }
        var totals = AuditJournal.Totals()
        var missing: UInt64 = 0
        var gone: UInt64 = 0
        for (device, journal) in devices {
            let own = journal.totals()
            totals += own
            let refused = refusedOf[device] ?? 0
            let left = own.missing.subtractingSaturated((explained.byDevice[device] ?? 0).addingSaturated(refused))
            missing.addSaturated(left)
            // Deduplication has them as ended, and neither a row nor the ledger has them: so many at most may have left the
            // tables with their day.
            let ended = (endedOf[device] ?? 0).subtractingSaturated(explained.droppedOf[device] ?? 0)
            gone.addSaturated(min(left, ended.subtractingSaturated(journal.foundMessages.addingSaturated(refused))))
        }
        report.published = totals.published
        report.acknowledged = totals.acknowledged
        report.redelivered = totals.redelivered
        report.duplicated.addSaturated(totals.duplicated)
        if totals.duplicated > 0 {
            report.problems.append("\(totals.duplicated) messages are stored twice, and the journals show no resend")
        }
        if totals.unpublished > 0 {
            report.problems.append("\(totals.unpublished) stored messages are in no journal")
        }
        // These tell sequences, not n or the device: so many may be there.
        let dropped = report.retired.addingSaturated(report.archived).addingSaturated(explained.withoutName)
        missing = missing.subtractingSaturated(min(gone, dropped))
        missing = missing.subtractingSaturated(report.buffered.addingSaturated(explained.unknown))
        guard missing > 0 else { return }
        report.problems.append("\(missing) acknowledged messages of the journals are nowhere")
        // A message lost after its commit is missing by its sequence as well; it is one loss.
        report.lost = max(report.lost, missing)
    }
}
