import Operations

/// A whole UTC day that is archived at a time, counted from 1970.
package struct ArchiveDay: Hashable, Sendable, Comparable, CustomStringConvertible {
    package static let seconds: Int64 = 86_400

    package var number: Int32

    package init(number: Int32) { self.number = number }

    /// The day in which a time lies.
    package init(secondsSince1970 seconds: Int64) {
        let day = seconds >= 0 ? seconds / Self.seconds : (seconds - Self.seconds + 1) / Self.seconds
        number = Int32(clamping: day)
    }

    /// `2026-11-27`; `nil` where it is no day of the calendar.
    package init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.map(\.utf8.count) == [4, 2, 2], parts.allSatisfy({ $0.utf8.allSatisfy { (48...57).contains($0) } }),
            let year = Int(parts[0]), let month = Int(parts[1]), let day = Int(parts[2]), (1...12).contains(month),
            (1...31).contains(day)
        else { return nil }
        let time = CivilTime(year: year, month: month, day: day, hour: 0, minute: 0, second: 0)
        self.init(secondsSince1970: time.secondsSince1970)
        guard description == text else { return nil }
    }

    /// Seconds since 1970.
    package var start: Int64 { Int64(number) * Self.seconds }
    package var end: Int64 { start + Self.seconds }
    package var next: ArchiveDay { ArchiveDay(number: number + 1) }

    package var description: String { String(RFC3339.text(secondsSince1970: start).prefix { $0 != "T" }) }

    package static func < (one: ArchiveDay, other: ArchiveDay) -> Bool { one.number < other.number }
}
