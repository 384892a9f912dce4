import MQTTSession
import MQTTWire
import Testing

/// A gateway without a clock of its own jumps by decades when the network tells the time, and sometimes back.
@Suite struct ClockStepTests {
    private static let fiftyYears: Int64 = 50 * 365 * 86_400 * 1_000_000

    /// A session that waits with an acknowledged message in its queue, and a retained message.
    private func waiting() -> Harness {
        let h = Harness()
        h.open(0, "c", clean: false, expiry: 600, device: "d2")
        h.subscribe(0, "q", qos: .atLeastOnce)
        _ = h.settle()
        h.close(0)
        h.open(1, "p")
        h.publish(1, "q", "queued", qos: .atLeastOnce, id: 1, expiry: 300)
        h.publish(1, "r", "retained", qos: .atLeastOnce, id: 2, retain: true, expiry: 300)
        #expect(h.settle() == [.ack(1, .puback, 1), .ack(1, .puback, 2)])
        return h
    }

    private func found(_ h: Harness) -> [Seen] {
        let seen = h.open(2, "c", clean: false, expiry: 600, device: "d2")
        h.subscribe(2, "r")
        return (seen + h.settle()).filter { if case .deliver = $0 { true } else { false } }
    }

    private let all = [
        delivered(2, "q", "queued", qos: .atLeastOnce, id: 1), delivered(2, "r", "retained", retain: true),
    ]

    @Test(arguments: [fiftyYears, -fiftyYears], [true, false])
    func aStepOfFiftyYearsExpiresNothing(step: Int64, restarts: Bool) {
        let h = waiting()
        h.wallStep = step
        if restarts { h.restart() }
        // Twelve looks at what has expired, over two minutes.
        for _ in 0..<12 { h.advance(seconds: 10) }
        _ = h.settle()
        #expect(found(h) == all)
        #expect(h.broker.counters.dropped[.expired] == 0)
    }

    @Test(arguments: [fiftyYears, -fiftyYears], [true, false])
    func aStepKeepsNothingForEver(step: Int64, restarts: Bool) {
        let h = waiting()
        h.wallStep = step
        if restarts { h.restart() }
        h.advance(seconds: 299)
        #expect(h.broker.retainedCount == 1)
        h.advance(seconds: 11)
        #expect(h.broker.retainedCount == 0, "the message has expired")
        #expect(found(h) == [], "in the queue as well")
        h.close(2)
        h.advance(seconds: 601)
        _ = h.settle()
        #expect(h.store.sessions.isEmpty, "and at last the session")
    }

    /// The time for which the daemon was down counts for the session, as far as the gateway's own time has gone on.
    @Test func aSessionExpiresOverARestart() {
        let h = waiting()
        h.time += 601_000_000
        h.wallStep = -Self.fiftyYears
        h.restart()
        h.advance(seconds: 1)
        _ = h.settle()
        #expect(h.store.sessions.isEmpty)
    }
}
