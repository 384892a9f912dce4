/// Tells whether messages have all their rows, in one number, wherever the rows are and in which order they are read: each
/// row adds what is its own, and part 0 takes away what all parts of the message add. So it is 0 where every message has each
/// part once. Which message is not whole it does not tell.
///
/// The cold archive keeps these numbers: what a row adds must never change.
package struct RowBalance: Sendable, Equatable {
    package private(set) var value: UInt64 = 0

    package init() {}

    package mutating func add(sequence: UInt64, part: UInt16, parts: UInt16) {
        if parts == 1, part == 0 { return }
        value &+= Self.share(sequence, part)
        guard part == 0 else { return }
        for other in 0..<parts { value &-= Self.share(sequence, other) }
    }

    /// Of rows that somebody else has read.
    package mutating func add(_ other: UInt64) { value &+= other }

    /// A number of its own for each part (the last steps of SplitMix64), so that two losses do not make up for each other.
    private static func share(_ sequence: UInt64, _ part: UInt16) -> UInt64 {
        var bits = (sequence &+ UInt64(part) << 48) &* 0x9E37_79B9_7F4A_7C15
        bits = (bits ^ (bits >> 30)) &* 0xBF58_476D_1CE4_E5B9
        bits = (bits ^ (bits >> 27)) &* 0x94D0_49BB_1331_11EB
        return bits ^ (bits >> 31)
    }
}
