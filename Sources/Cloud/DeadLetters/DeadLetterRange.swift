/// Offsets of one partition that share an object: from a multiple of `length` up to the next one. Fixed, so that whoever
/// writes the object again, after a crash or beside another processor, writes the same one.
package struct DeadLetterRange: Hashable, Sendable {
    /// Records.
    package static let length: Int64 = 1_024

    package var partition: Int32
    /// Its first offset, a multiple of `length`.
    package var start: Int64

    /// The one that the offset lies in.
    package init(partition: Int32, containing offset: Int64) {
        self.partition = partition
        start = offset - offset % Self.length
    }

    /// The first offset behind it.
    package var end: Int64 { start + Self.length }
}
