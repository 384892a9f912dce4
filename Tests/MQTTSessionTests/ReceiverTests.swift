import MQTTSession
import MQTTWire
import NIOCore
import Testing

/// The server as the receiver of messages, and what it passes on of them.
@Suite struct ReceiverTests {
    /// MQTT-4.3.2-2 (3.1.1), MQTT-4.3.2-5 (5.0)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func afterItsPubackAnIDIsANewMessage(version: ProtocolVersion) {
        let h = Harness()
        h.open(0, "c", version)
        for dup in [false, true] {
            h.publish(0, "up/a", "x", qos: .atLeastOnce, id: 5, dup: dup)
            #expect(h.settle() == [.ack(0, .puback, 5)])
        }
        #expect(h.store.synced.count == 2)
    }

    /// MQTT-4.3.3-13 (5.0)
    @Test func anExpiredMessageIsStillTakenToItsEnd() {
        let h = Harness()
        h.open(1, "s", expiry: 1_000, device: "d2")
        h.subscribe(1, "q", qos: .exactlyOnce)
        _ = h.settle()
        h.close(1)
        h.open(0, "p")
        h.publish(0, "q", "1", qos: .exactlyOnce, id: 3, expiry: 5)
        #expect(h.settle() == [.ack(0, .pubrec, 3)])
        h.advance(seconds: 10)
        h.open(1, "s", clean: false, expiry: 1_000, device: "d2")
        #expect(h.broker.counters.dropped[.expired] == 1)
        h.publish(0, "q", "1", qos: .exactlyOnce, id: 3, dup: true, expiry: 5)
        #expect(h.settle() == [.ack(0, .pubrec, 3)])
        h.receive(0, .pubrel(Acknowledgement(packetID: 3)))
        #expect(h.settle() == [.send(0, .pubcomp(Acknowledgement(packetID: 3)))])
    }

    /// MQTT-3.3.2-12 and -7 (5.0)
    @Test func everyAliasThatWasOfferedIsTakenForOneConnection() {
        let h = Harness()
        h.open(0, "c", expiry: 100)
        for alias in UInt16(1)...16 { h.publish(0, "up/\(alias)", alias: alias) }
        for alias in UInt16(1)...16 { h.publish(0, "", alias: alias) }
        _ = h.settle()
        #expect(h.store.synced.map(\.topic) == (Array(1...16) + Array(1...16)).map { "up/\($0)" })
        h.close(0)
        h.open(0, "c", clean: false, expiry: 100)
        h.publish(0, "", alias: 1)
        #expect(h.settle().last == .close(0, .topicAliasInvalid))
        #expect(h.store.synced.count == 32)
    }

    /// Payload format, content type, response topic, correlation data and user properties, two of one name.
    private static let properties = ByteBuffer(
        bytes: [0x26, 0, 1, 0x6B, 0, 1, 0x32, 0x01, 1, 0x03, 0, 1, 0x74, 0x08, 0, 1, 0x72, 0x09, 0, 2, 0xFF, 0x00]
            + [0x26, 0, 1, 0x6B, 0, 1, 0x31])

    private func properties(_ h: Harness) -> [ByteBuffer] {
        while !h.output.group.isEmpty { h.commit() }
        defer { h.output.actions.removeAll() }
        return h.output.actions.compactMap {
            if case .deliver(_, let delivery) = $0 { delivery.message.applicationProperties } else { nil }
        }
    }

    /// MQTT-3.3.2-4, -15, -16, -17, -18 and -20, MQTT-3.1.3-10 (5.0): to whoever is there, from a queue, when it is retained,
    /// over a restart, and as a will.
    @Test func whatTheApplicationSaysOfItsMessageIsNotTouched() {
        let h = Harness()
        h.open(1, "s", expiry: 1_000, device: "d2")
        h.subscribe(1, "q", qos: .atLeastOnce)
        h.open(
            0, "p",
            will: Will(topic: "q", payload: ByteBuffer(), qos: .atLeastOnce, applicationProperties: Self.properties))
        let message = Publish(
            topic: ByteBuffer(string: "q"), payload: ByteBuffer(string: "x"), packetID: 1, qos: .atLeastOnce,
            retain: true,
            applicationProperties: Self.properties)
        h.broker.publish(message, on: h.id(0), now: h.now, into: &h.output)
        #expect(properties(h) == [Self.properties])
        h.close(1)
        h.restart()
        h.connect(
            1, Connect(version: .v5, clientID: "s", cleanStart: false, sessionExpiryInterval: 1_000), device: "d2")
        #expect(properties(h) == [Self.properties])
        h.open(2, "late", device: "d3")
        h.subscribe(2, "q")
        #expect(properties(h) == [Self.properties])
        h.open(
            0, "p",
            will: Will(topic: "q", payload: ByteBuffer(), qos: .atLeastOnce, applicationProperties: Self.properties))
        h.close(0)
        #expect(properties(h) == [Self.properties, Self.properties])
    }
}
