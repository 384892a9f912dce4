import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import MQTTSession

@Suite struct SubscribeTests {
    private func granted(_ slot: UInt32, _ reasons: ReasonCode...) -> Seen {
        .send(slot, .suback(SubAck(packetID: 1, reasons: reasons)))
    }

    @Test(arguments: [ProtocolVersion.v311, .v5])
    func messagesGoWhereTheyMatchAtTheLowerQoS(version: ProtocolVersion) {
        let h = Harness()
        _ = h.open(0, "p")
        _ = h.open(1, "s", version, device: "d2")
        h.subscribe(1, "a/+", qos: .atLeastOnce)
        #expect(h.drain() == [granted(1, .grantedQoS1)])
        h.publish(0, "a/b", "0")
        #expect(h.drain() == [delivered(1, "a/b", "0")])
        h.publish(0, "a/b", "1", qos: .atLeastOnce, id: 5)
        #expect(h.drain() == [])
        #expect(h.settle() == [.ack(0, .puback, 5), delivered(1, "a/b", "1", qos: .atLeastOnce, id: 1)])
        h.publish(0, "a/b", "2", qos: .exactlyOnce, id: 6)
        #expect(h.settle() == [.ack(0, .pubrec, 6), delivered(1, "a/b", "2", qos: .atLeastOnce, id: 2)])
        h.publish(0, "a/b/c", "3")
        #expect(h.drain() == [])
        // Nothing of it is stored: the subscriber's session ends with its connection.
        #expect(h.store.sessions.isEmpty)
    }

    @Test func orderIsKeptAcrossACommit() {
        let h = Harness()
        _ = h.open(0, "p")
        _ = h.open(1, "s", device: "d2")
        h.subscribe(1, "#")
        _ = h.drain()
        h.publish(0, "up/a", "1")
        h.publish(0, "b", "2")
        #expect(h.drain() == [])
        #expect(h.settle() == [delivered(1, "up/a", "1"), delivered(1, "b", "2")])
    }

    @Test func overlappingFiltersDeliverOnce() {
        let h = Harness()
        _ = h.open(0, "p")
        _ = h.open(1, "s", device: "d2")
        h.subscribe(1, "a/#", qos: .atMostOnce, identifier: 7)
        h.subscribe(1, "a/+", qos: .exactlyOnce, identifier: 8)
        h.subscribe(1, "a/b", qos: .atLeastOnce)
        _ = h.drain()
        h.publish(0, "a/b", "1", qos: .exactlyOnce, id: 1)
        var seen = h.settle()
        guard
            case .deliver(1, "a/b", "1", qos: .exactlyOnce, id: 1, retain: false, dup: false, let ids) =
                seen.removeLast()
        else { return #expect(Bool(false), "no delivery in \(seen)") }
        #expect(ids.sorted() == [7, 8])
    }

    @Test func noLocalAndRetainAsPublished() {
        let h = Harness()
        _ = h.open(0, "p")
        _ = h.open(1, "s", device: "d2")
        h.subscribe(0, "a", noLocal: true)
        h.subscribe(1, "a", retainAsPublished: true)
        _ = h.drain()
        h.publish(0, "a", "1", retain: true)
        #expect(h.settle() == [delivered(1, "a", "1", retain: true)])
        h.publish(1, "a", "2")
        #expect(h.settle() == [delivered(0, "a", "2"), delivered(1, "a", "2")])
    }

    @Test func filtersThatAreRefused() {
        let h = Harness {
            $0.subscriptionsPerSessionMaximum = 1
            $0.access = [AccessRule(verdict: .allow, action: .subscribe, topic: "a/#")]
        }
        _ = h.open(0, "c")
        _ = h.open(1, "old", .v311)
        for filter in ["a/#/b", "a+", "", "$share//a", "$share/x", "$share/+/a", "$share/g/"] {
            h.subscribe(0, filter)
            #expect(h.drain() == [granted(0, .topicFilterInvalid)])
        }
        h.subscribe(0, "#")
        h.subscribe(0, "a/b")
        h.subscribe(0, "a/c")
        h.subscribe(0, "a/b", qos: .exactlyOnce)
        h.subscribe(1, "#")
        #expect(
            h.drain() == [
                granted(0, .notAuthorized), granted(0, .success), granted(0, .quotaExceeded), granted(0, .grantedQoS2),
                granted(1, .unspecifiedError),
            ])
        h.subscribe(0, "$share/g/a/b", noLocal: true)
        #expect(h.settle().last == .close(0, .protocolError))
        _ = h.open(0, "c")
        h.subscribe(0, "a", identifier: 0)
        #expect(h.settle().last == .close(0, .protocolError))
    }

