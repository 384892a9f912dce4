import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import MQTTSession

@Suite struct ConnectTests {
    private func reason(_ seen: [Seen]) -> ReasonCode? {
        for case .send(_, .connack(let ack)) in seen { return ack.reason }
        return nil
    }

    private func connack(_ seen: [Seen]) -> ConnAck? {
        for case .send(_, .connack(let ack)) in seen { return ack }
        return nil
    }

    @Test func version5IsToldTheServersLimits() throws {
        let h = Harness()
        h.connect(0, Connect(version: .v5, clientID: "", keepAlive: 0, sessionExpiryInterval: .max))
        let ack = try #require(connack(h.settle()))
        #expect(ack.reason == .success && !ack.sessionPresent)
        #expect(ack.assignedClientID == "assigned-1")
        #expect(ack.serverKeepAlive == 300)
        #expect(ack.sessionExpiryInterval == 604_800)
        #expect(ack.receiveMaximum == 32 && ack.maximumPacketSize == 256 * 1024 && ack.topicAliasMaximum == 16)
        #expect(ack.sharedSubscriptionAvailable == true && ack.wildcardSubscriptionAvailable == true)
        #expect(ack.subscriptionIdentifiersAvailable == true && ack.retainAvailable == true)
    }

    @Test func version311IsToldNothing() {
        let h = Harness()
        #expect(h.open(0, "c", .v311) == [.send(0, .connack(ConnAck(reason: .success)))])
    }

    @Test func aSessionThatEndsWithItsConnectionStatesNothingDurable() {
        let h = Harness()
        h.connect(0, Connect(version: .v5, clientID: "c", keepAlive: 60))
        #expect(h.output.group.isEmpty)
        #expect(reason(h.drain()) == .success)
        h.close(0)
        #expect(h.output.group.isEmpty)
        #expect(h.broker.sessions.isEmpty && h.broker.connections.isEmpty)
    }

    @Test func theConnackOfAStoredSessionWaitsForItsCommit() throws {
        let h = Harness()
        h.connect(0, Connect(version: .v5, clientID: "c", keepAlive: 60, sessionExpiryInterval: 100))
        h.receive(0, .pingreq)
        #expect(h.drain() == [])
        let seen = h.settle()
        #expect(reason(seen) == .success)
        #expect(seen.last == .send(0, .pingresp))
        #expect(h.store.sessions.count == 1)
    }

    @Test(arguments: [ProtocolVersion.v311, .v5])
    func aStoredSessionIsFoundAgain(version: ProtocolVersion) throws {
        let h = Harness()
        _ = h.open(0, "c", version, clean: false, expiry: version == .v311 ? .max : 100)
        h.close(0)
        _ = h.settle()
        #expect(h.store.sessions.values.first?.disconnectedAt == h.now.gateway)
        #expect(try #require(connack(h.open(0, "c", version, clean: false, expiry: 100))).sessionPresent)
        #expect(h.store.sessions.values.first?.disconnectedAt == .some(nil))
        h.restart()
        #expect(try #require(connack(h.open(0, "c", version, clean: false, expiry: 100))).sessionPresent)
        #expect(try #require(connack(h.open(1, "c", version, clean: true, expiry: 0))).sessionPresent == false)
        #expect(h.store.sessions.isEmpty)
    }

