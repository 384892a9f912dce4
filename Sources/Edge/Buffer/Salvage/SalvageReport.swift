/// What a salvage found and did; for the log and for health.
package struct SalvageReport: Sendable, Equatable {
    /// Why the file was not trusted.
    package var cause: String
    /// Where the damaged file is now.
    package var movedTo: String
    package var frames = 0
    package var messages = 0
    /// Messages that are missing; each is in a ledger line. Where the ledger or the progress could not be read, the cloud may
    /// have some of them.
    package var missing: UInt64 = 0
    package var ledgerLines = 0
    /// Rows of sessions, subscriptions, queues, retained messages and wills.
    package var stateRows = 0
    /// Pages, cells and rows of those tables that could not be read.
    package var unreadable = 0
    /// Up to where frames are answered could be read; where not, all are sent again and the cloud drops the repeats.
    package var isProgressKnown = true
    /// All lines that the cloud may not have could be read; where not, what was answered counts as missing unless it is found.
    package var isLedgerWhole = true

    /// For people: what, where, what to do.
    package var description: String {
        """
        the buffer was damaged (\(cause)); \(messages) messages in \(frames) frames and \(stateRows) rows of session \
        state were salvaged, \(missing) messages \(fate), \(unreadable) places could not be read; the \
        damaged file is kept as \(movedTo): remove it when it is of no use any more, and check the disk
        """
    }

    private var fate: String {
        isProgressKnown && isLedgerWhole
            ? "are lost and in the ledger"
            : "are missing and in the ledger (some of them may be in the cloud: what was answered could not be told)"
    }

    init(cause: String, movedTo: String) {
        self.cause = cause
        self.movedTo = movedTo
    }

    // MARK: Text, for the mark beside the file

    var text: String {
        """
        \(frames) \(messages) \(missing) \(ledgerLines) \(stateRows) \(unreadable) \(isProgressKnown ? 1 : 0) \
        \(isLedgerWhole ? 1 : 0)
        \(movedTo)
        \(cause)
        """
    }

    init?(text: some StringProtocol) {
        let lines = text.split(separator: "\n", maxSplits: 2, omittingEmptySubsequences: false)
        guard lines.count == 3 else { return nil }
        let numbers = lines[0].split(separator: " ").compactMap { UInt64($0) }
        // A mark that an earlier version has left ends before the ledger.
        guard 7...8 ~= numbers.count else { return nil }
        self.init(cause: String(lines[2]), movedTo: String(lines[1]))
        frames = Int(clamping: numbers[0])
        messages = Int(clamping: numbers[1])
        missing = numbers[2]
        ledgerLines = Int(clamping: numbers[3])
        stateRows = Int(clamping: numbers[4])
        unreadable = Int(clamping: numbers[5])
        isProgressKnown = numbers[6] == 1
        isLedgerWhole = numbers.count < 8 || numbers[7] == 1
    }
}
