import NIOCore

/// A checked topic filter, shared or not (MQTT 5.0, 4.7 and 4.8.2).
package struct TopicFilter: Hashable, Sendable {
    /// As the client wrote it, `$share/…` and all.
    package let text: String
    /// The group of a shared subscription.
    package let shareGroup: String?
    /// The filter that topics are held against, without `$share/group/`.
    package let pattern: [UInt8]

    package enum Level: Hashable, Sendable {
        case name([UInt8])
        /// `+`
        case single
        /// `#`, always the last.
        case multi
    }

    private static let sharePrefix = "$share/"

    /// By bytes: `hasPrefix` would miss a group that begins with a combining character, which joins the slash.
    static func isShared(_ text: String) -> Bool { text.utf8.starts(with: sharePrefix.utf8) }

    /// At most `maximumLevels` levels, those of `$share/group` not counted.
    package init(_ text: String, maximumLevels: Int) throws(TopicFlaw) {
        guard !text.isEmpty else { throw .empty }
        guard !text.utf8.contains(0) else { throw .containsNull }
        self.text = text
        if Self.isShared(text) || text.utf8.elementsEqual("$share".utf8) {
            let rest = text.utf8.dropFirst(Self.sharePrefix.utf8.count)
            guard let slash = rest.firstIndex(of: UInt8(ascii: "/")), slash > rest.startIndex else {
                throw .shareInvalid
            }
            let group = rest[..<slash]
            guard !group.contains(where: Self.isWildcard) else { throw .shareInvalid }
            shareGroup = String(Substring(group))
            pattern = Array(rest[rest.index(after: slash)...])
            guard !pattern.isEmpty else { throw .shareInvalid }
        } else {
            shareGroup = nil
            pattern = Array(text.utf8)
        }
        if let flaw = Self.flaw(in: pattern, maximumLevels: maximumLevels) { throw flaw }
    }

    package var levels: [Level] {
        TopicLevels(pattern).map { range in
            let level = pattern[range]
            if level.elementsEqual("+".utf8) { return .single }
            if level.elementsEqual("#".utf8) { return .multi }
            return .name(Array(level))
        }
    }

    package var hasWildcard: Bool { pattern.contains(where: Self.isWildcard) }

    /// Whether a message on `topic`, a valid topic name, belongs to the subscription.
    package func matches(_ topic: ByteBuffer) -> Bool {
        pattern.withUnsafeBytes { filter in
            topic.withUnsafeReadableBytes { Self.matches(filter: filter, topic: $0) }
        }
    }

    /// Whether every topic that `other` matches is matched by this one too: what an access rule must answer for a
    /// subscription.
    package func covers(_ other: TopicFilter) -> Bool {
        let mine = levels
        let theirs = other.levels
        if other.pattern.first == UInt8(ascii: "$"), mine[0] == .single || mine[0] == .multi { return false }
        for (position, level) in mine.enumerated() {
            if level == .multi { return true }
            guard position < theirs.count else { return false }
            if theirs[position] == .multi { return false }
            if level != .single, level != theirs[position] { return false }
        }
        return mine.count == theirs.count
    }

    private static func isWildcard(_ byte: UInt8) -> Bool { byte == UInt8(ascii: "+") || byte == UInt8(ascii: "#") }

    private static func flaw(in pattern: [UInt8], maximumLevels: Int) -> TopicFlaw? {
        var count = 0
        var multiSeen = false
        for range in TopicLevels(pattern) {
            count += 1
            guard count <= maximumLevels else { return .tooManyLevels(maximum: maximumLevels) }
            // Nothing may follow `#` (MQTT-4.7.1-1), and a wildcard fills its level (MQTT-4.7.1-2).
            guard !multiSeen else { return .wildcardMisplaced }
            let level = pattern[range]
            guard level.contains(where: isWildcard) else { continue }
            guard level.count == 1 else { return .wildcardMisplaced }
            multiSeen = level.first == UInt8(ascii: "#")
        }
        return nil
    }
}

extension TopicFilter {
    /// Holds a valid filter (without `$share/group/`) against a valid topic name, level by level, without allocating.
    /// Leading wildcards do not match topics that begin with `$` (MQTT-4.7.2-1).
    package static func matches(filter: UnsafeRawBufferPointer, topic: UnsafeRawBufferPointer) -> Bool {
        let slash = UInt8(ascii: "/")
        if let first = filter.first, isWildcard(first), topic.first == UInt8(ascii: "$") { return false }
        var f = 0
        var t = 0
        while true {
            // Both stand at the beginning of a level.
            if f < filter.count, filter[f] == UInt8(ascii: "#") { return true }
            if f < filter.count, filter[f] == UInt8(ascii: "+") {
                f += 1
                while t < topic.count, topic[t] != slash { t += 1 }
            } else {
                while f < filter.count, filter[f] != slash {
                    guard t < topic.count, topic[t] == filter[f] else { return false }
                    f += 1
                    t += 1
                }
                guard t == topic.count || topic[t] == slash else { return false }
            }
            if f == filter.count { return t == topic.count }
            if t == topic.count {
                // "a/#" matches its parent "a" too (4.7.1.2).
                return f + 2 == filter.count && filter[f + 1] == UInt8(ascii: "#")
            }
            f += 1
            t += 1
        }
    }
}
