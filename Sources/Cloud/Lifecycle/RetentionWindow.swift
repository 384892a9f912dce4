/// Which whole UTC days of rows are hot. Days are counted from 1970.
package struct RetentionWindow: Sendable, Equatable {
    /// Days before today that are kept, at least 1.
    package var hotDays: Int32

    package init(hotDays: Int32) { self.hotDays = max(1, hotDays) }

    /// The oldest day that is kept.
    package func oldest(today: Int32) -> Int32 { today - hotDays }
}
