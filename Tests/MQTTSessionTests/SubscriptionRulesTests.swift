import MQTTSession
import MQTTWire
import NIOCore
import Testing

/// SUBSCRIBE and UNSUBSCRIBE of several filters, and of filters that are there already (3.8.4, 3.10.4).
@Suite struct SubscriptionRulesTests {
    private func deliveries(_ seen: [Seen]) -> [Seen] { seen.filter { if case .deliver = $0 { true } else { false } } }

    /// MQTT-3.8.4-4, MQTT-3.8.4-5, MQTT-3.9.3-1 (3.1.1); MQTT-3.8.4-5 to -7, MQTT-3.9.3-1 (5.0)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func severalFiltersGetOneAnswerInTheirOrder(version: ProtocolVersion)
    {
        let h = Harness { $0.access = [AccessRule(verdict: .allow, action: .all, topic: "a/#")] }
        h.open(0, "c", version)
        let filters: [(String, QoS)] = [
            ("a/1", .exactlyOnce), ("b", .atLeastOnce), ("a/2", .atMostOnce), ("a/#/b", .atMostOnce),
            ("a/3", .atLeastOnce),
        ]
        h.receive(
            0,
            .subscribe(
                Subscribe(packetID: 77, subscriptions: filters.map { Subscription(filter: $0.0, qos: $0.1) })))
        let failures: [ReasonCode] =
            version == .v5 ? [.notAuthorized, .topicFilterInvalid] : [.unspecifiedError, .unspecifiedError]
        #expect(
            h.settle() == [
                .send(
                    0,
                    .suback(
                        SubAck(
                            packetID: 77,
                            reasons: [.grantedQoS2, failures[0], .success, failures[1], .grantedQoS1])))
            ])
        for topic in ["a/1", "a/2", "a/3"] { h.publish(0, topic, qos: .exactlyOnce, id: UInt16(topic.utf8.last!)) }
        let granted: [QoS] = h.settle().compactMap {
            if case .deliver(_, _, _, let qos, _, _, _, _) = $0 { qos } else { nil }
        }
        #expect(granted == [.exactlyOnce, .atMostOnce, .atLeastOnce])
    }

    /// MQTT-3.8.4-3 (both), MQTT-3.8.4-4 (5.0), MQTT-3.3.1-10 (5.0)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func aFilterThatIsThereIsReplaced(version: ProtocolVersion) {
        let h = Harness()
        h.open(0, "p")
        h.open(1, "s", version, clean: false, expiry: version == .v5 ? 100 : .max, device: "d2")
        h.publish(0, "a", "kept", retain: true)
        h.subscribe(1, "a", qos: .atMostOnce, identifier: version == .v5 ? 1 : nil)
        _ = h.settle()
        // What was on its way when the subscription was replaced arrives.
        h.publish(0, "a", "between", qos: .atLeastOnce, id: 1)
        h.subscribe(1, "a", qos: .exactlyOnce, identifier: version == .v5 ? 2 : nil)
        let ids: [UInt32] = version == .v5 ? [2] : []
        let seen = deliveries(h.settle())
        #expect(
            seen == [
                delivered(1, "a", "between", ids: version == .v5 ? [1] : []),
                delivered(1, "a", "kept", retain: true, ids: ids),
            ])
        h.publish(0, "a", "after", qos: .exactlyOnce, id: 2)
        #expect(deliveries(h.settle()) == [delivered(1, "a", "after", qos: .exactlyOnce, id: 1, ids: ids)])
        #expect(h.broker.sessions.first { $0.clientID == "s" }?.subscriptions == 1)
        #expect(h.store.sessions.values.first?.subscriptions.count == 1)
    }

    /// MQTT-3.10.4-1, -4, -5 and -6 (both)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func unsubscribeComparesCharacters(version: ProtocolVersion) {
        let h = Harness()
        h.open(0, "c", version)
        let filters = ["a/+", "a/b", "caf\u{E9}", "#"]
        for filter in filters { h.subscribe(0, filter) }
        _ = h.settle()
        // None of these is one of them, though each matches or is matched, or looks the same.
        h.receive(0, .unsubscribe(Unsubscribe(packetID: 8, filters: ["a/#", "a/c", "cafe\u{301}", "A/b", "+"])))
        #expect(
            h.settle() == [
                .send(0, .unsuback(UnsubAck(packetID: 8, reasons: Array(repeating: .noSubscriptionExisted, count: 5))))
            ])
        #expect(h.broker.sessions.first?.subscriptions == 4)
        h.receive(0, .unsubscribe(Unsubscribe(packetID: 9, filters: ["#", "x", "a/+", "#"])))
        #expect(
            h.settle() == [
                .send(
                    0,
                    .unsuback(
                        UnsubAck(
                            packetID: 9, reasons: [.success, .noSubscriptionExisted, .success, .noSubscriptionExisted]))
                )
            ])
        h.publish(0, "a/b")
        h.publish(0, "a/c")
        #expect(deliveries(h.settle()) == [delivered(0, "a/b", "x")])
    }

    /// MQTT-3.8.3-3 (5.0): by the session, so on all of its filters that say so and on no other.
    @Test func noLocalIsForOnesOwnMessages() {
        let h = Harness()
        h.open(0, "c")
        h.open(1, "c", device: "d2")
        h.subscribe(0, "a", noLocal: true)
        h.subscribe(0, "b")
        _ = h.settle()
        for topic in ["a", "b"] {
            h.publish(0, topic, "own")
            h.publish(1, topic, "other")
        }
        #expect(
            deliveries(h.settle()) == [
                delivered(0, "a", "other"), delivered(0, "b", "own"), delivered(0, "b", "other"),
            ])
    }
}
