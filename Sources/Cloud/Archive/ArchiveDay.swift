/// A whole UTC day that is archived at a time, counted from 1970.
package struct ArchiveDay: Hashable, Sendable, Comparable {
    package var number: Int32

    package init(number: Int32) { self.number = number }

    package static func < (one: ArchiveDay, other: ArchiveDay) -> Bool { one.number < other.number }
}