    @Test func whatIsRefusedAndHow() {
        let h = Harness {
            $0.maximumDevices = 3
            $0.sessionsPerDeviceMaximum = 1
        }
        func answer(_ h: Harness, _ packet: Connect, _ device: String? = "d1", local: Bool = false) -> [Seen] {
            h.connect(9, packet, device: device, isLocal: local)
            return h.settle()
        }
        var auth = Connect(version: .v5, clientID: "c")
        auth.authenticationMethod = "SCRAM"
        let refusals: [(Connect, String?, ReasonCode, CloseReason)] = [
            (auth, "d1", .badAuthenticationMethod, .authenticationMethod),
            (
                Connect(version: .v311, clientID: "", cleanStart: false), "d1", .clientIdentifierNotValid,
                .clientIdentifierInvalid
            ),
            (
                Connect(version: .v5, clientID: String(repeating: "x", count: 129)), "d1", .clientIdentifierNotValid,
                .clientIdentifierInvalid
            ),
            (Connect(version: .v5, clientID: "c"), "a/b", .clientIdentifierNotValid, .clientIdentifierInvalid),
            // Ids that the sync protocol does not carry.
            (Connect(version: .v5, clientID: "c"), "a\u{7}b", .clientIdentifierNotValid, .clientIdentifierInvalid),
            (
                Connect(version: .v5, clientID: "c"), String(repeating: "d", count: 129), .clientIdentifierNotValid,
                .clientIdentifierInvalid
            ),
            (Connect(version: .v5, clientID: "c"), "a+", .clientIdentifierNotValid, .clientIdentifierInvalid),
            (Connect(version: .v5, clientID: "c"), "#", .clientIdentifierNotValid, .clientIdentifierInvalid),
            (Connect(version: .v5, clientID: "c"), "", .clientIdentifierNotValid, .clientIdentifierInvalid),
            (
                Connect(version: .v5, clientID: "c", will: Will(topic: "a/#", payload: ByteBuffer())), "d1",
                .topicNameInvalid, .topicInvalid
            ),
            (
                Connect(version: .v5, clientID: "c", will: Will(topic: "$SYS/x", payload: ByteBuffer())), "d1",
                .notAuthorized, .notAuthorized
            ),
        ]
        for (packet, device, code, close) in refusals {
            #expect(answer(h, packet, device) == [.send(9, .connack(ConnAck(reason: code))), .close(9, close)])
        }
        #expect(h.broker.counters.connectionsRefused == UInt64(refusals.count))
        #expect(reason(h.open(0, "c", expiry: 10)) == .success)
        #expect(reason(h.open(1, "other", expiry: 10)) == .quotaExceeded)
        #expect(reason(h.open(1, "other")) == .success)
        #expect(reason(h.open(2, "c", device: "d2")) == .success)
        #expect(reason(h.open(3, "c", device: "d3")) == .success)
        #expect(reason(h.open(4, "c", device: "d4")) == .quotaExceeded)
    }

    @Test func aPlaintextClientIsItsClientIDAndCannotPassForACertificate() {
        let h = Harness {
            $0.access = [AccessRule(verdict: .allow, action: .all, topic: "%d/#", group: "local")]
        }
        h.connect(0, Connect(version: .v5, clientID: "tool"), device: nil, isLocal: true)
        #expect(reason(h.settle()) == .success)
        #expect(h.broker.connections.first?.deviceID == "tool")
        h.publish(0, "tool/x", qos: .atLeastOnce, id: 1)
        #expect(h.settle() == [.ack(0, .puback, 1)])
        h.connect(1, Connect(version: .v5, clientID: ""), device: nil, isLocal: true)
        #expect(reason(h.settle()) == .success)
        #expect(h.broker.connections.last?.deviceID == "local")
        // MQTT-3.1.3-5 allows a server other ids than letters and digits; what cannot name a device keeps its session.
        for (slot, id) in [(5, "with space"), (6, "ü/+#")] as [(UInt32, String)] {
            h.connect(slot, Connect(version: .v311, clientID: id), device: nil, isLocal: true)
            #expect(reason(h.settle()) == .success)
            #expect(h.broker.connections.last?.deviceID == "local" && h.broker.connections.last?.clientID == id)
        }
        _ = h.open(2, "a", device: "dev")
        h.connect(3, Connect(version: .v5, clientID: "dev"), device: nil, isLocal: true)
        #expect(reason(h.settle()) == .clientIdentifierNotValid)
        // The certificate wins over what a plaintext client has claimed before.
        #expect(reason(h.open(4, "b", device: "tool")) == .success)
        h.connect(3, Connect(version: .v5, clientID: "tool"), device: nil, isLocal: true)
        #expect(reason(h.settle()) == .clientIdentifierNotValid)
    }