    @Test func answersOfAStoredSessionWaitForTheirCommit() {
        let h = Harness()
        _ = h.open(0, "c", expiry: 100)
        h.subscribe(0, "a", qos: .atLeastOnce, identifier: 3)
        #expect(h.drain() == [])
        #expect(h.settle() == [granted(0, .grantedQoS1)])
        #expect(h.store.sessions.values.first?.subscriptions.first?.identifier == 3)
        h.restart()
        _ = h.open(0, "c", clean: false, expiry: 100)
        _ = h.open(1, "p", device: "d2")
        h.publish(1, "a", "1", qos: .atLeastOnce, id: 1)
        #expect(h.settle() == [.ack(1, .puback, 1), delivered(0, "a", "1", qos: .atLeastOnce, id: 1, ids: [3])])
        h.receive(0, .unsubscribe(Unsubscribe(packetID: 9, filters: ["a", "b"])))
        #expect(h.drain() == [])
        #expect(
            h.settle() == [
                .send(0, .unsuback(UnsubAck(packetID: 9, reasons: [.success, .noSubscriptionExisted])))
            ])
        #expect(h.store.sessions.values.first?.subscriptions == [])
        h.publish(1, "a", "2")
        #expect(h.settle() == [])
        h.receive(1, .unsubscribe(Unsubscribe(packetID: 9, filters: ["a"])))
        #expect(h.drain() == [.send(1, .unsuback(UnsubAck(packetID: 9, reasons: [.noSubscriptionExisted])))])
    }

    @Test func retainedMessages() {
        let h = Harness()
        _ = h.open(0, "p")
        h.publish(0, "a/1", "x", qos: .atLeastOnce, id: 1, retain: true)
        h.publish(0, "a/2", "y", retain: true)
        h.publish(0, "a/2", "z", retain: true, expiry: 100)
        h.publish(0, "b", "gone", retain: true)
        h.publish(0, "b", "", retain: true)
        h.publish(0, "c", "", retain: true)
        _ = h.open(1, "s", device: "d2")
        #expect(h.store.retained.count == 2)
        h.subscribe(1, "#", qos: .exactlyOnce, identifier: 4)
        #expect(
            h.settle() == [
                granted(1, .grantedQoS2), delivered(1, "a/1", "x", qos: .atLeastOnce, id: 1, retain: true, ids: [4]),
                delivered(1, "a/2", "z", retain: true, ids: [4]),
            ])
        h.subscribe(1, "#", handling: .sendIfNew)
        h.subscribe(1, "a/1", handling: .doNotSend)
        h.subscribe(1, "$share/g/a/1")
        #expect(h.settle().count == 3)
        h.subscribe(1, "a/2", handling: .sendIfNew)
        #expect(h.settle().count == 2)
        h.restart()
        #expect(h.broker.retainedCount == 2)
        h.advance(seconds: 101)
        _ = h.settle()
        #expect(h.broker.retainedCount == 1 && h.store.retained.count == 1)
        _ = h.open(1, "s", device: "d2")
        h.subscribe(1, "a/2")
        h.subscribe(1, "a/1")
        #expect(h.settle().dropFirst(1) == [granted(1, .success), delivered(1, "a/1", "x", retain: true)])
    }

    @Test func aRetainedMessageThatIsNotCommittedWaits() {
        let h = Harness()
        _ = h.open(0, "p")
        _ = h.open(1, "s", device: "d2")
        h.publish(0, "a", "x", retain: true)
        h.subscribe(1, "a")
        #expect(h.drain() == [granted(1, .success)])
        #expect(h.settle() == [delivered(1, "a", "x", retain: true)])
    }

    @Test func retainedMessagesAreBounded() {
        let h = Harness {
            $0.retainedMessagesMaximum = 2
            $0.retainedBytesMaximum = 20
        }
        _ = h.open(0, "p")
        h.publish(0, "a", "1", qos: .atLeastOnce, id: 1, retain: true)
        h.publish(0, "a", String(repeating: "x", count: 20), qos: .atLeastOnce, id: 2, retain: true)
        h.publish(0, "b", "1", qos: .atLeastOnce, id: 3, retain: true)
        h.publish(0, "c", "1", qos: .atLeastOnce, id: 4, retain: true)
        let over = { Acknowledgement(packetID: $0, reason: .quotaExceeded) }
        #expect(
            h.settle() == [
                .ack(0, .puback, 1), .send(0, .puback(over(2))), .ack(0, .puback, 3), .send(0, .puback(over(4))),
            ])
        #expect(h.broker.counters.refused[.retainedFull] == 2)
    }

    @Test func sharedSubscriptionsInTurn() {
        let h = Harness()
        _ = h.open(0, "p")
        _ = h.open(1, "s1", device: "d2")
        _ = h.open(2, "s2", expiry: 100, device: "d2")
        h.subscribe(1, "$share/g/a/+", qos: .atLeastOnce)
        h.subscribe(2, "$share/g/a/+", qos: .atLeastOnce)
        h.subscribe(2, "$share/h/a/#")
        _ = h.settle()
        for payload in ["1", "2", "3"] { h.publish(0, "a/b", payload) }
        // Group h has one member, group g takes turns.
        #expect(
            h.drain() == [
                delivered(2, "a/b", "1"), delivered(1, "a/b", "1"), delivered(2, "a/b", "2"), delivered(2, "a/b", "2"),
                delivered(2, "a/b", "3"), delivered(1, "a/b", "3"),
            ])
        // Whoever is there gets it; when nobody is, it is kept for a stored one.
        h.close(2)
        h.publish(0, "a/b", "4", qos: .atLeastOnce, id: 1)
        #expect(h.settle().contains(delivered(1, "a/b", "4", qos: .atLeastOnce, id: 1)))
        h.close(1)
        h.publish(0, "a/b", "5", qos: .atLeastOnce, id: 2)
        #expect(h.settle() == [.ack(0, .puback, 2)])
        #expect(
            h.open(2, "s2", clean: false, expiry: 100, device: "d2").last
                == delivered(2, "a/b", "5", qos: .atLeastOnce, id: 1))
    }

    /// A wide filter is taken where something inside it is denied, and brings nothing of that: live, retained, shared.
    /// The rules were narrowed while the daemon was down.
    @Test func whatTheRulesDoNotAllowAnyMoreIsGoneAfterARestart() {
        let h = Harness()
        h.open(0, "p", device: "d2")
        h.open(1, "s", clean: false, expiry: 1_000)
        for filter in ["secret/#", "plain/#"] { h.subscribe(1, filter, qos: .atLeastOnce) }
        _ = h.settle()
        h.restart(
            Harness.configuration {
                $0.access = [
                    AccessRule(verdict: .deny, action: .subscribe, topic: "secret/#"),
                    AccessRule(verdict: .allow, action: .all, topic: "#"),
                ]
            })
        // Before any tick, and whether the client is there or not.
        h.open(0, "p", device: "d2")
        for topic in ["secret/a", "plain/a"] { h.publish(0, topic, "1", qos: .atLeastOnce, id: 1) }
        _ = h.settle()
        let seen = h.open(1, "s", clean: false, expiry: 1_000)
        #expect(seen.dropFirst() == [delivered(1, "plain/a", "1", qos: .atLeastOnce, id: 1)])
        h.advance(seconds: 1)
        _ = h.settle()
        #expect(h.store.sessions.values.first?.subscriptions.map(\.subscription.filter) == ["plain/#"])
        #expect(h.broker.sessions.first { $0.clientID == "s" }?.subscriptions == 1)
    }

    /// A session that was made without a certificate is judged again when a certificate takes it up.
    @Test func theRulesOfItsNewGroupHoldForASessionThatIsTakenUp() {
        let h = Harness {
            $0.access = [
                AccessRule(verdict: .allow, action: .all, topic: "inner/#", group: "local"),
                AccessRule(verdict: .allow, action: .all, topic: "plain/#"),
            ]
        }
        let connect = Connect(
            version: .v311, clientID: "d1", cleanStart: false, keepAlive: 60, sessionExpiryInterval: .max)
        h.connect(0, connect, device: nil, isLocal: true)
        _ = h.settle()
        for filter in ["inner/#", "plain/#"] { h.subscribe(0, filter) }
        _ = h.settle()
        h.close(0)
        h.connect(1, connect, device: "d1")
        _ = h.settle()
        #expect(h.store.sessions.values.first?.subscriptions.map(\.subscription.filter) == ["plain/#"])
    }

    /// MQTT-3.3.1-9: also where SUBSCRIBE follows a CONNECT whose answer still waits for its commit.
    @Test func retainedMessagesFollowAConnackThatWaits() {
        let h = Harness()
        h.open(0, "p", device: "d2")
        h.publish(0, "plain/a", "1", retain: true)
        h.open(1, "c", clean: false, expiry: 100)
        h.close(1)
        _ = h.settle()
        h.connect(1, Connect(version: .v5, clientID: "c", cleanStart: true, keepAlive: 60))
        h.subscribe(1, "plain/#")
        #expect(h.drain() == [])
        #expect(h.settle().last == delivered(1, "plain/a", "1", retain: true))
    }

    @Test func aWideFilterBringsNothingThatIsDenied() {
        let h = Harness {
            $0.access = [
                AccessRule(verdict: .deny, action: .subscribe, topic: "secret/#"),
                AccessRule(verdict: .allow, action: .all, topic: "#"),
            ]
        }
        _ = h.open(0, "p")
        h.publish(0, "secret/r", "1", retain: true)
        h.publish(0, "open/r", "1", retain: true)
        _ = h.settle()
        _ = h.open(1, "s", expiry: 100, device: "d2")
        h.subscribe(1, "secret/x")
        #expect(h.settle() == [.send(1, .suback(SubAck(packetID: 1, reasons: [.notAuthorized])))])
        h.subscribe(1, "#", qos: .atLeastOnce)
        #expect(h.settle().dropFirst() == [delivered(1, "open/r", "1", retain: true)])
        h.subscribe(1, "$share/g/+/s")
        _ = h.settle()
        for topic in ["secret/r", "open/r", "secret/s", "open/s"] { h.publish(0, topic, "2") }
        let expected = [delivered(1, "open/r", "2"), delivered(1, "open/s", "2"), delivered(1, "open/s", "2")]
        #expect(h.settle() == expected)
        // A session that is away keeps nothing of it either, and neither does one that was restored.
        h.close(1)
        _ = h.settle()
        h.publish(0, "secret/r", "3", qos: .atLeastOnce, id: 1)
        h.restart(h.broker.configuration)
        _ = h.open(0, "p")
        h.publish(0, "secret/r", "4", qos: .atLeastOnce, id: 1)
        h.publish(0, "open/r", "4", qos: .atLeastOnce, id: 2)
        _ = h.settle()
        #expect(h.store.sessions.values.first?.queue.map { String(buffer: $0.message.topic) } == ["open/r"])
    }

    @Test func whyIsSaidOnlyWhereItMayBe() {
        let h = Harness {
            $0.access = []
            $0.disclosesReasons = false
        }
        _ = h.open(0, "c")
        h.subscribe(0, "a")
        h.publish(0, "a", qos: .atLeastOnce, id: 1)
        h.receive(0, .pingresp)
        while !h.output.group.isEmpty { h.commit() }
        let packets = h.output.actions.compactMap { if case .send(_, let packet) = $0 { packet } else { nil } }
        #expect(
            packets == [
                .suback(SubAck(packetID: 1, reasons: [.unspecifiedError])),
                .puback(Acknowledgement(packetID: 1, reason: .notAuthorized)),
                .disconnect(Disconnect(reason: .protocolError)),
            ])
    }

    @Test func newAccessRulesEndSubscriptions() {
        let h = Harness()
        _ = h.open(0, "c", expiry: 100)
        h.subscribe(0, "a/#")
        h.subscribe(0, "b")
        _ = h.settle()
        var configuration = h.broker.configuration
        configuration.access = [AccessRule(verdict: .allow, action: .all, topic: "b")]
        h.broker.reconfigure(configuration, now: h.now)
        h.advance(seconds: 0.25)
        _ = h.settle()
        #expect(h.store.sessions.values.first?.subscriptions.map(\.subscription.filter) == ["b"])
    }
}

