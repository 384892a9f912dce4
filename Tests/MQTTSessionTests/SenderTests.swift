import MQTTSession
import MQTTWire
import NIOCore
import Testing

/// The server as the sender of QoS 1 and 2 messages (4.3, 4.4, 4.6, 4.9).
@Suite struct SenderTests {
    private func deliveries(_ seen: [Seen]) -> [Seen] { seen.filter { if case .deliver = $0 { true } else { false } } }

    /// A publisher at 0 and at 1 a subscriber to `q` whose session is stored.
    private func durable(
        _ qos: QoS, version: ProtocolVersion = .v5, receiveMaximum: UInt16 = .max, window: Int = 64,
        filter: String = "q"
    ) -> Harness {
        let h = Harness { $0.inflightMaximum = window }
        h.open(0, "p")
        h.open(
            1, "s", version, clean: false, expiry: version == .v5 ? 1_000 : .max, device: "d2",
            receiveMaximum: receiveMaximum)
        h.subscribe(1, filter, qos: qos)
        _ = h.settle()
        return h
    }

    private func reopen(_ h: Harness, _ version: ProtocolVersion = .v5) -> [Seen] {
        Array(
            h.open(1, "s", version, clean: false, expiry: version == .v5 ? 1_000 : .max, device: "d2").dropFirst())
    }

