import MQTTWire
import NIOCore
import Testing

@testable import MQTTSession

/// Aliases from the server to the client (MQTT 5.0, 3.3.2.3.4).
@Suite struct TopicAliasTests {
    /// Topic, and how it was named, of each delivery.
    private func namings(_ h: Harness) -> [String] {
        defer { h.output.actions.removeAll() }
        return h.output.actions.compactMap {
            guard case .deliver(_, let delivery) = $0 else { return nil }
            return "\(String(buffer: delivery.message.topic)) \(delivery.topic)"
        }
    }

    private func subscriber(
        maximum: UInt16, maximumPacketSize: UInt32? = nil, filter: String = "#", qos: QoS = .atMostOnce,
        expiry: UInt32 = 0, in h: Harness
    ) {
        h.connect(
            1,
            Connect(
                version: .v5, clientID: "s", cleanStart: false, sessionExpiryInterval: expiry,
                maximumPacketSize: maximumPacketSize, topicAliasMaximum: maximum), device: "d2")
        _ = h.settle()
        h.subscribe(1, filter, qos: qos)
        _ = h.settle()
    }

    @Test func theFirstTopicsGetAnAliasAndKeepIt() {
        let h = Harness()
        h.open(0, "p")
        subscriber(maximum: 2, in: h)
        for topic in ["a", "b", "a", "c", "b", "c"] { h.publish(0, topic) }
        #expect(
            namings(h) == [
                "a nameWithAlias(1)", "b nameWithAlias(2)", "a alias(1)", "c name", "b alias(2)", "c name",
            ])
    }

    @Test func noneToAClientThatTakesNone() {
        let h = Harness()
        h.open(0, "p")
        subscriber(maximum: 0, in: h)
        for topic in ["a", "a"] { h.publish(0, topic) }
        #expect(namings(h) == ["a name", "a name"])
    }

    @Test func noMoreThanTheConfigurationAllows() {
        let h = Harness { $0.topicAliasMaximum = 1 }
        h.open(0, "p")
        subscriber(maximum: 65_535, in: h)
        for topic in ["a", "b", "b", "a"] { h.publish(0, topic) }
        #expect(namings(h) == ["a nameWithAlias(1)", "b name", "b name", "a alias(1)"])
    }

    @Test func theyEndWithTheConnection() {
        let h = Harness()
        h.open(0, "p")
        subscriber(maximum: 9, filter: "q", qos: .atLeastOnce, expiry: 100, in: h)
        h.publish(0, "q", "1", qos: .atLeastOnce, id: 1)
        h.commit()
        #expect(namings(h) == ["q nameWithAlias(1)"])
        h.close(1)
        _ = h.settle()
        h.connect(
            1,
            Connect(version: .v5, clientID: "s", cleanStart: false, sessionExpiryInterval: 100, topicAliasMaximum: 9),
            device: "d2")
        h.commit()
        // What was not acknowledged comes again, and the new connection knows no alias.
        #expect(namings(h) == ["q nameWithAlias(1)"])
    }

    /// A QoS 2 message whose packet id waits for its commit is named when it is sent, not before.
    @Test func aMessageThatWaitsIsNamedWhenItIsSent() {
        let h = Harness()
        h.open(0, "p")
        subscriber(maximum: 9, filter: "q", qos: .exactlyOnce, expiry: 100, in: h)
        h.close(1)
        h.publish(0, "q", "1", qos: .exactlyOnce, id: 1)
        _ = h.settle()
        h.connect(
            1,
            Connect(version: .v5, clientID: "s", cleanStart: false, sessionExpiryInterval: 100, topicAliasMaximum: 9),
            device: "d2")
        h.commit()
        h.publish(0, "q", "2")
        #expect(namings(h) == ["q nameWithAlias(1)"])
        h.commit()
        #expect(namings(h) == ["q alias(1)"])
    }

    @Test func anAliasThatDoesNotFitIsLeftOut() {
        let h = Harness()
        h.open(0, "p")
        // 14 bytes: fixed header 2, topic 2 + 8, no properties 1, payload 1. An alias takes 3 more.
        subscriber(maximum: 9, maximumPacketSize: 14, in: h)
        h.publish(0, "abcdefgh", "1")
        #expect(namings(h) == ["abcdefgh name"])
        // Too large by its name, within the size by its alias.
        h.publish(0, "abcde", "1")
        h.publish(0, "abcde", "123456")
        h.publish(0, "abcde", "1234567")
        #expect(namings(h) == ["abcde nameWithAlias(1)", "abcde alias(1)"])
        #expect(h.broker.counters.dropped[.tooLarge] == 1)
    }
}
