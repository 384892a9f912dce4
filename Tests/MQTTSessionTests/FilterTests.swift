import MQTTWire
import NIOCore
import Testing

@testable import MQTTSession

@Suite struct FilterTests {
    /// Every text of one to three levels over the alphabet.
    private static func words(_ alphabet: [String], depth: Int = 3) -> [String] {
        var all: [String] = []
        var last = [""]
        for level in 0..<depth {
            last = last.flatMap { prefix in alphabet.map { level == 0 ? $0 : prefix + "/" + $0 } }
            all += last
        }
        return all.filter { !$0.isEmpty }
    }

    private static let topics = words(["a", "$b", "", "z"], depth: 4).map { ByteBuffer(string: $0) }
    private static let filters = words(["a", "$b", "+", "#", ""]).compactMap { FilterPattern($0) }

    @Test func coversAndOverlapsAgreeWithAllTopics() {
        // "z" stands for every name that no filter speaks of, four levels for every depth beyond a filter's.
        let levels = Self.topics.map { TopicPath.levels(of: $0) }
        let sets = Self.filters.map { filter in Set(levels.indices.filter { filter.matches(levels[$0]) }) }
        #expect(Self.filters.count > 60)
        for (i, a) in Self.filters.enumerated() {
            for (j, b) in Self.filters.enumerated() {
                if a.covers(b) != sets[j].isSubset(of: sets[i]) { Issue.record("\(a.levels) covers \(b.levels)") }
                if a.overlaps(b) == sets[j].isDisjoint(with: sets[i]) {
                    Issue.record("\(a.levels) overlaps \(b.levels)")
                }
            }
        }
    }

    @Test func theTreeFindsWhatTheFiltersMatch() {
        var tree = SubscriptionTree()
        let texts = Self.words(["a", "$b", "+", "#", ""]).filter { FilterPattern($0) != nil }
        let filters = texts.map { SubscriptionFilter($0, maximumLevels: 16)! }
        let subscriber = {
            Subscriber(session: $0, qos: .atMostOnce, noLocal: false, retainAsPublished: false, identifier: nil)
        }
        for (index, filter) in filters.enumerated() { tree.insert(filter, subscriber(index)) }
        #expect(tree.count == filters.count)
        var live = Set(filters.indices)
        for removed in [nil] + filters.indices.filter({ $0 % 3 == 0 }).map(Optional.some) {
            if let removed {
                tree.remove(filters[removed], session: removed)
                live.remove(removed)
                guard removed % 12 == 0 else { continue }
            }
            for topic in Self.topics {
                let levels = TopicPath.levels(of: topic)
                let found = tree.match(levels, publisher: nil).direct.map(\.session)
                let expected = live.filter { filters[$0].filter.matches(levels) }.sorted()
                if found != expected { Issue.record("\(String(buffer: topic)): \(found), not \(expected)") }
            }
        }
        for index in live { tree.remove(filters[index], session: index) }
        #expect(tree.count == 0)
        tree.remove(filters[0], session: 0)
        #expect(tree.match(TopicPath.levels(of: ByteBuffer(string: "a")), publisher: nil).isEmpty)
    }

    @Test func topicsAreBytes() {
        let composed = TopicPath.levels(of: ByteBuffer(string: "caf\u{E9}"))
        #expect(FilterPattern("caf\u{E9}")!.matches(composed))
        #expect(!FilterPattern("cafe\u{301}")!.matches(composed))
        #expect(!FilterPattern("cafe\u{301}")!.overlaps(FilterPattern("caf\u{E9}")!))
        #expect(SessionKey(deviceID: "d", clientID: "caf\u{E9}") != SessionKey(deviceID: "d", clientID: "cafe\u{301}"))
    }

    @Test func depthIsBounded() {
        #expect(FilterPattern("a/b/c", maximumLevels: 3) != nil)
        #expect(FilterPattern("a/b/c", maximumLevels: 2) == nil)
        #expect(FilterPattern("a\0") == nil)
    }

