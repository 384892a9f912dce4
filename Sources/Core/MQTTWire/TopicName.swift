import NIOCore

/// Why a topic name or filter is refused.
package enum TopicFlaw: Error, Equatable, Sendable {
    case empty
    case notUTF8
    case containsNull
    /// A wildcard in a topic name, or one that is no whole level, or `#` before the last level.
    case wildcardMisplaced
    case tooManyLevels(maximum: Int)
    /// `$share/` without a group, with a wildcard in it, or without a filter behind it (4.8.2).
    case shareInvalid
}

extension TopicFlaw: CustomStringConvertible {
    package var description: String {
        switch self {
        case .empty: "it is empty"
        case .notUTF8: "it is not valid UTF-8"
        case .containsNull: "it contains U+0000"
        case .wildcardMisplaced: "a wildcard stands where none may stand"
        case .tooManyLevels(let maximum): "it has more than \(maximum) levels"
        case .shareInvalid: "it is no $share/group/filter"
        }
    }
}

/// The levels of a topic name or filter, as ranges of its bytes. "a//b" has three, "" has one.
package struct TopicLevels<Bytes: RandomAccessCollection>: Sequence, IteratorProtocol where Bytes.Element == UInt8 {
    private let bytes: Bytes
    private var start: Bytes.Index?

    package init(_ bytes: Bytes) {
        self.bytes = bytes
        start = bytes.startIndex
    }

    package mutating func next() -> Range<Bytes.Index>? {
        guard let from = start else { return nil }
        let end = bytes[from...].firstIndex(of: UInt8(ascii: "/"))
        start = end.map(bytes.index(after:))
        return from..<(end ?? bytes.endIndex)
    }
}

/// Judges topics that messages are published to (MQTT 5.0, 4.7).
package enum TopicName {
    /// `nil` if it is fit to be published to. `maximumLevels` bounds the work of every later match.
    package static func flaw(in topic: ByteBuffer, maximumLevels: Int) -> TopicFlaw? {
        topic.withUnsafeReadableBytes { bytes in
            if bytes.isEmpty { return .empty }
            switch UTF8Check.topicNameFlaw(in: bytes) {
            case .none: break
            case .wildcard: return .wildcardMisplaced
            case .containsNull: return .containsNull
            default: return .notUTF8
            }
            return levelCount(bytes) <= maximumLevels ? nil : .tooManyLevels(maximum: maximumLevels)
        }
    }

    /// One more than the separators.
    static func levelCount(_ bytes: UnsafeRawBufferPointer) -> Int {
        var count = 1
        for byte in bytes where byte == UInt8(ascii: "/") { count += 1 }
        return count
    }
}
