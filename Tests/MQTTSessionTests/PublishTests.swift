import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import MQTTSession

@Suite struct PublishTests {
    @Test(arguments: [ProtocolVersion.v311, .v5])
    func acknowledgementsLeaveAfterTheCommit(version: ProtocolVersion) {
        let h = Harness()
        _ = h.open(0, "c", version)
        h.publish(0, "up/a", "1", qos: .atLeastOnce, id: 1)
        h.publish(0, "up/a", "2", qos: .exactlyOnce, id: 2)
        h.publish(0, "up/a", "3")
        h.publish(0, "elsewhere", "4", qos: .atLeastOnce, id: 4, retain: true, dup: true)
        #expect(h.drain() == [])
        #expect(h.settle() == [.ack(0, .puback, 1), .ack(0, .pubrec, 2), .ack(0, .puback, 4)])
        #expect(
            h.store.synced == [
                Synced(topic: "up/a", payload: "1", flags: 1), Synced(topic: "up/a", payload: "2", flags: 2),
                Synced(topic: "up/a", payload: "3", flags: 0),
            ])
        #expect(h.broker.counters.synced == 3 && h.broker.counters.received == [1, 2, 1])
    }

    @Test func acknowledgementsOfADeadConnectionGoNowhere() {
        let h = Harness()
        _ = h.open(0, "c")
        h.publish(0, "up/a", qos: .atLeastOnce, id: 1)
        h.publish(0, "up/a", qos: .exactlyOnce, id: 2)
        h.receive(0, .pubrel(Acknowledgement(packetID: 2)))
        h.close(0)
        h.connect(0, Connect(version: .v5, clientID: "c", keepAlive: 60))
        _ = h.drain()
        #expect(h.settle() == [])
        #expect(h.store.synced.count == 2)
    }

    @Test(arguments: [ProtocolVersion.v311, .v5], [false, true])
    func aRepeatedIDIsNoNewMessage(version: ProtocolVersion, stored: Bool) {
        let h = Harness()
        _ = h.open(0, "c", version, clean: !stored, expiry: stored ? 100 : 0)
        h.publish(0, "up/a", "1", qos: .exactlyOnce, id: 7)
        h.publish(0, "up/a", "1", qos: .exactlyOnce, id: 7, dup: true)
        #expect(h.settle() == [.ack(0, .pubrec, 7), .ack(0, .pubrec, 7)])
        #expect(h.store.synced.count == 1 && h.broker.counters.repeated == 1)
        h.receive(0, .pubrel(Acknowledgement(packetID: 7)))
        if stored {
            #expect(h.drain() == [])
            #expect(h.settle() == [.ack(0, .pubcomp, 7)])
        } else {
            #expect(h.settle() == [.send(0, .pubcomp(Acknowledgement(packetID: 7)))])
        }
        h.publish(0, "up/a", "2", qos: .exactlyOnce, id: 7)
        #expect(h.settle() == [.ack(0, .pubrec, 7)])
        #expect(h.store.synced.count == 2)
    }

    @Test(arguments: [ProtocolVersion.v311, .v5])
    func receivedIDsOutliveARestart(version: ProtocolVersion) {
        let h = Harness()
        _ = h.open(0, "c", version, clean: false, expiry: 100)
        h.publish(0, "up/a", "1", qos: .exactlyOnce, id: 7)
        _ = h.settle()
        h.restart()
        _ = h.open(0, "c", version, clean: false, expiry: 100)
        h.publish(0, "up/a", "1", qos: .exactlyOnce, id: 7, dup: true)
        #expect(h.settle() == [.ack(0, .pubrec, 7)])
        #expect(h.store.synced.count == 1)
        h.receive(0, .pubrel(Acknowledgement(packetID: 7)))
        #expect(h.settle() == [.ack(0, .pubcomp, 7)])
        #expect(h.store.sessions.values.first?.receivedPacketIDs == [])
        h.receive(0, .pubrel(Acknowledgement(packetID: 7)))
        #expect(h.drain() == [])
        let expected: Seen =
            version == .v5
            ? .send(0, .pubcomp(Acknowledgement(packetID: 7, reason: .packetIdentifierNotFound)))
            : .ack(0, .pubcomp, 7)
        #expect(h.settle() == [expected])
    }

    @Test func pubcompOfAnEarlierConnectionsDeletionWaitsForItsCommit() {
        let h = Harness()
        _ = h.open(0, "c", expiry: 100)
        h.publish(0, "up/a", "1", qos: .exactlyOnce, id: 7)
        _ = h.settle()
        h.receive(0, .pubrel(Acknowledgement(packetID: 7)))
        h.close(0)
        h.connect(1, Connect(version: .v5, clientID: "c", cleanStart: false, sessionExpiryInterval: 100))
        h.receive(1, .pubrel(Acknowledgement(packetID: 7)))
        #expect(h.drain() == [])
        #expect(h.settle().last == .send(1, .pubcomp(Acknowledgement(packetID: 7, reason: .packetIdentifierNotFound))))
    }

    @Test func aNegativeAcknowledgementDoesNotOvertake() {
        let h = Harness { $0.access = [AccessRule(verdict: .allow, action: .publish, topic: "up/#")] }
        _ = h.open(0, "c")
        let refused = Acknowledgement(packetID: 2, reason: .notAuthorized)
        h.publish(0, "no", qos: .atLeastOnce, id: 2)
        #expect(h.drain() == [.send(0, .puback(refused))])
        h.publish(0, "up/a", qos: .atLeastOnce, id: 1)
        h.publish(0, "no", qos: .exactlyOnce, id: 2)
        h.publish(0, "up/a", qos: .atLeastOnce, id: 3)
        #expect(h.drain() == [])
        #expect(h.settle() == [.ack(0, .puback, 1), .send(0, .pubrec(refused)), .ack(0, .puback, 3)])
        #expect(h.broker.counters.refused[.notAuthorized] == 2)
    }

    @Test func notAuthorisedInVersion311EndsTheConnection() {
        let h = Harness { $0.access = [] }
        _ = h.open(0, "c", .v311)
        h.publish(0, "no")
        #expect(h.settle() == [])
        #expect(h.broker.counters.refusedSilently == 1)
        h.publish(0, "no", qos: .atLeastOnce, id: 1)
        #expect(h.settle() == [.close(0, .notAuthorized)])
    }

    @Test func topicsThatAreNone() {
        for topic in ["a/+", "#", "a\0", String(repeating: "a/", count: 16)] {
            let h = Harness()
            _ = h.open(0, "c")
            h.publish(0, topic)
            #expect(
                h.settle() == [.send(0, .disconnect(Disconnect(reason: .topicNameInvalid))), .close(0, .topicInvalid)])
        }
        let h = Harness()
        _ = h.open(0, "c")
        h.publish(0, "")
        #expect(h.settle().last == .close(0, .protocolError))
    }

    @Test func reservedTopicsAreNeverSynced() {
        let h = Harness {
            $0.uplinkFilters = ["#", "$x/#"]
            $0.access.append(AccessRule(verdict: .allow, action: .all, topic: "$x/#"))
        }
        _ = h.open(0, "c")
        h.publish(0, "$x/y", qos: .atLeastOnce, id: 1)
        h.publish(0, "a", qos: .atLeastOnce, id: 2)
        #expect(h.settle() == [.ack(0, .puback, 1), .ack(0, .puback, 2)])
        #expect(h.store.synced.map(\.topic) == ["a"])
    }

    @Test func topicAliases() {
        let h = Harness()
        _ = h.open(0, "c")
        h.publish(0, "up/a", "1", alias: 1)
        h.publish(0, "", "2", alias: 1)
        h.publish(0, "up/b", "3", alias: 1)
        h.publish(0, "", "4", alias: 1)
        _ = h.settle()
        #expect(h.store.synced.map { "\($0.topic) \($0.payload)" } == ["up/a 1", "up/a 2", "up/b 3", "up/b 4"])
        h.publish(0, "", alias: 2)
        #expect(h.settle().last == .close(0, .topicAliasInvalid))
        _ = h.open(0, "c")
        h.publish(0, "a", alias: 17)
        #expect(
            h.settle() == [
                .send(0, .disconnect(Disconnect(reason: .topicAliasInvalid))), .close(0, .topicAliasInvalid),
            ])
    }

    @Test func aClientMayNotSendSubscriptionIdentifiers() {
        let h = Harness()
        _ = h.open(0, "c")
        h.receive(
            0, .publish(Publish(topic: ByteBuffer(string: "a"), payload: ByteBuffer(), subscriptionIdentifiers: [1])))
        #expect(h.settle().last == .close(0, .protocolError))
    }

    @Test func theReceiveMaximumCountsWhatHasNoAnswer() {
        let h = Harness { $0.receiveMaximum = 2 }
        _ = h.open(0, "c")
        for id in UInt16(1)...10 {
            h.publish(0, "up/a", qos: id % 2 == 0 ? .exactlyOnce : .atLeastOnce, id: id)
            guard id % 2 == 0 else { continue }
            _ = h.settle()
            // The client frees its place with PUBREL.
            h.receive(0, .pubrel(Acknowledgement(packetID: id)))
        }
        _ = h.settle()
        h.publish(0, "up/a", qos: .exactlyOnce, id: 11)
        h.publish(0, "up/a", qos: .exactlyOnce, id: 12)
        h.publish(0, "up/a", qos: .exactlyOnce, id: 13)
        // What follows is too late.
        h.publish(0, "up/a", qos: .exactlyOnce, id: 14)
        h.receive(0, .pubrel(Acknowledgement(packetID: 11)))
        h.receive(0, .pingreq)
        #expect(h.drain() == [])
        // It is told first what was taken: so each connection brings it further.
        #expect(
            h.settle() == [
                .ack(0, .pubrec, 11), .ack(0, .pubrec, 12),
                .send(0, .disconnect(Disconnect(reason: .receiveMaximumExceeded))), .close(0, .receiveMaximumExceeded),
            ])
        // An exchange that waits for PUBREL has its place, whether PUBREC has come or not; a repeat takes no second one.
        _ = h.open(0, "c")
        h.publish(0, "up/a", qos: .exactlyOnce, id: 1)
        _ = h.settle()
        h.publish(0, "up/a", qos: .exactlyOnce, id: 1, dup: true)
        _ = h.settle()
        h.publish(0, "up/a", qos: .exactlyOnce, id: 2)
        #expect(h.settle() == [.ack(0, .pubrec, 2)])
        h.publish(0, "up/a", qos: .exactlyOnce, id: 3)
        #expect(h.settle().last == .close(0, .receiveMaximumExceeded))
    }

    /// How long QoS 1 is unacknowledged is the server's doing: a long queue sent at once is taken, in both versions.
    @Test(arguments: [ProtocolVersion.v311, .v5]) func aLongQueueSentAtOnceIsTaken(version: ProtocolVersion) {
        let h = Harness { $0.receiveMaximum = 2 }
        _ = h.open(0, "c", version)
        for id in UInt16(1)...100 { h.publish(0, "up/a", qos: .atLeastOnce, id: id) }
        #expect(h.settle() == (1...100).map { .ack(0, .puback, $0) })
    }

    @Test func refusedMessagesFreeTheirPlace() {
        let h = Harness {
            $0.receiveMaximum = 2
            $0.access = [AccessRule(verdict: .allow, action: .publish, topic: "up/#")]
        }
        _ = h.open(0, "c")
        for id in UInt16(1)...20 {
            h.publish(0, "no", qos: .atLeastOnce, id: id)
            h.publish(0, "up/x", qos: .atLeastOnce, id: 100 + id)
            h.publish(0, "no", qos: .atLeastOnce, id: 200 + id)
            #expect(h.settle().count == 3)
        }
    }

    @Test func manyTopicsOfOneConnection() {
        let h = Harness()
        _ = h.open(0, "c")
        for round in 0..<3 {
            for topic in 0..<20 { h.publish(0, "up/\(topic)", "\(round)") }
        }
        _ = h.settle()
        #expect(h.store.synced.count == 60)
        #expect(h.store.synced[59] == Synced(topic: "up/19", payload: "2", flags: 0))
    }
}

