import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import MQTTSession

/// The writer has fallen behind and the open group is at its bound: what happens to what still comes?
@Suite struct SaturationTests {
    /// A group of three entries is over its bound; nothing is committed unless the test does it.
    private static func small(_ change: (inout BrokerConfiguration) -> Void = { _ in }) -> Harness {
        Harness {
            $0.openGroupEntriesMaximum = 2
            $0.heldMessagesMaximum = 8
            change(&$0)
        }
    }

    /// The writer takes the open group; what it had before is committed.
    private func takeAndCommit(_ h: Harness) {
        var group = h.output.group
        h.output.group = CommitGroup()
        h.broker.groupTaken(now: h.now, into: &h.output)
        h.store.apply(&group)
        h.broker.committed(group.effects, now: h.now, into: &h.output)
    }

    @Test(arguments: [ProtocolVersion.v311, .v5])
    func messagesWaitInOrderAndPingsAreAnswered(version: ProtocolVersion) {
        let h = Self.small()
        _ = h.open(0, "c", version)
        for id in UInt16(1)...8 { h.publish(0, "up/a", "\(id)", qos: .atLeastOnce, id: id) }
        h.receive(0, .pingreq)
        #expect(h.drain() == [.send(0, .pingresp)])
        #expect(h.output.group.effects.count == 3 && h.broker.connections[0].heldMessages == 5)
        // A tick changes nothing as long as the group stays where it is.
        h.advance(seconds: 0.05)
        #expect(h.drain() == [] && h.output.group.effects.count == 3)
        takeAndCommit(h)
        #expect(h.drain() == (1...3).map { .ack(0, .puback, $0) })
        takeAndCommit(h)
        #expect(h.drain() == (4...6).map { .ack(0, .puback, $0) })
        takeAndCommit(h)
        #expect(h.drain() == (7...8).map { .ack(0, .puback, $0) })
        #expect(h.store.synced.map(\.payload) == (1...8).map { "\($0)" })
        #expect(h.broker.heldBytes == 0)
    }

    @Test func onlyBeyondTheWindowIsTheSocketNotRead() {
        let h = Self.small()
        _ = h.open(0, "c")
        for id in UInt16(1)...10 { h.publish(0, "up/a", qos: .atLeastOnce, id: id) }
        #expect(h.drain() == [])
        h.publish(0, "up/a", qos: .atLeastOnce, id: 11)
        #expect(h.drain() == [.pause(0)])
        // No keep-alive runs while this side does not read.
        h.advance(seconds: 1_000)
        #expect(h.drain() == [])
        takeAndCommit(h)
        takeAndCommit(h)
        #expect(h.drain().filter { $0 == .resume(0) }.count == 1)
        takeAndCommit(h)
        takeAndCommit(h)
        #expect(h.drain().last == .ack(0, .puback, 11))
    }

    /// A window of 8 exchanges, of two entries each.
    @Test func whoDoesNotPublishIsBoundedToo() {
        let h = Self.small()
        h.open(0, "c", clean: false, expiry: 600)
        h.open(1, "other", clean: false, expiry: 600, device: "d2")
        for _ in 0..<2 { h.subscribe(0, "a") }
        #expect(h.output.group.entryCount == 4 && h.drain() == [])
        for _ in 0..<6 { h.subscribe(0, "a") }
        #expect(h.drain() == [])
        for _ in 0..<3 { h.subscribe(0, "a") }
        #expect(h.drain() == [.pause(0)])
        // The others have a window each; what needs no commit counts for nothing.
        h.subscribe(1, "a")
        for _ in 0..<100 { h.receive(1, .pingreq) }
        #expect(h.drain() == Array(repeating: .send(1, .pingresp), count: 100))
        // No keep-alive runs while this side does not read.
        h.advance(seconds: 1_000)
        #expect(!h.drain().contains(.pause(0)) && h.broker.connections.contains { $0.isPaused })
        takeAndCommit(h)
        #expect(h.drain().first == .resume(0))
        for _ in 0..<100 {
            h.subscribe(0, "a")
            takeAndCommit(h)
        }
        #expect(!h.drain().contains(.pause(0)))
    }

    /// Each stands once in the list of those who wait, whatever it waits for.
    @Test func whoIsPausedAndThenHoldsAMessageIsServedInOrder() {
        let h = Self.small()
        h.open(0, "c", clean: false, expiry: 600)
        for round in UInt16(0)..<50 {
            for _ in 0..<12 { h.subscribe(0, "a") }
            for id in UInt16(1)...8 { h.publish(0, "up/a", "\(round)", qos: .atLeastOnce, id: id) }
            #expect(h.drain().contains(.pause(0)))
            var seen: [Seen] = []
            while !h.output.group.isEmpty {
                takeAndCommit(h)
                seen += h.drain()
            }
            #expect(seen.compactMap { if case .ack(_, .puback, let id) = $0 { Int(id) } else { nil } } == Array(1...8))
            #expect(seen.count { $0 == .resume(0) } == 1)
            #expect(h.broker.waitingForRoom.isEmpty)
        }
    }

