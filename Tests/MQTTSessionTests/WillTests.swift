import MQTTWire
import NIOCore
import Testing

@testable import MQTTSession

@Suite struct WillTests {
    private let will = Will(topic: "up/will", payload: ByteBuffer(string: "w"), qos: .atLeastOnce, retain: true)

    @Test(arguments: [ProtocolVersion.v311, .v5])
    func publishedWhenTheConnectionIsLost(version: ProtocolVersion) {
        let h = Harness()
        _ = h.open(1, "s", device: "d2")
        h.subscribe(1, "up/will", qos: .exactlyOnce)
        _ = h.open(0, "c", version, will: will)
        h.close(0)
        #expect(h.settle() == [delivered(1, "up/will", "w", qos: .atLeastOnce, id: 1)])
        // QoS 1, retain, will.
        #expect(h.store.synced == [Synced(topic: "up/will", payload: "w", flags: 1 | 4 | 16)])
        #expect(h.store.retained.count == 1 && h.broker.counters.willsPublished == 1)
    }

    @Test func notAfterAnOrderlyEnd() {
        let h = Harness()
        _ = h.open(0, "c", will: will)
        h.receive(0, .disconnect(Disconnect()))
        _ = h.open(0, "c", .v311, will: will)
        h.receive(0, .disconnect(Disconnect()))
        _ = h.settle()
        #expect(h.store.synced.isEmpty)
        _ = h.open(0, "c", will: will)
        h.receive(0, .disconnect(Disconnect(reason: .disconnectWithWill)))
        _ = h.settle()
        #expect(h.store.synced.count == 1)
    }

    /// MQTT-3.1.2-8: without a delay it was due when the connection died, however soon the client is back.
    @Test func aWillThatWasDueInACrashIsPublishedBeforeItsClientIsBack() {
        let h = Harness()
        _ = h.open(0, "c", clean: false, expiry: 100, will: will)
        h.restart()
        _ = h.open(0, "c", clean: false, expiry: 100)
        #expect(h.store.synced.map(\.topic) == ["up/will"])
        h.advance(seconds: 1)
        _ = h.settle()
        #expect(h.store.synced.count == 1)
    }

    @Test func aDelayEndsWithTheReturnOrTheSession() {
        var late = will
        late.delayInterval = 10
        let h = Harness()
        _ = h.open(0, "c", expiry: 100, will: late)
        h.close(0)
        h.advance(seconds: 9)
        _ = h.open(0, "c", clean: false, expiry: 100, will: late)
        h.advance(seconds: 5)
        // A take-over that goes on with the session.
        _ = h.open(1, "c", clean: false, expiry: 100, will: late)
        _ = h.settle()
        #expect(h.store.synced.isEmpty)
        h.close(1)
        h.advance(seconds: 10)
        _ = h.settle()
        #expect(h.store.synced.count == 1)
        _ = h.open(0, "c", clean: false, expiry: 3, will: late)
        h.close(0)
        h.advance(seconds: 4)
        _ = h.settle()
        #expect(h.store.synced.count == 2)
        _ = h.open(0, "c", will: late)
        h.close(0)
        _ = h.settle()
        #expect(h.store.synced.count == 3)
        // Taken over with a clean start, the session ends.
        _ = h.open(0, "c", expiry: 100, will: late)
        _ = h.open(1, "c", clean: true, expiry: 100)
        #expect(h.store.synced.count == 4)
        h.advance(seconds: 60)
        _ = h.settle()
        #expect(h.store.synced.count == 4)
    }

    @Test func whatIsInTheWayOfAWill() {
        let h = Harness { $0.retainedMessagesMaximum = 0 }
        _ = h.open(0, "c", will: will)
        h.close(0)
        #expect(h.broker.counters.refused[.retainedFull] == 1)
        _ = h.open(0, "c", will: will)
        h.broker.storage = .full
        h.close(0)
        #expect(h.broker.counters.refused[.storageFull] == 1)
        _ = h.open(0, "c", will: will)
        var configuration = h.broker.configuration
        configuration.access = []
        h.broker.reconfigure(configuration, now: h.now)
        h.close(0)
        _ = h.settle()
        #expect(h.broker.counters.refused[.will] == 1)
        #expect(h.store.synced.isEmpty && h.broker.counters.willsPublished == 0)
    }

    /// A power cut ends the connection too: the will of a stored session is published at the next start.
    @Test func aWillOutlivesTheDaemon() {
        let h = Harness()
        _ = h.open(0, "c", expiry: 100, will: will)
        h.restart()
        h.advance(seconds: 0.05)
        _ = h.settle()
        #expect(h.store.synced == [Synced(topic: "up/will", payload: "w", flags: 1 | 4 | 16)])
        h.restart()
        h.advance(seconds: 0.05)
        _ = h.settle()
        #expect(h.store.synced.count == 1, "published once")
    }

    @Test func aDelayGoesOnOverARestart() {
        var late = will
        late.delayInterval = 10
        let h = Harness()
        _ = h.open(0, "back", expiry: 100, will: late)
        _ = h.open(1, "gone", expiry: 100, will: late)
        h.close(0)
        h.close(1)
        _ = h.settle()
        h.advance(seconds: 6)
        h.restart()
        h.advance(seconds: 3)
        _ = h.open(0, "back", clean: false, expiry: 100)
        #expect(h.store.synced == [])
        h.advance(seconds: 2)
        _ = h.settle()
        #expect(h.store.synced.count == 1)
    }

    @Test func whatIsOverLeavesNothingBehind() {
        let h = Harness()
        _ = h.open(0, "c", expiry: 100, will: will)
        h.receive(0, .disconnect(Disconnect()))
        _ = h.settle()
        #expect(h.store.sessions.values.map(\.will) == [nil])
        _ = h.open(0, "c", clean: false, expiry: 100, will: will)
        // The next connection of the session has no will, or another one.
        var late = will
        late.delayInterval = 10
        _ = h.open(1, "c", clean: false, expiry: 100, will: late)
        #expect(h.store.sessions.values.map(\.will) == [late])
        _ = h.open(0, "c", clean: false, expiry: 100)
        #expect(h.store.sessions.values.map(\.will) == [nil])
        h.restart()
        h.advance(seconds: 20)
        _ = h.settle()
        // That of the first take-over, which had no delay.
        #expect(h.store.synced.count == 1)
    }
}
