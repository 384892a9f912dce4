import MQTTWire
import NIOCore
import Testing

@testable import MQTTSession

/// CONNECT, CONNACK and DISCONNECT: what the standards demand beside the server's own limits.
@Suite struct ConnectRulesTests {
    private func connack(_ seen: [Seen]) -> ConnAck? {
        for case .send(_, .connack(let ack)) in seen { return ack }
        return nil
    }

    /// MQTT-3.1.3-5 (both)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func everyClientIDThatTheStandardNamesIsTaken(
        version: ProtocolVersion
    ) {
        let alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        let h = Harness()
        let ids = alphabet.map(String.init) + (0...39).map { String(alphabet.dropFirst($0).prefix(23)) }
        for id in ids {
            #expect(connack(h.open(0, id, version))?.reason == .success)
            // As the id of a plaintext client it is the device's too.
            h.connect(1, Connect(version: version, clientID: id), device: nil, isLocal: true)
            #expect(connack(h.settle())?.reason == .success)
            #expect(h.broker.connections.last?.deviceID == id)
        }
    }

    /// MQTT-3.1.3-6 (both), MQTT-3.1.3-7, MQTT-3.2.2-16 (5.0)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func whoNamesNoIDGetsOne(version: ProtocolVersion) {
        let h = Harness()
        for slot in UInt32(0)...1 {
            let answer = connack(h.open(slot, "", version, device: "d\(slot)"))
            #expect(answer?.reason == .success)
            #expect(answer?.assignedClientID == (version == .v5 ? "assigned-1" : nil))
        }
        #expect(h.broker.sessions.allSatisfy { $0.clientID == "assigned-1" })
        #expect(h.broker.connections.count == 2)
    }

    /// MQTT-3.1.3-7 (5.0): as if the client had named the id itself, also on a plaintext listener, where it is no device's.
    @Test(arguments: [nil, "d1"]) func whoComesBackWithItsAssignedIDFindsItsSession(device: String?) {
        let h = Harness()
        func connect(_ id: String) -> ConnAck? {
            let packet = Connect(version: .v5, clientID: id, cleanStart: false, sessionExpiryInterval: 100)
            h.connect(0, packet, device: device, isLocal: device == nil)
            return connack(h.settle())
        }
        let id = connect("")?.assignedClientID ?? ""
        h.restart()
        #expect(connect(id)?.sessionPresent == true)
        #expect(h.broker.sessions.count == 1)
        h.close(0)
        h.advance(seconds: 101)
        // The session is over, and the id any client's.
        #expect(connect(id)?.sessionPresent == false)
    }

    /// MQTT-3.1.2-12 (3.1.1)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func whoHasNoWillLeavesNone(version: ProtocolVersion) {
        let h = Harness()
        h.open(1, "s", device: "d2")
        h.subscribe(1, "#")
        h.open(0, "c", version)
        h.close(0)
        #expect(h.settle() == [])
        #expect(h.broker.counters.willsPublished == 0)
    }

    /// MQTT-3.1.2-16 and -17 (3.1.1), MQTT-3.1.2-14 and -15 (5.0)
    @Test(arguments: [ProtocolVersion.v311, .v5], [false, true])
    func aWillIsRetainedWhereItSaysSo(version: ProtocolVersion, retain: Bool) {
        let h = Harness()
        h.open(0, "c", version, will: Will(topic: "w", payload: ByteBuffer(string: "bye"), retain: retain))
        h.close(0)
        _ = h.settle()
        #expect(h.broker.retainedCount == (retain ? 1 : 0))
        h.open(1, "s", device: "d2")
        h.subscribe(1, "w")
        #expect(h.settle().contains(delivered(1, "w", "bye", retain: true)) == retain)
    }

    /// MQTT-3.1.2-8 (both): a will is published whatever ended the connection but DISCONNECT.
    @Test(arguments: CloseReason.allCases) func everyOtherEndPublishesTheWill(reason: CloseReason) {
        let h = Harness()
        h.open(0, "c", will: Will(topic: "up/w", payload: ByteBuffer()))
        h.broker.refuse(h.id(0), reason: reason, now: h.now, into: &h.output)
        _ = h.settle()
        #expect(h.store.synced.map(\.topic) == ["up/w"])
    }

    /// MQTT-3.1.2-28, MQTT-4.12.0-6 (5.0)
    @Test(arguments: [false, true]) func connackHoldsNothingThatWasNotAskedFor(asks: Bool) throws {
        let h = Harness()
        h.connect(0, Connect(version: .v5, clientID: "c", requestResponseInformation: asks))
        let answer = try #require(connack(h.settle()))
        #expect(answer.responseInformation == nil)
        #expect(answer.authenticationMethod == nil && answer.authenticationData == nil)
    }

    /// MQTT-3.2.2-22 (5.0)
    @Test func theClientsOwnKeepAliveHoldsWhereNoOtherIsTold() throws {
        let h = Harness()
        let answer = try #require(connack(h.open(0, "c")))
        #expect(answer.serverKeepAlive == nil)
        h.advance(seconds: 89)
        #expect(h.settle() == [])
        h.advance(seconds: 2)
        #expect(h.settle().last == .close(0, .keepAliveTimeout))
    }

    /// MQTT-4.1.0-1 (both), MQTT-4.1.0-2 (3.1.1)
    @Test(arguments: [UInt32(0), 5]) func aSessionLastsAsLongAsItsConnection(expiry: UInt32) {
        let h = Harness()
        h.open(0, "c", expiry: expiry)
        h.subscribe(0, "a")
        for _ in 0..<50 {
            h.advance(seconds: 30)
            h.receive(0, .pingreq)
        }
        _ = h.settle()
        h.publish(0, "a")
        #expect(h.settle() == [delivered(0, "a", "x")])
    }

    /// MQTT-3.1.4-5 (3.1.1), MQTT-3.1.4-6 (5.0)
    @Test(arguments: [ProtocolVersion.v311, .v5]) func whatFollowsARefusedConnectIsNotLookedAt(version: ProtocolVersion)
    {
        let h = Harness()
        h.connect(0, Connect(version: version, clientID: String(repeating: "x", count: 200)))
        h.publish(0, "up/a", qos: .atLeastOnce, id: 1)
        h.subscribe(0, "#")
        h.receive(0, .pingreq)
        #expect(
            h.settle() == [
                .send(0, .connack(ConnAck(reason: .clientIdentifierNotValid))), .close(0, .clientIdentifierInvalid),
            ])
        #expect(h.store.synced == [] && h.broker.sessions.isEmpty)
    }

    /// MQTT-3.14.2-1 and -2 (5.0): those reasons that can only come before CONNACK go into that.
    @Test(arguments: CloseReason.allCases) func disconnectHasOneOfItsCodesAndNoExpiry(reason: CloseReason) throws {
        let h = Harness()
        h.open(0, "c", expiry: 100)
        h.broker.refuse(h.id(0), reason: reason, now: h.now, into: &h.output)
        while !h.output.group.isEmpty { h.commit() }
        guard case .send(_, let packet) = h.output.actions.first, case .disconnect(let disconnect) = packet else {
            return
        }
        #expect(disconnect.sessionExpiryInterval == nil)
        let isOfConnack = [.unsupportedProtocolVersion, .clientIdentifierInvalid, .authenticationMethod].contains(
            reason)
        var bytes = ByteBuffer()
        bytes.write(packet, version: .v5)
        var decoder = PacketDecoder(maximumPacketSize: 1_000)
        decoder.version = .v5
        if isOfConnack {
            #expect(throws: DecodingError.self) { try decoder.next(&bytes) }
        } else {
            #expect(try decoder.next(&bytes) == packet)
        }
    }

    /// MQTT-3.2.2-8 (5.0)
    @Test func connackHasOneOfItsCodes() throws {
        let h = Harness { $0.maximumDevices = 1 }
        var method = Connect(version: .v5, clientID: "c")
        method.authenticationMethod = "m"
        let utf8 = ByteBuffer(bytes: [0x01, 0x01])
        let packets: [(Connect, String)] = [
            (Connect(version: .v5, clientID: "c"), "d1"), (method, "d1"), (Connect(version: .v5, clientID: "c"), "d2"),
            (Connect(version: .v5, clientID: String(repeating: "x", count: 200)), "d1"),
            (Connect(version: .v5, clientID: "c", will: Will(topic: "$SYS/x", payload: ByteBuffer())), "d1"),
            (Connect(version: .v5, clientID: "c", will: Will(topic: "#", payload: ByteBuffer())), "d1"),
            (
                Connect(
                    version: .v5, clientID: "c",
                    will: Will(topic: "w", payload: ByteBuffer(bytes: [0xFF]), applicationProperties: utf8)), "d1"
            ),
        ]
        for (packet, device) in packets {
            h.connect(0, packet, device: device)
            let answer = try #require(connack(h.settle()))
            var bytes = ByteBuffer()
            bytes.write(.connack(answer), version: .v5)
            var decoder = PacketDecoder(maximumPacketSize: 1_000)
            decoder.version = .v5
            #expect(try decoder.next(&bytes) == .connack(answer))
        }
    }
}
