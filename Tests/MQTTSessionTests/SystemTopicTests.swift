import MQTTWire
import NIOCore
import Testing

@testable import MQTTSession

/// `$SYS`: the server's own topics.
@Suite struct SystemTopicTests {
    private let h = Harness {
        $0.access = [
            AccessRule(verdict: .allow, action: .all, topic: "#"),
            AccessRule(verdict: .allow, action: .all, topic: "$SYS/#"),
        ]
        $0.uplinkFilters = ["#", "$SYS/#"]
    }

    private let connected = "$SYS/broker/clients/connected"

    @Test func aSubscriberGetsWhatIsKnownAndThenWhatChanges() {
        h.open(0, "watcher")
        h.advance(seconds: 1)
        _ = h.settle()
        h.subscribe(0, "$SYS/#", qos: .exactlyOnce)
        let known = h.settle()
        #expect(known.contains(delivered(0, connected, "1", retain: true)))
        #expect(known.contains(delivered(0, "$SYS/broker/version", "sluice-edge", retain: true)))
        h.open(1, "other", device: "d2")
        h.advance(seconds: 9.5)
        #expect(h.settle() == [])
        h.advance(seconds: 1)
        let changed = h.settle()
        #expect(changed.contains(delivered(0, connected, "2")))
        #expect(!changed.contains(delivered(0, "$SYS/broker/version", "sluice-edge")))
        // Nothing of it is stored or synced.
        #expect(h.store.synced == [])
        #expect(h.store.retained.isEmpty)
    }

    /// MQTT-4.7.2-1
    @Test func noLeadingWildcardMatchesThem() {
        h.open(0, "watcher")
        h.subscribe(0, "#")
        h.subscribe(0, "+/broker/#")
        _ = h.settle()
        h.advance(seconds: 1)
        #expect(h.settle() == [])
    }

    @Test func nobodyPublishesThere() {
        h.open(0, "c")
        h.publish(0, connected, "99", qos: .atLeastOnce, id: 1)
        #expect(h.settle() == [.send(0, .puback(Acknowledgement(packetID: 1, reason: .notAuthorized)))])
        h.publish(0, "$SYSTEM/x", qos: .atLeastOnce, id: 2)
        // Another topic that begins with `$` is the access rules' business.
        #expect(h.settle() == [.send(0, .puback(Acknowledgement(packetID: 2, reason: .notAuthorized)))])
        h.connect(1, Connect(version: .v5, clientID: "w", will: Will(topic: "$SYS/x", payload: ByteBuffer())))
        #expect(h.settle().first == .send(1, .connack(ConnAck(reason: .notAuthorized))))
    }

    @Test func theyCanBeTurnedOff() {
        let h = Harness {
            $0.systemTopicsInterval = nil
            $0.access = [AccessRule(verdict: .allow, action: .all, topic: "$SYS/#")]
        }
        h.open(0, "watcher")
        h.subscribe(0, "$SYS/#")
        _ = h.settle()
        h.advance(seconds: 20)
        #expect(h.settle() == [])
    }
}

/// Who of a shared subscription gets a message (MQTT 5.0, 4.8.2).
@Suite struct SharedSubscriptionTests {
    private func group(_ h: Harness, qos: QoS, windows: [UInt16], expiry: UInt32 = 0) {
        h.open(0, "p")
        for (index, window) in windows.enumerated() {
            let slot = UInt32(index + 1)
            h.open(slot, "s\(slot)", expiry: expiry, device: "d\(slot + 1)", receiveMaximum: window)
            h.subscribe(slot, "$share/g/t", qos: qos)
        }
        _ = h.settle()
    }

    private func receivers(_ h: Harness, _ count: Int, qos: QoS) -> [UInt32] {
        for index in 0..<count { h.publish(0, "t", qos: qos, id: qos == .atMostOnce ? 0 : UInt16(index + 1)) }
        return h.settle().compactMap { if case .deliver(let slot, _, _, _, _, _, _, _) = $0 { slot } else { nil } }
    }

    @Test func eachInTurn() {
        let h = Harness()
        group(h, qos: .atMostOnce, windows: [9, 9, 9])
        #expect(receivers(h, 6, qos: .atMostOnce) == [1, 2, 3, 1, 2, 3])
    }

    @Test func whoHasAFullWindowIsPassedOver() {
        let h = Harness()
        group(h, qos: .atLeastOnce, windows: [1, 9])
        #expect(receivers(h, 5, qos: .atLeastOnce) == [1, 2, 2, 2, 2])
    }

    @Test func whoDoesNotReadIsPassedOver() {
        let h = Harness()
        group(h, qos: .atMostOnce, windows: [9, 9])
        h.broker.writabilityChanged(h.id(1), isWritable: false, now: h.now, into: &h.output)
        #expect(receivers(h, 3, qos: .atMostOnce) == [2, 2, 2])
    }

    @Test func whoIsAwayIsPassedOver() {
        let h = Harness()
        group(h, qos: .atLeastOnce, windows: [9, 9], expiry: 100)
        h.close(1)
        _ = h.settle()
        #expect(receivers(h, 3, qos: .atLeastOnce) == [2, 2, 2])
    }

    @Test func whenAllAreAwayTheyTakeTurns() {
        let h = Harness()
        group(h, qos: .atLeastOnce, windows: [9, 9], expiry: 100)
        h.close(1)
        h.close(2)
        _ = h.settle()
        #expect(receivers(h, 4, qos: .atLeastOnce) == [])
        #expect(h.broker.sessions.filter { $0.connection == nil }.map(\.queuedMessages) == [2, 2])
    }

    @Test func aMessageIsDroppedOnlyWhenNobodyHasRoom() {
        let h = Harness { $0.queuedMessagesMaximum = 2 }
        group(h, qos: .atLeastOnce, windows: [1, 1])
        #expect(receivers(h, 4, qos: .atLeastOnce) == [1, 2])
        #expect(h.broker.counters.dropped[.queueFull] == 0)
        #expect(receivers(h, 1, qos: .atLeastOnce) == [])
        #expect(h.broker.counters.dropped[.queueFull] == 1)
    }
}