    @Test func takeOverWithinADeviceOnly() {
        let h = Harness()
        _ = h.open(0, "c")
        _ = h.open(1, "c", device: "d2")
        let seen = h.open(2, "c")
        #expect(
            seen.prefix(2) == [
                .send(0, .disconnect(Disconnect(reason: .sessionTakenOver))), .close(0, .sessionTakenOver),
            ])
        #expect(reason(seen) == .success)
        #expect(h.broker.connections.map(\.connection.slot) == [1, 2])
        _ = h.open(3, "old", .v311)
        #expect(h.open(4, "old", .v311).first == .close(3, .sessionTakenOver))
    }

    @Test func clientIDsAreComparedByTheirBytes() {
        let h = Harness()
        _ = h.open(0, "caf\u{E9}")
        let seen = h.open(1, "cafe\u{301}")
        #expect(seen.count == 1)
        #expect(h.broker.connections.count == 2)
    }

    @Test(arguments: [ProtocolVersion.v311, .v5])
    func whatAClientMayNotSend(version: ProtocolVersion) {
        let packets: [Packet] = [
            .connect(Connect(version: version, clientID: "c")), .connack(ConnAck(reason: .success)), .pingresp,
            .suback(SubAck(packetID: 1, reasons: [])), .unsuback(UnsubAck(packetID: 1, reasons: [])),
            .auth(Auth(reason: .continueAuthentication)), .subscribe(Subscribe(packetID: 1, subscriptions: [])),
            .publish(Publish(topic: ByteBuffer(string: "a"), payload: ByteBuffer(), packetID: 0, qos: .atLeastOnce)),
        ]
        for packet in packets {
            let h = Harness()
            _ = h.open(0, "c", version)
            h.receive(0, packet)
            let expected: [Seen] =
                version == .v5
                ? [.send(0, .disconnect(Disconnect(reason: .protocolError))), .close(0, .protocolError)]
                : [.close(0, .protocolError)]
            #expect(h.settle() == expected)
            h.receive(0, .pingreq)
            #expect(h.settle() == [])
        }
        let h = Harness()
        _ = h.open(0, "c", version)
        h.broker.connect(
            Connect(version: version, clientID: "c"), on: h.id(0),
            identity: ClientIdentity(deviceID: "d1", isLocal: false), assignedClientID: "", now: h.now, into: &h.output)
        #expect(h.settle().last == .close(0, .protocolError))
    }

    @Test func aSlotUsedAgainEndsWhatWasThere() {
        let h = Harness()
        _ = h.open(0, "c")
        let old = h.id(0)
        #expect(reason(h.open(0, "other")) == .success)
        h.broker.receive(.pingreq, on: old, now: h.now, into: &h.output)
        h.broker.connectionClosed(old, reason: .networkClosed, now: h.now, into: &h.output)
        #expect(h.settle() == [])
        #expect(h.broker.connections.count == 1)
    }

    @Test func keepAliveOfOneAndAHalf() {
        let h = Harness()
        _ = h.open(0, "c")
        _ = h.open(1, "old", .v311)
        h.advance(seconds: 80)
        h.receive(1, .pingreq)
        h.advance(seconds: 11)
        #expect(
            h.settle() == [
                .send(1, .pingresp), .send(0, .disconnect(Disconnect(reason: .keepAliveTimeout))),
                .close(0, .keepAliveTimeout),
            ])
        h.advance(seconds: 90)
        #expect(h.settle() == [.close(1, .keepAliveTimeout)])
    }

    @Test func keepAliveOfNoneInVersion311() {
        let h = Harness()
        h.connect(0, Connect(version: .v311, clientID: "c", keepAlive: 0))
        _ = h.settle()
        h.advance(seconds: 100_000)
        #expect(h.settle() == [])
    }

    @Test func sessionsExpire() {
        let h = Harness()
        _ = h.open(0, "c", expiry: 10)
        h.close(0)
        h.advance(seconds: 9)
        #expect(h.broker.sessions.count == 1)
        h.advance(seconds: 2)
        _ = h.settle()
        #expect(h.broker.sessions.isEmpty && h.store.sessions.isEmpty)
        #expect(h.broker.counters.sessionsExpired == 1)
    }

    @Test func anExpiredSessionIsNotResumedBeforeTheSweep() throws {
        let h = Harness()
        _ = h.open(0, "c", expiry: 10)
        h.close(0)
        h.time += 10_000_000
        #expect(try #require(connack(h.open(0, "c", clean: false, expiry: 10))).sessionPresent == false)
        #expect(h.store.sessions.count == 1)
    }

    @Test func expiryGoesOnOverARestart() {
        let h = Harness()
        _ = h.open(0, "away", expiry: 100)
        h.close(0)
        _ = h.open(1, "there", expiry: 100)
        h.time += 60_000_000
        h.restart()
        h.advance(seconds: 0)
        _ = h.settle()
        #expect(h.store.sessions.values.allSatisfy { $0.disconnectedAt != nil })
        h.advance(seconds: 50)
        _ = h.settle()
        #expect(h.broker.sessions.map(\.clientID) == ["there"])
        h.restart()
        h.advance(seconds: 60)
        _ = h.settle()
        #expect(h.broker.sessions.isEmpty && h.store.sessions.isEmpty)
    }

    @Test func disconnectChangesTheExpiry() {
        let h = Harness()
        _ = h.open(0, "c", expiry: 10)
        h.receive(0, .disconnect(Disconnect(sessionExpiryInterval: 1_000)))
        #expect(h.settle() == [.close(0, .clientDisconnected)])
        #expect(h.store.sessions.values.first?.record.expiryInterval == 1_000)
        _ = h.open(0, "c", clean: false, expiry: 10)
        h.receive(0, .disconnect(Disconnect(sessionExpiryInterval: 0)))
        _ = h.settle()
        #expect(h.store.sessions.isEmpty)
        _ = h.open(0, "c")
        h.receive(0, .disconnect(Disconnect(sessionExpiryInterval: 5)))
        #expect(h.settle().last == .close(0, .protocolError))
    }

    @Test func closeReasonsInTheirCodes() {
        var codes: [ReasonCode] = []
        for reason in CloseReason.allCases {
            let h = Harness()
            _ = h.open(0, "c")
            h.broker.refuse(h.id(0), reason: reason, now: h.now, into: &h.output)
            let seen = h.settle()
            #expect(seen.last == .close(0, reason))
            if case .send(_, .disconnect(let packet)) = seen.first {
                #expect(packet.reason.isFailure)
                codes.append(packet.reason)
            }
        }
        #expect(codes.count == CloseReason.allCases.count - 5)
        #expect(
            codes.contains(.packetTooLarge) && codes.contains(.malformedPacket) && codes.contains(.maximumConnectTime))
    }

    @Test func noDisconnectBeforeTheConnack() {
        let h = Harness()
        h.connect(0, Connect(version: .v5, clientID: "c", sessionExpiryInterval: 10))
        h.broker.refuse(h.id(0), reason: .malformedPacket, now: h.now, into: &h.output)
        #expect(h.settle() == [.close(0, .malformedPacket)])
    }

    @Test func shutdownTellsEverybody() {
        let h = Harness()
        _ = h.open(0, "a", will: Will(topic: "up/will", payload: ByteBuffer(string: "w")))
        _ = h.open(1, "b", .v311)
        _ = h.open(2, "c", expiry: 100, will: Will(topic: "up/late", payload: ByteBuffer(), delayInterval: 50))
        h.close(2)
        h.broker.shutdown(now: h.now, into: &h.output)
        #expect(
            h.settle() == [
                .send(0, .disconnect(Disconnect(reason: .serverShuttingDown))), .close(0, .serverShuttingDown),
                .close(1, .serverShuttingDown),
            ])
        // MQTT-3.1.3-9: a will with a delay waits on over the restart.
        #expect(h.store.synced.map(\.topic) == ["up/will"])
        h.restart()
        h.advance(seconds: 49)
        _ = h.settle()
        #expect(h.store.synced.map(\.topic) == ["up/will"])
        h.advance(seconds: 2)
        _ = h.settle()
        #expect(h.store.synced.map(\.topic) == ["up/will", "up/late"])
    }
}

