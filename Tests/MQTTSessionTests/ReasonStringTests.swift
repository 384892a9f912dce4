import MQTTWire
import NIOCore
import Testing

@testable import MQTTSession

/// Reason strings, and whom they may be sent to (MQTT-3.1.2-29).
@Suite struct ReasonStringTests {
    private func packets(_ h: Harness) -> [Packet] {
        while !h.output.group.isEmpty { h.commit() }
        defer { h.output.actions.removeAll() }
        return h.output.actions.compactMap { if case .send(_, let packet) = $0 { packet } else { nil } }
    }

    private func open(_ h: Harness, problemInformation: Bool, version: ProtocolVersion = .v5) {
        h.connect(
            0, Connect(version: version, clientID: "c", requestProblemInformation: problemInformation))
        _ = packets(h)
    }

    private static func configuration(_ configuration: inout BrokerConfiguration) {
        configuration.access = [AccessRule(verdict: .allow, action: .all, topic: "ok/#")]
    }

    @Test(arguments: [true, false]) func acknowledgementsSayWhyWhereTheClientWantsIt(wanted: Bool) {
        let h = Harness(Self.configuration)
        open(h, problemInformation: wanted)
        h.publish(0, "no", qos: .atLeastOnce, id: 1)
        h.publish(0, "no", qos: .exactlyOnce, id: 2)
        h.subscribe(0, "no/#")
        let text = wanted ? "the access rules do not allow it" : nil
        let filter = wanted ? "topic filter 1 reaches topics that the access rules do not allow" : nil
        #expect(
            packets(h) == [
                .puback(Acknowledgement(packetID: 1, reason: .notAuthorized, reasonString: text)),
                .pubrec(Acknowledgement(packetID: 2, reason: .notAuthorized, reasonString: text)),
                .suback(SubAck(packetID: 1, reasons: [.notAuthorized], reasonString: filter)),
            ])
    }

    @Test(arguments: [true, false]) func disconnectAlwaysSaysWhy(wanted: Bool) {
        let h = Harness()
        open(h, problemInformation: wanted)
        h.receive(0, .pingresp)
        let text = "a packet is not allowed here, or contradicts itself"
        #expect(packets(h) == [.disconnect(Disconnect(reason: .protocolError, reasonString: text))])
    }

    @Test func aRefusedConnectionIsToldWhy() {
        let h = Harness(Self.configuration)
        h.connect(
            0, Connect(version: .v5, clientID: "c", will: Will(topic: "no", payload: ByteBuffer())))
        guard case .connack(let connack)? = packets(h).first else {
            Issue.record("no CONNACK came")
            return
        }
        #expect(connack.reason == .notAuthorized)
        #expect(connack.reasonString == "the access rules do not allow the will's topic")
    }

    /// Every reason that has a code has a text, and none is longer than a line of a log.
    @Test(arguments: CloseReason.allCases) func everyCodeHasItsText(reason: CloseReason) throws {
        guard reason.code != nil else { return }
        let text = try #require(reason.reasonString)
        #expect((10...100).contains(text.utf8.count))
    }
}

/// The payload format indicator (MQTT 5.0, 3.3.2.3.2).
@Suite struct PayloadFormatTests {
    private static let utf8 = ByteBuffer(bytes: [0x01, 0x01])
    /// A user property and a content type before the indicator.
    private static let utf8Last = ByteBuffer(bytes: [0x26, 0, 1, 0x61, 0, 1, 0x62, 0x03, 0, 1, 0x63, 0x01, 0x01])
    private static let bytes = ByteBuffer(bytes: [0x01, 0x00])

    private func answer(_ properties: ByteBuffer, _ payload: [UInt8], qos: QoS) -> (Harness, [Seen]) {
        let h = Harness()
        h.open(0, "c")
        h.broker.publish(
            Publish(
                topic: ByteBuffer(string: "up/a"), payload: ByteBuffer(bytes: payload),
                packetID: qos == .atMostOnce ? 0 : 1, qos: qos, applicationProperties: properties),
            on: h.id(0), now: h.now, into: &h.output)
        return (h, h.settle())
    }

    @Test(arguments: [Self.utf8, Self.utf8Last])
    func aPayloadThatIsNotWhatItSaysIsRefused(properties: ByteBuffer) {
        let (first, puback) = answer(properties, [0x61, 0xFF], qos: .atLeastOnce)
        #expect(puback == [.send(0, .puback(Acknowledgement(packetID: 1, reason: .payloadFormatInvalid)))])
        #expect(first.store.synced == [])
        #expect(first.broker.counters.refused[.payloadFormat] == 1)
        let (_, pubrec) = answer(properties, [0xC3], qos: .exactlyOnce)
        #expect(pubrec == [.send(0, .pubrec(Acknowledgement(packetID: 1, reason: .payloadFormatInvalid)))])
        let (silent, nothing) = answer(properties, [0xC3], qos: .atMostOnce)
        #expect(nothing == [])
        #expect(silent.broker.counters.refusedSilently == 1)
    }

    @Test(arguments: [
        (Self.utf8, Array("grün \u{0} ok".utf8)), (Self.utf8Last, []), (Self.bytes, [0xFF]), (ByteBuffer(), [0xFF]),
    ])
    func anyOtherIsTaken(properties: ByteBuffer, payload: [UInt8]) {
        let (h, seen) = answer(properties, payload, qos: .atLeastOnce)
        #expect(seen == [.ack(0, .puback, 1)])
        #expect(h.store.synced.count == 1)
    }

    @Test func aWillIsJudgedAtConnect() {
        let h = Harness()
        h.connect(
            0,
            Connect(
                version: .v5, clientID: "c",
                will: Will(topic: "w", payload: ByteBuffer(bytes: [0xFF]), applicationProperties: Self.utf8)))
        #expect(h.settle().first == .send(0, .connack(ConnAck(reason: .payloadFormatInvalid))))
    }
}
