import MQTTSession
import MQTTWire
import NIOCore
import Testing

/// Retained messages and the RETAIN flag (3.1.1 and 5.0, 3.3.1.3).
@Suite struct RetainedTests {
    private func flags(_ seen: [Seen]) -> [String] {
        seen.compactMap {
            if case .deliver(_, _, let payload, _, _, let retain, _, _) = $0 { "\(payload) \(retain)" } else { nil }
        }
    }

    /// MQTT-3.1.2-7 (3.1.1)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func aRetainedMessageOutlivesItsSession(version: ProtocolVersion) {
        let h = Harness()
        h.open(0, "p", version)
        h.publish(0, "a", "kept", retain: true)
        h.receive(0, .disconnect(Disconnect()))
        _ = h.settle()
        #expect(h.broker.sessions.isEmpty)
        h.open(1, "s", version, device: "d2")
        h.subscribe(1, "a")
        #expect(flags(h.settle()) == ["kept true"])
    }

    /// MQTT-3.3.1-8, MQTT-3.3.1-9 (3.1.1); MQTT-3.3.1-12, MQTT-3.3.1-13 (5.0)
    @Test(arguments: [ProtocolVersion.v311, .v5])
    func theFlagIsForNewSubscriptions(version: ProtocolVersion) {
        let h = Harness()
        h.open(0, "p", version)
        h.open(1, "s", version, device: "d2")
        h.publish(0, "a", "old", retain: true)
        _ = h.settle()
        h.subscribe(1, "a")
        #expect(flags(h.settle()) == ["old true"])
        h.publish(0, "a", "new", retain: true)
        h.publish(0, "a", "plain")
        #expect(flags(h.settle()) == ["new false", "plain false"])
        guard version == .v5 else { return }
        h.subscribe(1, "a", retainAsPublished: true, handling: .doNotSend)
        h.publish(0, "a", "new", retain: true)
        h.publish(0, "a", "plain")
        #expect(flags(h.settle()) == ["new true", "plain false"])
    }

    /// MQTT-3.3.1-10 and -11 (3.1.1), MQTT-3.3.1-6 and -7 (5.0)
    @Test(arguments: [ProtocolVersion.v311, .v5], [QoS.atMostOnce, .atLeastOnce, .exactlyOnce])
    func anEmptyPayloadIsDeliveredAndRemovesWhatWasKept(version: ProtocolVersion, qos: QoS) {
        let h = Harness()
        h.open(0, "p", version)
        h.open(1, "s", version, device: "d2")
        h.subscribe(1, "a")
        h.publish(0, "a", "kept", retain: true)
        _ = h.settle()
        h.publish(0, "a", "", qos: qos, id: qos == .atMostOnce ? 0 : 1, retain: true)
        #expect(h.settle().contains(delivered(1, "a", "")))
        #expect(h.store.retained.isEmpty && h.broker.retainedCount == 0)
        h.open(2, "late", version, device: "d3")
        h.subscribe(2, "a")
        #expect(flags(h.settle()) == [])
    }

    /// MQTT-3.3.1-12 (3.1.1), MQTT-3.3.1-8 (5.0)
    @Test(arguments: ["x", ""]) func withoutTheFlagNothingIsKeptReplacedOrRemoved(payload: String) {
        let h = Harness()
        h.open(0, "p")
        h.publish(0, "a", "kept", retain: true)
        h.publish(0, "a", payload)
        h.publish(0, "b", payload)
        _ = h.settle()
        h.open(1, "s", device: "d2")
        h.subscribe(1, "+")
        #expect(flags(h.settle()) == ["kept true"])
    }

    /// MQTT-3.3.1-5 and -7 (3.1.1), MQTT-3.3.1-5 (5.0): with its QoS, and whatever QoS the one before it had.
    @Test(arguments: [QoS.atMostOnce, .atLeastOnce, .exactlyOnce], [QoS.atMostOnce, .atLeastOnce, .exactlyOnce])
    func theLastOneReplacesTheOneBefore(first: QoS, second: QoS) {
        let h = Harness()
        h.open(0, "p")
        h.publish(0, "a", "first", qos: first, id: first == .atMostOnce ? 0 : 1, retain: true)
        h.publish(0, "a", "second", qos: second, id: second == .atMostOnce ? 0 : 2, retain: true)
        _ = h.settle()
        h.open(1, "s", device: "d2")
        h.subscribe(1, "a", qos: .exactlyOnce)
        #expect(
            h.settle().dropFirst() == [
                delivered(1, "a", "second", qos: second, id: second == .atMostOnce ? 0 : 1, retain: true)
            ])
    }
}