/// What one client, or the clients of one device, can take from the others.
@Suite struct QuotaTests {
    private static let full = ConnAck(reason: .quotaExceeded)

    @Test func storedSessionsOfADeviceAreCountedHoweverTheyCome() {
        let h = Harness { $0.sessionsPerDeviceMaximum = 2 }
        for id in ["a", "b"] { h.open(0, id, expiry: 100) }
        // A session that is not stored is taken over by one that would be.
        h.open(1, "c")
        h.connect(2, Connect(version: .v5, clientID: "c", cleanStart: true, keepAlive: 60, sessionExpiryInterval: 100))
        #expect(h.settle() == [.send(2, .connack(Self.full)), .close(2, .quotaExceeded)])
        // What is stored already has its place, also where it starts anew.
        let connect = Connect(version: .v5, clientID: "a", cleanStart: true, keepAlive: 60, sessionExpiryInterval: 100)
        h.connect(3, connect)
        guard case .send(3, .connack(let answer))? = h.settle().last else {
            Issue.record("no CONNACK came")
            return
        }
        #expect(answer.reason == .success)
        #expect(h.store.sessions.count == 2)
    }

    /// Ids that plaintext clients make up do not keep out a device with a certificate.
    @Test func localDevicesThatAreGoneGiveTheirPlaceToOthers() {
        let h = Harness {
            $0.maximumDevices = 4
            $0.access = [AccessRule(verdict: .allow, action: .all, topic: "#")]
        }
        func local(_ slot: UInt32, _ id: String) -> [Seen] {
            h.connect(
                slot, Connect(version: .v5, clientID: id, cleanStart: true, keepAlive: 60), device: nil, isLocal: true)
            return h.drain()
        }
        for index in 0..<3 {
            _ = local(0, "made-up-\(index)")
            h.publish(0, "up/a", "\(index)")
            h.close(0)
        }
        _ = local(1, "stays")
        // The open frame names the three by their handles: those are not given away before it is with the writer.
        h.connect(2, Connect(version: .v5, clientID: "x", cleanStart: true, keepAlive: 60), device: "proven")
        #expect(h.broker.devices.count == 5 && h.broker.freeDevices.isEmpty)
        h.publish(2, "up/a", "p")
        _ = h.settle()
        h.advance(seconds: 1)
        #expect(h.broker.freeDevices.count == 3)
        for index in 0..<2 {
            _ = local(0, "later-\(index)")
            h.close(0)
        }
        #expect(h.broker.devices.count == 5 && h.broker.deviceHandles.count == 4)
        // Nobody who is there gives way.
        _ = local(3, "third")
        _ = local(4, "fourth")
        h.advance(seconds: 1)
        #expect(local(5, "fifth") == [.send(5, .connack(Self.full)), .close(5, .quotaExceeded)])
        h.publish(1, "up/a", "still here")
        _ = h.settle()
        #expect(h.store.synced.count == 5)
    }