    @Test func whatNeedsNoCommitGoesOn() {
        let h = Self.small()
        _ = h.open(0, "busy")
        _ = h.open(1, "local", device: "d2")
        _ = h.open(2, "reader", device: "d3")
        h.subscribe(2, "plain/#")
        _ = h.settle()
        for id in UInt16(1)...4 { h.publish(0, "up/a", qos: .atLeastOnce, id: id) }
        h.publish(1, "plain/a", "1")
        #expect(h.drain() == [delivered(2, "plain/a", "1")])
        // Behind a message that waits, nothing of the same client overtakes.
        h.publish(0, "plain/a", "2")
        #expect(h.drain() == [])
        takeAndCommit(h)
        #expect(h.settle().contains(delivered(2, "plain/a", "2")))
    }

    @Test func repeatedQoS2MessagesWaitAsWell() {
        let h = Self.small()
        _ = h.open(0, "c")
        h.publish(0, "up/a", qos: .exactlyOnce, id: 1)
        for _ in 0..<6 { h.publish(0, "up/a", qos: .exactlyOnce, id: 1, dup: true) }
        #expect(h.output.group.effects.count == 3)
        while !h.output.group.isEmpty { takeAndCommit(h) }
        #expect(h.drain() == Array(repeating: .ack(0, .pubrec, 1), count: 7))
        #expect(h.store.synced.count == 1)
    }

    @Test func roomIsGivenInTurn() {
        let h = Self.small()
        for slot in UInt32(0)..<4 { _ = h.open(slot, "c\(slot)", device: "d\(slot)") }
        for id in UInt16(1)...3 { h.publish(0, "up/a", qos: .atLeastOnce, id: id) }
        for slot in UInt32(0)..<4 {
            for id in UInt16(11)...13 { h.publish(slot, "up/a", qos: .atLeastOnce, id: id) }
        }
        var served: [UInt32] = []
        while !h.output.group.isEmpty {
            takeAndCommit(h)
            for case .ack(let slot, _, let id) in h.drain() where id == 11 { served.append(slot) }
        }
        #expect(served == [0, 1, 2, 3])
    }

    /// Each waits once, whatever the number of those who wait: looking at all of them at each hand-over took minutes.
    @Test func theWorkDoesNotGrowWithThoseWhoWait() {
        let count = 5_000
        let h = Self.small { $0.openGroupEntriesMaximum = 9 }
        for slot in 0..<UInt32(count) {
            h.connect(slot, Connect(version: .v5, clientID: "c\(slot)", keepAlive: 0), device: "d\(slot)")
        }
        _ = h.settle()
        for slot in 0..<UInt32(count) { h.publish(slot, "up/a", qos: .atLeastOnce, id: 1) }
        let started = ContinuousClock.now
        var acknowledged = 0
        while !h.output.group.isEmpty {
            takeAndCommit(h)
            for case .ack in h.drain() { acknowledged += 1 }
        }
        #expect(acknowledged == count)
        #expect(ContinuousClock.now - started < .seconds(20))
    }

    @Test func whatWaitsIsBoundedInBytes() {
        let h = Self.small {
            $0.heldMessagesMaximum = 100
            $0.heldBytesMaximum = 10_000
            $0.allHeldBytesMaximum = 15_000
        }
        for slot in UInt32(0)..<4 { _ = h.open(slot, "c\(slot)", device: "d\(slot)") }
        for id in UInt16(1)...3 { h.publish(0, "up/a", qos: .atLeastOnce, id: id) }
        let large = String(repeating: "x", count: 4_000)
        for id in UInt16(1)...2 { h.publish(1, "up/a", large, qos: .atLeastOnce, id: id) }
        #expect(h.drain() == [])
        h.publish(1, "up/a", large, qos: .atLeastOnce, id: 3)
        #expect(h.drain() == [.pause(1)])
        // All together: now one message is enough.
        h.publish(2, "up/a", large, qos: .atLeastOnce, id: 1)
        h.publish(3, "up/a", qos: .atLeastOnce, id: 1)
        #expect(h.drain() == [.pause(2), .pause(3)])
        h.close(1)
        h.close(2)
        while !h.output.group.isEmpty { takeAndCommit(h) }
        let seen = h.drain()
        #expect(seen.contains(.resume(3)) && seen.contains(.ack(3, .puback, 1)))
        #expect(h.broker.heldBytes == 0)
    }

    @Test func messagesThatOnlyWaitToBeRoutedCountToo() {
        let h = Harness { $0.openGroupBytesMaximum = 10_000 }
        _ = h.open(0, "c")
        let large = String(repeating: "x", count: 6_000)
        for id in UInt16(1)...3 { h.publish(0, "plain/\(id)", large, qos: .atLeastOnce, id: id, retain: true) }
        #expect(h.output.group.frames.isEmpty && h.output.group.byteCount > 10_000)
        #expect(h.broker.connections[0].heldMessages == 1)
        takeAndCommit(h)
        #expect(h.settle() == (1...3).map { .ack(0, .puback, $0) })
    }