    /// MQTT-3.3.1-3 (both)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func whetherThePublisherRepeatedItselfIsNotPassedOn(
        version: ProtocolVersion
    ) {
        let h = durable(.atLeastOnce, version: version)
        h.publish(0, "q", "1", qos: .atLeastOnce, id: 1, dup: true)
        #expect(deliveries(h.settle()) == [delivered(1, "q", "1", qos: .atLeastOnce, id: 1)])
    }

    /// MQTT-3.3.4-10, MQTT-4.9.0-3 (5.0)
    @Test func onlyPublishWaitsForAFullWindow() {
        let h = durable(.exactlyOnce, receiveMaximum: 2)
        for id in UInt16(1)...3 { h.publish(0, "q", "\(id)", qos: .exactlyOnce, id: id) }
        #expect(deliveries(h.settle()).count == 2)
        h.receive(1, .pingreq)
        h.receive(1, .pubrec(Acknowledgement(packetID: 1)))
        h.subscribe(1, "z")
        h.publish(1, "z", "mine")
        h.publish(1, "up/x", qos: .exactlyOnce, id: 9)
        let seen = h.settle()
        #expect(seen.contains(.send(1, .pingresp)))
        #expect(seen.contains(.send(1, .pubrel(Acknowledgement(packetID: 1)))))
        #expect(seen.contains(.send(1, .suback(SubAck(packetID: 1, reasons: [.success])))))
        #expect(seen.contains(.ack(1, .pubrec, 9)))
        // QoS 0 has no quota.
        #expect(deliveries(seen) == [delivered(1, "z", "mine")])
    }

    /// MQTT-4.3.3-7 (5.0): expiry is judged before the first sending only.
    @Test(arguments: [QoS.atLeastOnce, .exactlyOnce]) func whatWasSentDoesNotExpire(qos: QoS) {
        let h = durable(qos)
        h.publish(0, "q", "1", qos: qos, id: 1, expiry: 10)
        #expect(deliveries(h.settle()).count == 1)
        h.close(1)
        h.advance(seconds: 60)
        #expect(reopen(h) == [delivered(1, "q", "1", qos: qos, id: 1, dup: true)])
    }

    /// MQTT-4.4.0-2 (5.0)
    @Test(arguments: [QoS.atLeastOnce, .exactlyOnce]) func aFailureEndsAMessageForGood(qos: QoS) {
        let h = durable(qos)
        h.publish(0, "q", "1", qos: qos, id: 1)
        _ = h.settle()
        let failure = Acknowledgement(packetID: 1, reason: .implementationSpecificError)
        h.receive(1, qos == .atLeastOnce ? .puback(failure) : .pubrec(failure))
        #expect(h.settle() == [])
        h.close(1)
        #expect(reopen(h) == [])
        #expect(h.store.sessions.values.first?.queue == [])
    }

    /// MQTT-4.4.0-1, MQTT-4.6.0-1, MQTT-2.3.1-4 (3.1.1), MQTT-2.2.1-4 (5.0)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func whatIsUnacknowledgedComesAgainInItsOrderAndOnlyThen(
        version: ProtocolVersion
    ) {
        let h = durable(.exactlyOnce, version: version)
        for id in UInt16(1)...5 {
            h.publish(0, "q", "\(id)", qos: id % 2 == 0 ? .exactlyOnce : .atLeastOnce, id: id)
        }
        #expect(deliveries(h.settle()).count == 5)
        h.receive(1, .puback(Acknowledgement(packetID: 3)))
        h.receive(1, .pubrec(Acknowledgement(packetID: 2)))
        _ = h.settle()
        // Time alone sends nothing again.
        for _ in 0..<20 {
            h.advance(seconds: 30)
            h.receive(0, .pingreq)
            h.receive(1, .pingreq)
        }
        #expect(deliveries(h.settle()) == [])
        h.close(1)
        _ = h.settle()
        let expected: [Seen] = [
            delivered(1, "q", "1", qos: .atLeastOnce, id: 1, dup: true),
            .send(1, .pubrel(Acknowledgement(packetID: 2))),
            delivered(1, "q", "4", qos: .exactlyOnce, id: 4, dup: true),
            delivered(1, "q", "5", qos: .atLeastOnce, id: 5, dup: true),
        ]
        #expect(reopen(h, version) == expected)
        h.restart()
        #expect(reopen(h, version) == expected)
    }

    /// MQTT-3.3.1-1 (both): a message that was sent, and whose packet id was not durable yet when power failed.
    @Test(arguments: [ProtocolVersion.v311, .v5])
    func whatMayHaveBeenSentBeforeACrashIsMarkedAsARepeat(version: ProtocolVersion) {
        let h = durable(.atLeastOnce, version: version, window: 1)
        for id in UInt16(1)...2 { h.publish(0, "q", "\(id)", qos: .atLeastOnce, id: id) }
        #expect(deliveries(h.settle()) == [delivered(1, "q", "1", qos: .atLeastOnce, id: 1)])
        h.receive(1, .puback(Acknowledgement(packetID: 1)))
        // Sent, and what says so is never committed.
        #expect(deliveries(h.drain()) == [delivered(1, "q", "2", qos: .atLeastOnce, id: 2)])
        h.restart()
        let again = deliveries(reopen(h, version))
        #expect(again == (1...2).map { delivered(1, "q", "\($0)", qos: .atLeastOnce, id: UInt16($0), dup: true) })
    }

    /// MQTT-3.3.1-2: whoever was away has had nothing of what waits.
    @Test func whatWaitedForAnAbsentClientIsNoRepeat() {
        let h = durable(.atLeastOnce)
        h.close(1)
        _ = h.settle()
        h.publish(0, "q", "1", qos: .atLeastOnce, id: 1)
        _ = h.settle()
        h.restart()
        #expect(reopen(h) == [delivered(1, "q", "1", qos: .atLeastOnce, id: 1)])
    }

    /// MQTT-3.3.2-5, MQTT-3.3.1-1: what waited behind a full socket was never sent, also after a crash.
    @Test func whatWaitedForAFullSocketExpires() {
        let h = durable(.atLeastOnce)
        h.broker.writabilityChanged(h.id(1), isWritable: false, now: h.now, into: &h.output)
        h.publish(0, "q", "1", qos: .atLeastOnce, id: 1, expiry: 1)
        h.publish(0, "q", "2", qos: .atLeastOnce, id: 2)
        _ = h.settle()
        h.restart()
        h.advance(seconds: 2)
        #expect(deliveries(reopen(h)) == [delivered(1, "q", "2", qos: .atLeastOnce, id: 1, dup: true)])
    }

    /// MQTT-4.6.0-4, MQTT-4.3.3-6 (5.0), MQTT-4.3.3-1 (3.1.1)
    @Test(arguments: [ProtocolVersion.v311, .v5], [false, true])
    func pubrelsFollowThePubrecsAndNoPublishFollowsThem(version: ProtocolVersion, isStored: Bool) {
        let h = Harness()
        h.open(0, "p")
        let expiry: UInt32 = isStored ? 1_000 : 0
        h.open(1, "s", version, clean: !isStored, expiry: expiry, device: "d2")
        h.subscribe(1, "q", qos: .exactlyOnce)
        for id in UInt16(1)...3 { h.publish(0, "q", "\(id)", qos: .exactlyOnce, id: id) }
        _ = h.settle()
        for id in [UInt16(3), 1, 2] { h.receive(1, .pubrec(Acknowledgement(packetID: id))) }
        #expect(h.settle() == [UInt16(3), 1, 2].map { .send(1, .pubrel(Acknowledgement(packetID: $0))) })
        guard isStored else { return }
        h.close(1)
        let again = h.open(1, "s", version, clean: false, expiry: expiry, device: "d2")
        #expect(deliveries(again) == [])
        #expect(again.count == 4)
    }

    /// MQTT-3.10.4-2 and -3 (both)
    @Test(arguments: [ProtocolVersion.v311, .v5], [QoS.atLeastOnce, .exactlyOnce])
    func afterUnsubscribeWhatWasBegunIsCompleted(version: ProtocolVersion, qos: QoS) {
        let h = durable(qos, version: version)
        h.publish(0, "q", "begun", qos: qos, id: 1)
        _ = h.settle()
        h.receive(1, .unsubscribe(Unsubscribe(packetID: 7, filters: ["q"])))
        h.publish(0, "q", "new", qos: qos, id: 2)
        #expect(deliveries(h.settle()) == [])
        h.close(1)
        #expect(reopen(h, version) == [delivered(1, "q", "begun", qos: qos, id: 1, dup: true)])
        if qos == .exactlyOnce {
            h.receive(1, .pubrec(Acknowledgement(packetID: 1)))
            #expect(h.settle() == [.send(1, .pubrel(Acknowledgement(packetID: 1)))])
            h.receive(1, .pubcomp(Acknowledgement(packetID: 1)))
        } else {
            h.receive(1, .puback(Acknowledgement(packetID: 1)))
        }
        _ = h.settle()
        #expect(h.broker.sessions.first { $0.clientID == "s" }?.queuedMessages == 0)
    }

    /// MQTT-4.8.2-4, -5 and -6 (5.0): a message that went to one member of a shared subscription stays with it.
    @Test(arguments: ["returns", "ends", "refuses"]) func aSharedMessageStaysWithWhoGotIt(fate: String) {
        let h = durable(.exactlyOnce, filter: "$share/g/q")
        h.publish(0, "q", "1", qos: .exactlyOnce, id: 1)
        #expect(deliveries(h.settle()) == [delivered(1, "q", "1", qos: .exactlyOnce, id: 1)])
        h.open(2, "other", expiry: 1_000, device: "d3")
        h.subscribe(2, "$share/g/q", qos: .exactlyOnce)
        _ = h.settle()
        switch fate {
        case "returns":
            h.close(1)
            #expect(reopen(h) == [delivered(1, "q", "1", qos: .exactlyOnce, id: 1, dup: true)])
        case "ends":
            h.close(1)
            h.advance(seconds: 1_001)
            h.receive(2, .pingreq)
        default: h.receive(1, .pubrec(Acknowledgement(packetID: 1, reason: .quotaExceeded)))
        }
        #expect(deliveries(h.settle()) == [])
    }

    /// MQTT-4.6.0-5 and -6 (both): what one client publishes reaches a subscriber in its order, at each QoS.
    @Test(arguments: [ProtocolVersion.v311, .v5]) func orderOfOnePublisherIsKeptAtEachQoS(version: ProtocolVersion) {
        let h = durable(.exactlyOnce, version: version, receiveMaximum: 3)
        var seen: [Seen] = []
        for id in UInt16(1)...30 {
            h.publish(0, "q", "\(id)", qos: QoS(rawValue: UInt8(id % 3))!, id: id % 3 == 0 ? 0 : id)
            if id % 7 == 0 { seen += h.settle() }
        }
        seen += h.settle()
        var next = 0
        while next < seen.count {
            if case .deliver(1, _, _, let qos, let id, _, _, _) = seen[next] {
                switch qos {
                case .atMostOnce: break
                case .atLeastOnce: h.receive(1, .puback(Acknowledgement(packetID: id)))
                case .exactlyOnce:
                    h.receive(1, .pubrec(Acknowledgement(packetID: id)))
                    _ = h.settle()
                    h.receive(1, .pubcomp(Acknowledgement(packetID: id)))
                }
                seen += h.settle()
            }
            next += 1
        }
        for qos in [QoS.atMostOnce, .atLeastOnce, .exactlyOnce] {
            let payloads = seen.compactMap {
                if case .deliver(1, _, let payload, qos, _, _, false, _) = $0 { Int(payload) } else { nil }
            }
            #expect(payloads == Array(stride(from: qos == .atMostOnce ? 3 : Int(qos.rawValue), through: 30, by: 3)))
        }
    }
}