    @Test func theFirstRuleThatMatchesDecides() {
        let rules = [
            AccessRule(verdict: .deny, action: .subscribe, topic: "plant/secrets/#"),
            AccessRule(verdict: .allow, action: .all, topic: "devices/%d/#"),
            AccessRule(verdict: .deny, action: .publish, topic: "plant/+"),
            AccessRule(verdict: .allow, action: .all, topic: "plant/#"),
            AccessRule(verdict: .allow, action: .all, topic: "#", group: "local"),
            AccessRule(verdict: .allow, action: .all, topic: "bad/#/x"),
        ]
        let view = AccessView(rules, group: "x", deviceID: "d1")
        let mayPublish = { (topic: String) in view.mayPublish(TopicPath.levels(of: ByteBuffer(string: topic))) }
        let verdict = { (filter: String) in view.verdict(onSubscribing: FilterPattern(filter)!) }
        let mayReceive = { (topic: String) in view.mayReceive(TopicPath.levels(of: ByteBuffer(string: topic))) }
        #expect(mayPublish("devices/d1/a") && mayPublish("devices/d1") && !mayPublish("devices/d2/a"))
        #expect(mayPublish("plant/secrets/a") && !mayPublish("plant/a") && mayPublish("plant/a/b"))
        #expect(!mayPublish("other") && !mayPublish("bad/x"))
        #expect(["devices/d1/#", "devices/d1/+/x", "plant/a/#"].map(verdict) == [.allowed, .allowed, .allowed])
        #expect(["plant/#", "plant/+/a", "plant/+"].map(verdict) == [.guarded, .guarded, .guarded])
        #expect(
            ["plant/secrets/a", "devices/+/x", "#", "+/a"].map(verdict) == [.refused, .refused, .refused, .refused])
        #expect(mayReceive("plant/a") && !mayReceive("plant/secrets/a") && !mayReceive("other"))
        let local = AccessView(rules, group: "local", deviceID: "d1")
        #expect(["other", "#"].map { local.verdict(onSubscribing: FilterPattern($0)!) } == [.allowed, .guarded])
        #expect(rules.map(\.isValid) == [true, true, true, true, true, false])
    }

    @Test(arguments: [
        ("*", "", true), ("*", "abc", true), ("vib-*", "vib-7", true), ("vib-*", "vi", false), ("?", "\u{E9}", true),
        ("a?c", "abc", true), ("a?c", "ac", false), ("*-a-*", "x-b-a-c", true), ("*-a", "x-a-b", false), ("", "", true),
        ("", "a", false), ("a**b", "a-b", true),
    ])
    func globs(pattern: String, text: String, matches: Bool) {
        #expect(Glob.matches(pattern, text) == matches)
    }

    @Test func packetIDSets() {
        var set = PacketIDSet()
        let inserted = [set.insert(65_535), set.insert(65_535), set.insert(1)]
        #expect(inserted == [true, false, true])
        #expect(set.contains(65_535) && set.contains(1) && !set.contains(2) && set.count == 2)
        let removed = [set.remove(65_535), set.remove(65_535)]
        #expect(removed == [true, false] && set.count == 1)
    }

    @Test func packetIDsGoRoundAndAreNeverUsedTwice() {
        var queue = OutgoingQueue()
        let message = RoutedMessage(
            topic: ByteBuffer(string: "q"), payload: ByteBuffer(), applicationProperties: ByteBuffer(), expiresAt: nil)
        func add() -> UInt16 {
            let (order, id) = queue.reserve(message, window: 10)
            queue.admit(
                OutgoingEntry(
                    order: order, message: message, qos: .atLeastOnce, retain: false, identifiers: [], packetID: id))
            return id
        }
        let kept = add()
        for _ in 0..<70_000 {
            let id = add()
            #expect(id != kept && id != 0)
            queue.removeInflight(at: 1)
        }
        #expect(queue.count == 1 && queue.bytes == 1)
    }
}