    @Test func aHeldMessageDoesNotKeepTheBufferItWasReadIn() {
        let h = Self.small()
        _ = h.open(0, "c")
        for id in UInt16(1)...3 { h.publish(0, "up/a", qos: .atLeastOnce, id: id) }
        var read = ByteBuffer(repeating: 0, count: 1 << 20)
        let payload = read.readSlice(length: 1_000)!
        h.broker.publish(
            Publish(topic: ByteBuffer(string: "up/a"), payload: payload, packetID: 4, qos: .atLeastOnce),
            on: h.id(0), now: h.now, into: &h.output)
        #expect(h.broker.connections[0].heldMessages == 1)
        #expect((1_000...2_000).contains(h.broker.heldBytes))
    }
}

/// The event loop is late: who gets in, and who stays?
@Suite struct OverloadTests {
    @Test(arguments: [ProtocolVersion.v311, .v5])
    func newClientsAreToldAndEstablishedOnesGoOn(version: ProtocolVersion) {
        let h = Harness { $0.disclosesReasons = false }
        _ = h.open(0, "here", version)
        h.broker.isOverloaded = true
        h.connect(1, Connect(version: version, clientID: "late", cleanStart: true, keepAlive: 60), device: "d2")
        #expect(h.drain() == [.send(1, .connack(ConnAck(reason: .serverBusy))), .close(1, .serverBusy)])
        #expect(h.broker.counters.connectionsRefused == 1)
        h.publish(0, "up/a", qos: .atLeastOnce, id: 1)
        #expect(h.settle() == [.ack(0, .puback, 1)])
        // Not even by its own client is a session taken over: the old connection may be the better one.
        h.connect(2, Connect(version: version, clientID: "here", cleanStart: true, keepAlive: 60))
        #expect(h.drain() == [.send(2, .connack(ConnAck(reason: .serverBusy))), .close(2, .serverBusy)])
        h.broker.isOverloaded = false
        h.connect(3, Connect(version: version, clientID: "late", cleanStart: true, keepAlive: 60), device: "d2")
        guard case .send(3, .connack(let answer))? = h.settle().first else {
            Issue.record("no CONNACK came")
            return
        }
        #expect(answer.reason == .success)
    }

    @Test func whatIsInFlightToOneClientIsBoundedInBytes() {
        let h = Harness { $0.inflightBytesMaximum = 2_500 }
        _ = h.open(0, "writer")
        _ = h.open(1, "reader", device: "d2")
        h.subscribe(1, "plain/#", qos: .exactlyOnce)
        _ = h.settle()
        for id in UInt16(1)...6 {
            let payload = String(repeating: "\(id)", count: 1_000)
            h.publish(0, "plain/a", payload, qos: id == 1 ? .exactlyOnce : .atLeastOnce, id: id)
        }
        func sent() -> [UInt16] {
            h.settle().compactMap { if case .deliver(1, _, _, _, let id, _, _, _) = $0 { id } else { nil } }
        }
        #expect(sent() == [1, 2, 3])
        h.receive(1, .pubrec(Acknowledgement(packetID: 1)))
        h.receive(1, .puback(Acknowledgement(packetID: 2)))
        #expect(sent() == [4, 5])
        h.receive(1, .pubcomp(Acknowledgement(packetID: 1)))
        #expect(sent() == [])
        for id in UInt16(3)...6 {
            h.receive(1, .puback(Acknowledgement(packetID: id)))
            if id == 3 { #expect(sent() == [6]) }
        }
        #expect(h.broker.sessions.first { $0.clientID == "reader" }?.queuedMessages == 0)
    }

    @Test func aGroupsDeliveriesComeInParts() {
        let h = Harness()
        _ = h.open(0, "writer")
        _ = h.open(1, "reader", device: "d2")
        h.subscribe(1, "up/#")
        _ = h.settle()
        let payload = String(repeating: "x", count: 100_000)
        for id in UInt16(1)...9 { h.publish(0, "up/a", payload, qos: .atLeastOnce, id: id) }
        let effects = h.output.group.effects
        h.output.group = CommitGroup()
        var next = 0
        var parts: [Int] = []
        while next < effects.count {
            next = h.broker.committed(effects, from: next, now: h.now, into: &h.output)
            parts.append(h.drain().count { if case .deliver = $0 { true } else { false } })
            h.output.deliveredBytes = 0
            // The driver has written the first part, and the socket takes no more.
            if parts.count == 1 { h.broker.writabilityChanged(h.id(1), isWritable: false, now: h.now, into: &h.output) }
        }
        #expect(parts == [3, 0])
        #expect(h.broker.counters.dropped[.slowReader] == 6)
    }
}
