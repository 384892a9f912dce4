import Flow
import MQTTWire
import NIOCore
import Testing

struct TopicTests {
    @Test(arguments: [
        ("a/b", "a/b", true), ("a/b", "a/c", false), ("a/b", "a", false), ("a", "a/b", false),
        ("a/+", "a/b", true), ("a/+", "a/", true), ("a/+", "a", false), ("a/+", "a/b/c", false),
        ("a/#", "a", true), ("a/#", "a/", true), ("a/#", "a/b/c", true), ("a/#", "ab", false), ("a/#", "b", false),
        ("#", "a/b", true), ("#", "/", true), ("+", "a", true), ("+", "/a", false), ("+/+", "/a", true),
        ("/+", "/a", true), ("+/a/#", "x/a", true), ("+/a/#", "x/a/b", true), ("+/a/#", "x/b", false),
        ("a//b", "a//b", true), ("a/+/b", "a//b", true), ("a//b", "a/b", false), ("a/", "a/", true), ("a/", "a", false),
        ("a", "a/", false), ("/", "/", true), ("//", "/", false), ("+/+/+", "//", true), ("ab", "a", false),
        ("#", "$SYS/x", false), ("+/x", "$SYS/x", false), ("$SYS/#", "$SYS/x", true), ("$SYS/+", "$SYS/x", true),
        ("a/#", "a/$x", true), ("+/monitor/Clients", "$SYS/monitor/Clients", false), ("ä/+", "ä/ö", true),
    ])
    func matching(filter: String, topic: String, expected: Bool) throws {
        #expect(try TopicFilter(filter, maximumLevels: 16).matches(ByteBuffer(string: topic)) == expected)
    }

    @Test(arguments: [
        ("", TopicFlaw.empty), ("a\0", .containsNull), ("a+", .wildcardMisplaced), ("a/b#", .wildcardMisplaced),
        ("#/a", .wildcardMisplaced), ("#/", .wildcardMisplaced), ("a/+b/c", .wildcardMisplaced),
        ("a/##", .wildcardMisplaced), ("++", .wildcardMisplaced), ("a/b/c/d/e", .tooManyLevels(maximum: 4)),
        ("$share", .shareInvalid), ("$share/", .shareInvalid), ("$share/g", .shareInvalid),
        ("$share/g/", .shareInvalid),
        ("$share//a", .shareInvalid), ("$share/+/a", .shareInvalid), ("$share/g#/a", .shareInvalid),
        ("$share/g/a+", .wildcardMisplaced), ("$share/g/1/2/3/4/5", .tooManyLevels(maximum: 4)),
    ])
    func refusedFilters(filter: String, flaw: TopicFlaw) {
        #expect(throws: flaw) { try TopicFilter(filter, maximumLevels: 4) }
        #expect(!flaw.description.isEmpty)
    }

    @Test func sharedFilters() throws {
        let filter = try TopicFilter("$share/group/devices/+/data", maximumLevels: 3)
        #expect(filter.shareGroup == "group")
        #expect(filter.text == "$share/group/devices/+/data")
        #expect(filter.levels == [.name(Array("devices".utf8)), .single, .name(Array("data".utf8))])
        #expect(filter.matches(ByteBuffer(string: "devices/1/data")))
        #expect(filter.hasWildcard)
        let plain = try TopicFilter("$shared/a", maximumLevels: 3)
        #expect(plain.shareGroup == nil)
        #expect(!plain.hasWildcard)
        let combining = try TopicFilter("$share/\u{301}g/a", maximumLevels: 3)
        #expect(combining.shareGroup == "\u{301}g")
        #expect(combining.pattern == Array("a".utf8))
        #expect(try TopicFilter("$share/g//", maximumLevels: 2).pattern == Array("/".utf8))
        #expect(try TopicFilter("a/#", maximumLevels: 2).levels == [.name([97]), .multi])
    }

    @Test(
        arguments: [
            ("a", nil), ("/", nil), ("a/b/c/d", nil), ("", TopicFlaw.empty), ("a/#", .wildcardMisplaced),
            ("+", .wildcardMisplaced), ("a\0b", .containsNull), ("a/b/c/d/e", .tooManyLevels(maximum: 4)),
        ] as [(String, TopicFlaw?)])
    func names(topic: String, flaw: TopicFlaw?) {
        #expect(TopicName.flaw(in: ByteBuffer(string: topic), maximumLevels: 4) == flaw)
    }

    @Test func namesAreUTF8() {
        #expect(TopicName.flaw(in: ByteBuffer(bytes: [0xC0, 0x80]), maximumLevels: 4) == .notUTF8)
    }

    @Test(arguments: [
        ("#", "a/+/#", true), ("a/#", "a", true), ("a/#", "a/#", true), ("a/#", "#", false), ("a/+", "a/b", true),
        ("a/+", "a/+", true), ("a/+", "a/#", false), ("a/b", "a/+", false), ("+/b", "a/b", true),
        ("a/+", "a/b/c", false),
        ("a/b/c", "a/b", false), ("#", "$SYS/#", false), ("+/x", "$SYS/x", false), ("$SYS/#", "$SYS/+/x", true),
        ("a/#", "$share/g/a/b", true), ("a/+/#", "a", false),
    ])
    func covering(rule: String, filter: String, expected: Bool) throws {
        let rule = try TopicFilter(rule, maximumLevels: 16)
        #expect(rule.covers(try TopicFilter(filter, maximumLevels: 16)) == expected)
    }

    @Test(arguments: [("a", ["a"]), ("a//b", ["a", "", "b"]), ("/", ["", ""]), ("", [""])])
    func levels(topic: String, expected: [String]) {
        let bytes = Array(topic.utf8)
        #expect(TopicLevels(bytes).map { String(decoding: bytes[$0], as: UTF8.self) } == expected)
    }

    /// The byte-wise matcher against one that splits, and `covers` against the matcher.
    @Test func agreesWithASplittingMatcher() throws {
        var generator = SplitMix64(seed: 11)
        func text(_ parts: [String]) -> String {
            (0..<Int.random(in: 1...4, using: &generator)).map { _ in parts.randomElement(using: &generator)! }
                .joined(separator: "/")
        }
        var matched = 0
        for _ in 0..<20_000 {
            let topic = text(["a", "b", "", "$x"])
            guard !topic.isEmpty,
                let filter = try? TopicFilter(text(["a", "b", "", "$x", "+", "+", "#"]), maximumLevels: 4),
                let other = try? TopicFilter(text(["a", "b", "", "$x", "+", "#"]), maximumLevels: 4)
            else { continue }
            let expected = Self.slowMatch(filter.text, topic)
            let buffer = ByteBuffer(string: topic)
            #expect(filter.matches(buffer) == expected, "\(filter.text) and \(topic)")
            if expected { matched += 1 }
            if filter.covers(other), other.matches(buffer) {
                #expect(expected, "\(filter.text) covers \(other.text), and misses \(topic)")
            }
        }
        #expect(matched > 1_000)
    }

    private static func slowMatch(_ filter: String, _ topic: String) -> Bool {
        var filters = filter.split(separator: "/", omittingEmptySubsequences: false)
        var topics = topic.split(separator: "/", omittingEmptySubsequences: false)
        if topic.hasPrefix("$"), filters[0] == "+" || filters[0] == "#" { return false }
        if filters.last == "#" {
            filters.removeLast()
            guard topics.count >= filters.count else { return false }
            topics = Array(topics.prefix(filters.count))
        }
        return filters.count == topics.count && zip(filters, topics).allSatisfy { $0 == "+" || $0 == $1 }
    }
}