@Suite struct OutgoingTests {
    private func durable(_ qos: QoS, _ change: (inout BrokerConfiguration) -> Void = { _ in }) -> Harness {
        let h = Harness(change)
        _ = h.open(0, "p")
        _ = h.open(1, "s", expiry: 1_000, device: "d2")
        h.subscribe(1, "q", qos: qos)
        _ = h.settle()
        return h
    }

    @Test func awayMessagesAreKeptInOrderAndWithinBounds() {
        let h = durable(.atLeastOnce) { $0.queuedMessagesMaximum = 3 }
        h.close(1)
        for id in UInt16(1)...5 { h.publish(0, "q", "\(id)", qos: .atLeastOnce, id: id) }
        h.publish(0, "q", "zero")
        #expect(h.settle().count == 5)
        #expect(h.broker.counters.dropped[.queueFull] == 2)
        #expect(h.broker.sessions.last?.queuedMessages == 3 && h.broker.sessions.last?.queuedBytes == 6)
        h.restart()
        let seen = h.open(1, "s", clean: false, expiry: 1_000, device: "d2")
        #expect(
            seen.dropFirst() == [
                delivered(1, "q", "1", qos: .atLeastOnce, id: 1), delivered(1, "q", "2", qos: .atLeastOnce, id: 2),
                delivered(1, "q", "3", qos: .atLeastOnce, id: 3),
            ])
        for id in UInt16(1)...3 { h.receive(1, .puback(Acknowledgement(packetID: id))) }
        _ = h.settle()
        #expect(h.store.sessions.values.first?.queue == [])
    }

    @Test func bytesAreBoundedToo() {
        let h = durable(.atLeastOnce) { $0.queuedBytesMaximum = 10 }
        h.close(1)
        for id in UInt16(1)...5 { h.publish(0, "q", "1234", qos: .atLeastOnce, id: id) }
        _ = h.settle()
        #expect(h.broker.counters.dropped[.queueFull] == 3)
    }

    @Test func unacknowledgedMessagesComeAgainWithTheirIDs() {
        let h = durable(.atLeastOnce)
        h.publish(0, "q", "1", qos: .atLeastOnce, id: 1)
        h.publish(0, "q", "2", qos: .atLeastOnce, id: 2)
        _ = h.settle()
        h.receive(1, .puback(Acknowledgement(packetID: 1)))
        h.receive(1, .puback(Acknowledgement(packetID: 77)))
        h.close(1)
        #expect(
            h.open(1, "s", clean: false, expiry: 1_000, device: "d2").last
                == delivered(1, "q", "2", qos: .atLeastOnce, id: 2, dup: true))
        _ = h.settle()
        h.restart()
        #expect(
            h.open(1, "s", clean: false, expiry: 1_000, device: "d2").dropFirst()
                == [delivered(1, "q", "2", qos: .atLeastOnce, id: 2, dup: true)])
    }

    @Test func theWindowOfTheClient() {
        let h = Harness()
        _ = h.open(0, "p")
        _ = h.open(1, "s", device: "d2", receiveMaximum: 2)
        h.subscribe(1, "q", qos: .atLeastOnce)
        _ = h.settle()
        for id in UInt16(1)...4 { h.publish(0, "q", "\(id)", qos: .atLeastOnce, id: id) }
        #expect(h.settle().filter { if case .deliver = $0 { true } else { false } }.count == 2)
        h.receive(1, .puback(Acknowledgement(packetID: 2)))
        #expect(h.settle() == [delivered(1, "q", "3", qos: .atLeastOnce, id: 3)])
        h.receive(1, .puback(Acknowledgement(packetID: 1)))
        #expect(h.settle() == [delivered(1, "q", "4", qos: .atLeastOnce, id: 4)])
    }

    @Test func exactlyOnceToAStoredSession() {
        let h = durable(.exactlyOnce)
        h.publish(0, "q", "1", qos: .exactlyOnce, id: 1)
        // The id is committed with the message, so it goes out at once.
        #expect(h.settle() == [.ack(0, .pubrec, 1), delivered(1, "q", "1", qos: .exactlyOnce, id: 1)])
        h.receive(1, .pubrec(Acknowledgement(packetID: 1)))
        #expect(h.drain() == [])
        #expect(h.settle() == [.send(1, .pubrel(Acknowledgement(packetID: 1)))])
        #expect(h.store.sessions.values.first?.queue.first?.stage == .released)
        h.receive(1, .pubrec(Acknowledgement(packetID: 1)))
        #expect(h.settle() == [.send(1, .pubrel(Acknowledgement(packetID: 1)))])
        h.restart()
        #expect(
            h.open(1, "s", clean: false, expiry: 1_000, device: "d2").last
                == .send(1, .pubrel(Acknowledgement(packetID: 1))))
        h.receive(1, .pubcomp(Acknowledgement(packetID: 1)))
        _ = h.settle()
        #expect(h.store.sessions.values.first?.queue == [])
    }

    @Test func anIDGivenLaterIsCommittedBeforeTheFirstSend() {
        let h = durable(.exactlyOnce)
        h.close(1)
        h.publish(0, "q", "1", qos: .exactlyOnce, id: 1, expiry: 50)
        _ = h.settle()
        h.connect(
            1, Connect(version: .v5, clientID: "s", cleanStart: false, sessionExpiryInterval: 1_000), device: "d2")
        h.commit()
        #expect(h.drain().count == 1)
        #expect(h.store.sessions.values.first?.queue.first?.packetID == 0)
        h.commit()
        #expect(h.drain() == [delivered(1, "q", "1", qos: .exactlyOnce, id: 1)])
        #expect(h.store.sessions.values.first?.queue.first?.packetID == 1)
    }

    @Test func exactlyOnceToASessionThatEnds() {
        let h = Harness()
        _ = h.open(0, "p")
        _ = h.open(1, "s", device: "d2")
        _ = h.open(2, "old", .v311, device: "d2")
        h.subscribe(1, "q", qos: .exactlyOnce)
        _ = h.settle()
        h.publish(0, "q", "1", qos: .exactlyOnce, id: 1)
        _ = h.settle()
        h.receive(1, .pubrec(Acknowledgement(packetID: 1)))
        #expect(h.drain() == [.send(1, .pubrel(Acknowledgement(packetID: 1)))])
        h.receive(1, .pubcomp(Acknowledgement(packetID: 1)))
        #expect(h.broker.sessions[1].queuedMessages == 0)
        h.receive(1, .pubrec(Acknowledgement(packetID: 1)))
        h.receive(2, .pubrec(Acknowledgement(packetID: 1)))
        h.receive(2, .pubrec(Acknowledgement(packetID: 1, reason: .unspecifiedError)))
        #expect(
            h.drain() == [
                .send(1, .pubrel(Acknowledgement(packetID: 1, reason: .packetIdentifierNotFound))),
                .send(2, .pubrel(Acknowledgement(packetID: 1))),
            ])
        h.publish(0, "q", "2", qos: .exactlyOnce, id: 2)
        _ = h.settle()
        h.receive(1, .pubcomp(Acknowledgement(packetID: 2)))
        h.receive(1, .puback(Acknowledgement(packetID: 2)))
        #expect(h.broker.sessions[1].queuedMessages == 1)
        h.receive(1, .pubrec(Acknowledgement(packetID: 2, reason: .quotaExceeded)))
        #expect(h.broker.sessions[1].queuedMessages == 0)
        #expect(h.store.sessions.isEmpty)
    }

    @Test func expiredAndOversizedMessagesAreNotSent() {
        let h = durable(.exactlyOnce)
        h.close(1)
        h.publish(0, "q", "old", qos: .atLeastOnce, id: 1, expiry: 5)
        h.publish(0, "q", String(repeating: "x", count: 100), qos: .atLeastOnce, id: 2)
        h.publish(0, "q", "good", qos: .atLeastOnce, id: 3, expiry: 500)
        _ = h.settle()
        h.advance(seconds: 6)
        let seen = h.open(1, "s", clean: false, expiry: 1_000, device: "d2", maximumPacketSize: 50)
        #expect(seen.last == delivered(1, "q", "good", qos: .atLeastOnce, id: 1))
        #expect(h.broker.counters.dropped[.expired] == 1 && h.broker.counters.dropped[.tooLarge] == 1)
        #expect(h.store.sessions.values.first?.queue.count == 1)
        // In flight at arrival, too large, and at QoS 0.
        h.publish(0, "q", String(repeating: "x", count: 100), qos: .atLeastOnce, id: 4)
        h.publish(0, "q", String(repeating: "x", count: 100))
        h.publish(0, "up/z", "1")
        #expect(h.settle() == [.ack(0, .puback, 4)])
        #expect(h.broker.counters.dropped[.tooLarge] == 3)
        h.publish(0, "q", "late", expiry: 0)
        #expect(h.settle() == [])
        #expect(h.broker.counters.dropped[.expired] == 2)
    }

    @Test func theSizeOfAPacketIsExact() {
        // 1 + 1 + (2 + 1) topic + 2 id + (1 + 5 expiry + 3 identifier) properties + 4 payload
        let message = RoutedMessage(
            topic: ByteBuffer(string: "q"), payload: ByteBuffer(string: "1234"), applicationProperties: ByteBuffer(),
            expiresAt: 1)
        let delivery = Delivery(
            message: message, qos: .atLeastOnce, packetID: 1, retain: false, duplicate: false,
            subscriptionIdentifiers: [200])
        #expect(delivery.packetSize(.v5) == 20)
        #expect(delivery.packetSize(.v311) == 11)
    }

    @Test func aSlowReader() {
        let h = durable(.atLeastOnce)
        h.broker.writabilityChanged(h.id(1), isWritable: false, now: h.now, into: &h.output)
        h.publish(0, "q", "0")
        h.publish(0, "q", "1", qos: .atLeastOnce, id: 1)
        #expect(h.settle() == [.ack(0, .puback, 1)])
        #expect(h.broker.counters.dropped[.slowReader] == 1)
        h.broker.writabilityChanged(h.id(1), isWritable: true, now: h.now, into: &h.output)
        #expect(h.settle() == [delivered(1, "q", "1", qos: .atLeastOnce, id: 1)])
    }

    @Test func aSessionThatEndsBeforeTheCommit() {
        let h = durable(.atLeastOnce)
        h.publish(0, "q", "1", qos: .atLeastOnce, id: 1)
        h.connect(2, Connect(version: .v5, clientID: "s", cleanStart: true), device: "d2")
        _ = h.drain()
        #expect(h.settle().filter { if case .deliver = $0 { true } else { false } } == [])
        #expect(h.store.sessions.isEmpty)
        #expect(h.broker.counters.dropped[.sessionEnded] == 1)
    }
}