@Suite struct LimitTests {
    private static func limited(_ over: OverLimit, burst: Int = 2) -> BrokerConfiguration {
        Harness.configuration {
            $0.defaultRate = RatePolicy(messagesPerSecond: 10, burst: burst, bytesPerSecond: nil, overLimit: over)
            $0.heldMessagesMaximum = 4
        }
    }

    @Test func version5IsRefused() {
        let h = Harness(Self.limited(.refuse))
        _ = h.open(0, "c")
        for id in UInt16(1)...4 { h.publish(0, "up/a", qos: id == 4 ? .exactlyOnce : .atLeastOnce, id: id) }
        let over = { Acknowledgement(packetID: $0, reason: .quotaExceeded) }
        #expect(
            h.settle() == [
                .ack(0, .puback, 1), .ack(0, .puback, 2), .send(0, .puback(over(3))), .send(0, .pubrec(over(4))),
            ])
        h.publish(0, "up/a")
        h.advance(seconds: 0.1)
        h.publish(0, "up/a", qos: .exactlyOnce, id: 4)
        #expect(h.settle() == [.ack(0, .pubrec, 4)])
        #expect(h.broker.counters.refused[.rate] == 3 && h.broker.counters.refusedSilently == 1)
        #expect(h.store.synced.count == 3)
    }

    @Test func version311IsNotAcknowledgedAndEndsWhenItPersists() {
        let h = Harness(Self.limited(.refuse))
        _ = h.open(0, "c", .v311)
        for id in UInt16(1)...4 { h.publish(0, "up/a", qos: .atLeastOnce, id: id) }
        #expect(h.settle() == [.ack(0, .puback, 1), .ack(0, .puback, 2)])
        h.publish(0, "up/a", qos: .atLeastOnce, id: 5)
        #expect(h.settle() == [.close(0, .rateTooHigh)])
        #expect(h.store.synced.count == 2)
    }

    @Test func version311DoesNotHangOnAMessageThatWasIgnored() {
        let h = Harness(Self.limited(.refuse))
        _ = h.open(0, "c", .v311)
        for id in UInt16(1)...3 { h.publish(0, "up/a", qos: .atLeastOnce, id: id) }
        _ = h.settle()
        h.advance(seconds: 9)
        #expect(h.settle() == [])
        h.advance(seconds: 1)
        #expect(h.settle() == [.close(0, .rateTooHigh)])
    }

    @Test(arguments: [ProtocolVersion.v311, .v5])
    func slowHoldsInOrderAndPausesBeyondTheWindow(version: ProtocolVersion) {
        let h = Harness(Self.limited(.slow))
        _ = h.open(0, "c", version)
        for id in UInt16(1)...5 { h.publish(0, "up/a", "\(id)", qos: .atLeastOnce, id: id) }
        h.receive(0, .pingreq)
        #expect(h.settle() == [.send(0, .pingresp), .ack(0, .puback, 1), .ack(0, .puback, 2)])
        #expect(h.broker.nextDeadline == h.time + 100_000)
        h.publish(0, "other", "6", qos: .exactlyOnce, id: 6)
        #expect(h.drain() == [.pause(0)])
        // Read before the pause took effect.
        h.publish(0, "up/a", "7")
        #expect(h.broker.connections[0].isPaused && h.broker.connections[0].heldMessages == 5)
        // The keep-alive clock stands still.
        h.broker.tick(now: Harness.time(h.time + 50_000), into: &h.output)
        #expect(h.settle() == [])
        h.advance(seconds: 0.1)
        #expect(h.settle() == [.ack(0, .puback, 3)])
        h.advance(seconds: 0.2)
        #expect(h.settle() == [.ack(0, .puback, 4), .ack(0, .puback, 5)])
        h.advance(seconds: 0.1)
        #expect(h.settle() == [.resume(0), .ack(0, .pubrec, 6)])
        h.advance(seconds: 0.1)
        #expect(h.settle() == [])
        #expect(h.store.synced.map(\.payload) == ["1", "2", "3", "4", "5", "7"])
        #expect(h.broker.nextDeadline == nil)
    }

    @Test func keepAliveStandsStillWhilePaused() {
        let h = Harness {
            $0.whenFull = .slow
            $0.heldMessagesMaximum = 1
        }
        _ = h.open(0, "c")
        h.broker.storage = .full
        h.publish(0, "up/a", qos: .atLeastOnce, id: 1)
        #expect(h.drain() == [.pause(0)])
        #expect(h.broker.nextDeadline == nil)
        h.advance(seconds: 1_000)
        #expect(h.settle() == [])
        h.broker.storage = .open
        h.advance(seconds: 0.25)
        #expect(h.settle() == [.resume(0), .ack(0, .puback, 1)])
        h.advance(seconds: 89)
        #expect(h.settle() == [])
        h.advance(seconds: 2)
        #expect(h.settle().last == .close(0, .keepAliveTimeout))
    }

    /// QoS 0 that was held when its client left is taken in debt; what is beyond the debt is counted.
    @Test(arguments: [true, false]) func whatIsHeldWhenTheClientLeavesIsTakenInDebt(isOrderly: Bool) {
        let h = Harness(Self.limited(.slow, burst: 4))
        let will = Will(topic: "up/will", payload: ByteBuffer(string: "w"))
        _ = h.open(0, "c", will: will)
        for index in 0..<12 { h.publish(0, "up/a", "\(index)") }
        h.publish(0, "up/a", qos: .atLeastOnce, id: 1)
        if isOrderly { h.receive(0, .disconnect(Disconnect())) } else { h.close(0) }
        _ = h.settle()
        // Four at once, four owed; QoS 1 is still the client's.
        #expect(h.store.synced.map(\.payload) == (0..<8).map { "\($0)" } + (isOrderly ? [] : ["w"]))
        #expect(h.broker.counters.refused[.rate] == 4 && h.broker.heldBytes == 0)
        // The next connection pays.
        _ = h.open(0, "c")
        h.publish(0, "up/a", "later")
        #expect(h.settle() == [] && h.broker.connections[0].heldMessages == 1)
    }

    @Test func whatIsHeldIsBounded() {
        let h = Harness {
            $0.defaultRate = RatePolicy(messagesPerSecond: 0.001, burst: 1, bytesPerSecond: nil, overLimit: .slow)
            $0.heldMessagesMaximum = 1
        }
        _ = h.open(0, "c")
        for _ in 0..<65 { h.publish(0, "up/a") }
        #expect(h.drain() == [.pause(0)])
        h.publish(0, "up/a")
        #expect(h.drain().last == .close(0, .rateTooHigh))
        #expect(h.broker.counters.refused[.heldFull] == 1)
        // One of them was taken in debt.
        #expect(h.broker.counters.refused[.rate] == 63)
    }

    @Test func aHeldMessageThatMayNotBeSentEndsTheConnection() {
        let h = Harness(Self.limited(.slow, burst: 1))
        _ = h.open(0, "c")
        h.publish(0, "up/a")
        h.publish(0, "up/a")
        h.publish(0, "a/+")
        h.advance(seconds: 0.1)
        #expect(h.settle().last == .close(0, .topicInvalid))
        h.advance(seconds: 0.1)
        #expect(h.broker.nextDeadline == nil)
    }

    @Test func bytesAndTheWholeAreLimitedToo() {
        let h = Harness {
            $0.defaultRate = RatePolicy(messagesPerSecond: nil, burst: 0, bytesPerSecond: 1_000, overLimit: .refuse)
            $0.maximumPacketSize = 2_000
            $0.globalMessagesPerSecond = 3
        }
        _ = h.open(0, "c")
        _ = h.open(1, "c", device: "d2")
        let payload = String(repeating: "x", count: 1_500)
        h.publish(0, "up/a", payload)
        h.publish(0, "up/a", payload)
        h.publish(0, "up/a", "small")
        h.publish(1, "up/a")
        h.publish(1, "up/a")
        #expect(h.broker.counters.refused[.rate] == 1 && h.broker.counters.refused[.globalRate] == 1)
        _ = h.settle()
        #expect(h.store.synced.count == 3)
    }

    @Test func groupsByTheirFirstPattern() {
        let h = Harness {
            $0.groups = [
                GroupPolicy(name: "fast", devices: ["nobody", "f-*"], rate: .unlimited),
                GroupPolicy(name: "slow", devices: ["*"], rate: RatePolicy(messagesPerSecond: 1, burst: 1)),
            ]
            $0.access = [
                AccessRule(verdict: .allow, action: .all, topic: "#", group: "fast"),
                AccessRule(verdict: .allow, action: .all, topic: "up/%d", group: "slow"),
            ]
        }
        _ = h.open(0, "c", device: "f-1")
        _ = h.open(1, "c", device: "s-1")
        for _ in 0..<10 { h.publish(0, "up/a") }
        for _ in 0..<10 { h.publish(1, "up/s-1") }
        h.publish(1, "up/f-1")
        _ = h.settle()
        #expect(h.store.synced.count == 11)
        #expect(h.broker.counters.refused[.notAuthorized] == 1)
        // New rules hold for those connected.
        var configuration = h.broker.configuration
        configuration.groups = []
        configuration.defaultRate = .unlimited
        configuration.access = [AccessRule(verdict: .allow, action: .all, topic: "#")]
        h.broker.reconfigure(configuration, now: h.now)
        for _ in 0..<10 { h.publish(1, "up/f-1") }
        _ = h.settle()
        #expect(h.store.synced.count == 21)
    }

    @Test func fullStorage() {
        let h = Harness()
        _ = h.open(0, "v5")
        _ = h.open(1, "sub", expiry: 100, device: "d2")
        h.subscribe(1, "q", qos: .atLeastOnce)
        _ = h.open(2, "old", .v311)
        _ = h.settle()
        h.broker.storage = .full
        h.publish(0, "up/a", qos: .atLeastOnce, id: 1)
        h.publish(0, "up/a")
        h.publish(0, "q", qos: .atLeastOnce, id: 2)
        h.publish(0, "plain", qos: .atLeastOnce, id: 3, retain: true)
        let over = { Acknowledgement(packetID: $0, reason: .quotaExceeded) }
        #expect(h.drain() == (1...3).map { .send(0, .puback(over($0))) })
        h.publish(0, "plain", qos: .atLeastOnce, id: 4)
        h.publish(0, "q")
        #expect(h.settle() == [delivered(1, "q", "x"), .ack(0, .puback, 4)])
        h.publish(2, "up/a", qos: .atLeastOnce, id: 1)
        h.publish(2, "up/a", qos: .atLeastOnce, id: 2)
        #expect(h.settle() == [.close(2, .quotaExceeded)])
        #expect(h.broker.counters.refused[.storageFull] == 6)
        h.broker.storage = .open
        h.publish(0, "up/a", qos: .atLeastOnce, id: 1)
        #expect(h.settle() == [.ack(0, .puback, 1)])
    }

    @Test func tokensFromBoundToBound() {
        var bucket = RateBucket(rate: 10, capacity: 3, now: 0)
        func has(_ amount: Double, _ now: Int64) -> Bool { bucket.has(amount, now: now) }
        for _ in 0..<3 {
            #expect(has(1, 0))
            bucket.take(1)
        }
        #expect(!has(1, 99_999))
        #expect(bucket.readyAt(1, now: 99_999) <= 100_001)
        #expect(has(1, 100_000))
        // A clock that goes back gives nothing and takes nothing.
        #expect(has(1, 50_000))
        #expect(has(1_000, 10_000_000))
        bucket.change(rate: 0, capacity: 1, now: 10_000_000)
        bucket.take(1)
        #expect(bucket.readyAt(1, now: 10_000_000) == .max)
        bucket.change(rate: nil, capacity: 1, now: 10_000_000)
        #expect(has(1e9, 0) && bucket.readyAt(1, now: 5) == 5)
    }
}