    @Test func filtersOfASessionAreBoundedInBytes() {
        let h = Harness { $0.subscriptionBytesPerSessionMaximum = 100 }
        h.open(0, "c", clean: false, expiry: 100)
        func reason(_ filter: String) -> ReasonCode? {
            h.subscribe(0, filter)
            for case .send(_, .suback(let answer)) in h.settle() { return answer.reasons.first }
            return nil
        }
        #expect(reason(String(repeating: "a", count: 60)) == .success)
        #expect(reason(String(repeating: "b", count: 41)) == .quotaExceeded)
        #expect(reason(String(repeating: "a", count: 60)) == .success)
        #expect(reason(String(repeating: "b", count: 40)) == .success)
        h.receive(0, .unsubscribe(Unsubscribe(packetID: 1, filters: [String(repeating: "a", count: 60)])))
        #expect(reason(String(repeating: "c", count: 60)) == .success)
    }

    /// The rows that would hold them have no room; what is stored already goes on.
    @Test func noSessionIsStoredWhileTheStorageIsFull() {
        let h = Harness()
        h.open(0, "known", clean: false, expiry: 100)
        h.subscribe(0, "a")
        _ = h.settle()
        h.broker.storage = .full
        h.connect(
            1, Connect(version: .v5, clientID: "new", cleanStart: true, keepAlive: 60, sessionExpiryInterval: 100))
        #expect(h.settle() == [.send(1, .connack(Self.full)), .close(1, .quotaExceeded)])
        h.open(1, "passing")
        #expect(h.broker.connections.count == 2)
        for (filter, expected) in [("a", ReasonCode.success), ("b", .quotaExceeded)] {
            h.subscribe(0, filter)
            let answer = Packet.suback(SubAck(packetID: 1, reasons: [expected]))
            #expect(h.settle() == [.send(0, answer)])
        }
    }
}
