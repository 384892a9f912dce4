import MQTTSession
import MQTTWire
import NIOCore
import SyncModel
import Testing

/// What can one client make the gateway do with one packet, and what can it pass for?
@Suite struct FloodTests {
    @Test func oneSubscribeThatNamesAFilterAgainAndAgainGetsRetainedMessagesOnce() {
        let h = Harness()
        h.open(0, "c")
        for index in 0..<5 { h.publish(0, "devices/d1/\(index)", "x", retain: true) }
        _ = h.settle()
        let entries = Array(repeating: Subscription(filter: "devices/d1/#", qos: .atMostOnce), count: 15_000)
        h.receive(0, .subscribe(Subscribe(packetID: 1, subscriptions: entries)))
        let seen = h.settle()
        let deliveries = seen.filter { if case .deliver = $0 { true } else { false } }
        #expect(deliveries.count == 5)
        guard case .send(_, .suback(let answer))? = seen.first(where: { if case .send = $0 { true } else { false } })
        else {
            Issue.record("no SUBACK came")
            return
        }
        #expect(answer.reasons.count == 15_000)
        #expect(answer.reasons[99] == .success && answer.reasons[100] == .quotaExceeded)
    }

    @Test func retainedMessagesOfOneSubscribeAreBoundedInBytes() {
        let h = Harness { $0.retainedBytesPerSubscribe = 600 }
        h.open(0, "c")
        for index in 0..<5 { h.publish(0, "devices/d1/\(index)", String(repeating: "x", count: 300), retain: true) }
        _ = h.settle()
        h.subscribe(0, "devices/d1/#")
        let deliveries = h.settle().filter { if case .deliver = $0 { true } else { false } }
        #expect(deliveries.count == 2)
        #expect(h.broker.counters.dropped[.slowReader] == 1)
    }

    /// A hundred filters that each match all retained messages: the packet's work is bounded, whatever it gets.
    @Test func theWorkOfOneSubscribeIsBounded() {
        let h = Harness { $0.maximumTopicLevels = 16 }
        h.open(0, "c")
        for index in 0..<5_000 { h.publish(0, "devices/d1/x/\(index)", "x", retain: true) }
        _ = h.settle()
        let entries = (0..<100).map { index in
            Subscription(filter: String(repeating: "+/", count: index % 3) + "#", qos: .atMostOnce)
        }
        let started = ContinuousClock.now
        for _ in 0..<10 { h.receive(0, .subscribe(Subscribe(packetID: 1, subscriptions: entries))) }
        #expect(ContinuousClock.now - started < .seconds(10))
        let deliveries = h.settle().count { if case .deliver = $0 { true } else { false } }
        #expect(deliveries <= 10 * 4 * 1024 * 1024 / 256 + 10)
    }

    /// While the disk stalls, filters and wills count by their bytes, not by their number.
    @Test func filtersInTheOpenGroupCountInBytes() {
        let h = Harness {
            $0.openGroupBytesMaximum = 100_000
            $0.heldBytesMaximum = 200_000
            $0.subscriptionBytesPerSessionMaximum = 65_000
        }
        h.open(0, "c", clean: false, expiry: 600)
        var sent = 0
        while sent < 100, !h.drain().contains(.pause(0)) {
            h.subscribe(0, String(repeating: "a", count: 60_000))
            sent += 1
        }
        // One within the bound, four beyond it.
        #expect(sent == 5 && h.output.group.byteCount < 400_000)
        #expect(h.broker.connections[0].isPaused)
        _ = h.settle()
        #expect(h.output.group.byteCount == 0)
    }

    @Test func aPlaintextClientDoesNotGetACertifiedDevicesSessionAfterARestart() {
        let h = Harness()
        h.connect(0, Connect(version: .v5, clientID: "d1", keepAlive: 60, sessionExpiryInterval: 600), device: "d1")
        _ = h.settle()
        h.restart()
        h.connect(
            1, Connect(version: .v5, clientID: "d1", cleanStart: false, keepAlive: 60, sessionExpiryInterval: 600),
            device: nil, isLocal: true)
        #expect(h.settle().contains(.close(1, .clientIdentifierInvalid)))
    }

    @Test func noKeepAliveRunsWhileTheDriverReadsNothing() {
        let h = Harness()
        h.open(0, "c")
        for _ in 0..<20 {
            h.broker.inputIsHeld(now: h.now)
            h.advance(seconds: 10)
        }
        #expect(!h.settle().contains(.close(0, .keepAliveTimeout)))
        h.advance(seconds: 91)
        #expect(h.settle().contains(.close(0, .keepAliveTimeout)))
    }

    @Test func aPlaintextClientGetsItsOwnSessionAfterARestart() {
        let h = Harness()
        let connect = Connect(
            version: .v5, clientID: "tool", cleanStart: false, keepAlive: 60, sessionExpiryInterval: 600)
        h.connect(0, connect, device: nil, isLocal: true)
        _ = h.settle()
        h.restart()
        h.connect(1, connect, device: nil, isLocal: true)
        let isResumed = h.settle().contains {
            if case .send(1, .connack(let answer)) = $0 { answer.sessionPresent } else { false }
        }
        #expect(isResumed)
    }
}
