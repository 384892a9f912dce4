import NIOCore

/// Text compared and hashed by its bytes. MQTT knows no Unicode normalisation, so two canonically equivalent topics are
/// two topics, while `String` holds them for equal.
struct BytewiseString: Hashable, Sendable {
    let string: String

    init(_ string: String) {
        self.string = string
    }

    /// Of UTF-8 that the decoder has checked.
    init(_ bytes: some Collection<UInt8>) {
        self.string = String(decoding: bytes, as: UTF8.self)
    }

    static func == (a: BytewiseString, b: BytewiseString) -> Bool { a.string.utf8.elementsEqual(b.string.utf8) }

    func hash(into hasher: inout Hasher) { hasher.combineBytes(of: string) }
}

extension Hasher {
    /// With the length, so that neighbouring texts do not flow into each other.
    mutating func combineBytes(of string: String) {
        combine(string.utf8.count)
        for byte in string.utf8 { combine(byte) }
    }
}

/// Topic names in their levels.
enum TopicPath {
    static func levels(of topic: ByteBuffer) -> [BytewiseString] {
        topic.readableBytesView.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
            .map { BytewiseString($0) }
    }

    /// The first level of the server's own topics.
    static let system = BytewiseString("$SYS")

    /// MQTT-4.7.2-1: a leading wildcard does not match such a topic.
    static func isReserved(_ level: BytewiseString) -> Bool { level.string.utf8.first == UInt8(ascii: "$") }
}

/// A topic filter as the broker compares it with others: in its levels, without `$share/NAME/`.
struct FilterPattern: Sendable, Equatable {
    enum Level: Sendable, Equatable {
        case literal(BytewiseString)
        case plus
        case hash
    }

    let levels: [Level]

    /// `nil`: a wildcard inside a level, `#` before the end, NUL, empty, or deeper than allowed (4.7.1).
    init?(_ filter: some StringProtocol, maximumLevels: Int = .max) {
        guard !filter.isEmpty, !filter.utf8.contains(0) else { return nil }
        let parts = filter.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        guard parts.count <= maximumLevels else { return nil }
        var levels: [Level] = []
        levels.reserveCapacity(parts.count)
        for (index, part) in parts.enumerated() {
            if part.elementsEqual("+".utf8) {
                levels.append(.plus)
            } else if part.elementsEqual("#".utf8) {
                guard index == parts.count - 1 else { return nil }
                levels.append(.hash)
            } else {
                guard !part.contains(where: { $0 == UInt8(ascii: "+") || $0 == UInt8(ascii: "#") }) else { return nil }
                levels.append(.literal(BytewiseString(part)))
            }
        }
        self.levels = levels
    }

    /// It matches topics of the server's own, and no others.
    var isSystem: Bool { levels[0] == .literal(TopicPath.system) }

    var isExact: Bool {
        levels.allSatisfy {
            if case .literal = $0 { true } else { false }
        }
    }

    func matches(_ topic: [BytewiseString]) -> Bool {
        var index = 0
        for level in levels {
            switch level {
            case .hash:
                return !(index == 0 && TopicPath.isReserved(topic[0]))
            case .plus:
                guard index < topic.count, !(index == 0 && TopicPath.isReserved(topic[0])) else { return false }
            case .literal(let literal):
                guard index < topic.count, literal == topic[index] else { return false }
            }
            index += 1
        }
        return index == topic.count
    }

    /// Every topic that `other` matches is matched by this filter.
    func covers(_ other: FilterPattern) -> Bool {
        let mine = Self.grounded(levels)
        let others = Self.grounded(other.levels)
        var index = 0
        while true {
            if index < mine.count, mine[index] == .hash { return true }
            guard index < others.count else { return index == mine.count }
            // What `other` lets end here or go on without limit, a filter of single levels cannot hold.
            guard index < mine.count, others[index] != .hash else { return false }
            switch (mine[index], others[index]) {
            case (.plus, .literal(let literal)):
                if index == 0, TopicPath.isReserved(literal) { return false }
            case (.plus, _): break
            case (let own, let foreign):
                if own != foreign { return false }
            }
            index += 1
        }
    }

    /// Some topic is matched by both.
    func overlaps(_ other: FilterPattern) -> Bool {
        let mine = Self.grounded(levels)
        let others = Self.grounded(other.levels)
        var index = 0
        while true {
            if index < mine.count, mine[index] == .hash { return true }
            if index < others.count, others[index] == .hash { return true }
            guard index < mine.count, index < others.count else { return mine.count == others.count }
            switch (mine[index], others[index]) {
            case (.plus, .literal(let literal)), (.literal(let literal), .plus):
                if index == 0, TopicPath.isReserved(literal) { return false }
            case (.literal(let a), .literal(let b)):
                if a != b { return false }
            default: break
            }
            index += 1
        }
    }

    /// `#` alone is `+/#` and `/#` is `/+/#`, for a topic has at least one level and at least one byte. So in what follows
    /// `#` is "any number of levels, none included".
    private static func grounded(_ levels: [Level]) -> [Level] {
        if levels == [.hash] { return [.plus, .hash] }
        if levels == [.literal(BytewiseString("")), .hash] { return [levels[0], .plus, .hash] }
        return levels
    }
}

/// `$share/NAME/FILTER` in its parts (MQTT 5.0, 4.8.2).
struct SubscriptionFilter: Sendable {
    let share: BytewiseString?
    let filter: FilterPattern

    init?(_ text: String, maximumLevels: Int) {
        let prefix = "$share/"
        guard text.utf8.starts(with: prefix.utf8) else {
            guard let filter = FilterPattern(text, maximumLevels: maximumLevels) else { return nil }
            self.share = nil
            self.filter = filter
            return
        }
        let rest = text.utf8.dropFirst(prefix.utf8.count)
        guard let slash = rest.firstIndex(of: UInt8(ascii: "/")), slash > rest.startIndex else { return nil }
        let name = rest[..<slash]
        guard !name.contains(where: { $0 == UInt8(ascii: "+") || $0 == UInt8(ascii: "#") }),
            let filter = FilterPattern(
                String(decoding: rest[rest.index(after: slash)...], as: UTF8.self), maximumLevels: maximumLevels)
        else { return nil }
        self.share = BytewiseString(name)
        self.filter = filter
    }
}
