/// Which whole UTC days of rows are hot. Days are counted from 1970.
package struct RetentionWindow: Sendable, Equatable {
    /// Days before today that are kept, at least 1.
    package var hotDays: Int32
    /// Days that a record may wait in the event log: its row may be as old as `hotDays` before the record.
    package var waitingDays: Int32 = 4

    package init(hotDays: Int32) { self.hotDays = max(1, hotDays) }

    /// The oldest day that is kept.
    package func oldest(today: Int32) -> Int32 { today - hotDays - waitingDays }

    /// Hourly roll-ups of days before this one are deleted. A month more than the rows at least, for days that come back
    /// with late rows.
    package func oldestRollup(today: Int32, rollupDays: Int32) -> Int32 {
        today - max(rollupDays, hotDays + waitingDays + 31)
    }
}
