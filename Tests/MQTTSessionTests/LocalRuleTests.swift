import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import MQTTSession

/// What the broker tells the buffer to do with messages, where there are rules of local work.
@Suite struct LocalRuleTests {
    private static func harness() -> Harness {
        Harness {
            $0.localRules = [
                .init(filter: "up/noise/#", discards: true), .init(filter: "up/+/t", discards: false),
                .init(filter: "up/#", discards: false),
            ]
        }
    }

    private func handlings(_ messages: [(topic: String, payload: String)]) -> [MessageHandling] {
        let h = Self.harness()
        _ = h.open(0, "c")
        return messages.map { message in
            h.output.group = CommitGroup()
            h.publish(0, message.topic, message.payload, qos: .atLeastOnce, id: 1)
            let drafts = h.output.group.frames.drafts
            #expect(drafts.count == 1 && drafts.first?.count == 1)
            #expect(h.output.group.effects.count == 1, "it is acknowledged after its commit like any other")
            return drafts.first?.handling ?? .direct
        }
    }

    @Test func theFirstRuleThatMatchesHolds() {
        let found = handlings([("up/noise/t", "x"), ("up/a/t", "1"), ("up/a", "{\"x\":1}"), ("up/noise", "2")])
        #expect(found == [.discarded(rule: 0), .held(rule: 1), .held(rule: 2), .discarded(rule: 0)])
    }

    @Test func whatCannotBeAggregatedGoesUpAsItIs() {
        let h = Self.harness()
        _ = h.open(0, "c")
        for payload in ["on", "{\"x\":\"y\"}", ""] { h.publish(0, "up/a/t", payload, qos: .atMostOnce) }
        #expect(h.output.group.frames.drafts.map(\.handling) == [.direct])
        #expect(h.broker.counters.unreadable == 3)
    }

    @Test func messagesOfOneGroupAreParted() {
        let h = Self.harness()
        _ = h.open(0, "c")
        for (topic, payload) in [("up/a/t", "1"), ("up/b", "2"), ("up/b", "text"), ("up/a/t", "3"), ("up/b", "4")] {
            h.publish(0, topic, payload, qos: .atMostOnce)
        }
        let drafts = h.output.group.frames.take()
        #expect(drafts.map(\.handling) == [.held(rule: 1), .held(rule: 2), .direct])
        #expect(drafts.map(\.count) == [2, 2, 1])
        #expect(h.output.group.frames.isEmpty)
    }

    @Test func withoutRulesAllIsDirect() {
        let h = Harness()
        _ = h.open(0, "c")
        h.publish(0, "up/a/t", "1", qos: .atMostOnce)
        #expect(h.output.group.frames.drafts.map(\.handling) == [.direct] && h.broker.counters.unreadable == 0)
    }
}
