import GatewaySupport
import MQTTWire
import NIOCore
import Testing

@Suite struct ConnectQuestions {
    // Does a client get its own messages of every QoS, on one connection and on the next?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func basic(version: ProtocolVersion) async throws {
        try await withServer { port in
            try await Client.connect(port, "a", version).disconnect()
            let a = try await Client.connect(port, "a", version)
            #expect(!a.connack.sessionPresent)
            #expect(try await a.subscribe("TopicA") == [.grantedQoS2])
            for qos in [QoS.atMostOnce, .atLeastOnce, .exactlyOnce] { try await a.publish("TopicA", "\(qos)", qos) }
            #expect(try await a.received(3).map(\.qos) == [.atMostOnce, .atLeastOnce, .exactlyOnce])
            try await a.disconnect()
        }
    }

    // Does a second CONNECT end the connection, with 0x82 where the version has it?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func secondConnect(version: ProtocolVersion) async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a", version)
            try await a.send(.connect(Connect(version: version, clientID: "a")))
            try await a.end()
            #expect(a.disconnect?.reason == (version == .v5 ? .protocolError : nil))
        }
    }

    // Is a CONNECT that is none answered by nothing but the end of the connection?
    @Test(
        arguments: [
            ("another protocol name", "hjTT", [4, 2, 0, 0, 0, 1, 0x61]),
            ("the reserved flag", "MQTT", [4, 3, 0, 0, 0, 1, 0x61]),
            ("the reserved flag in 5.0", "MQTT", [5, 3, 0, 0, 0, 0, 1, 0x61]),
            ("a string cut short", "MQTT", [4, 2, 0, 0, 0, 9, 0x61]),
        ] as [(String, String, [UInt8])])
    func malformedConnect(what: String, name: String, rest: [UInt8]) async throws {
        try await withServer { port in
            let socket = try await TestClient.connect(port: port)
            let body = [0, UInt8(name.utf8.count)] + Array(name.utf8) + rest
            try await socket.send(ByteBuffer(bytes: [0x10, UInt8(body.count)] + body + [0xC0, 0]))
            #expect(try await socket.next() == nil, "\(what)")
        }
    }

    // Is a version that the server does not speak told so, before the connection ends?
    @Test(arguments: [("MQIsdp", 3), ("MQTT", 3), ("MQTT", 6), ("MQTT", 0x84)] as [(String, UInt8)])
    func unsupportedVersion(name: String, level: UInt8) async throws {
        try await withServer { port in
            let socket = try await TestClient.connect(port: port, version: .v311)
            let body = [0, UInt8(name.utf8.count)] + Array(name.utf8) + [level, 2, 0, 0, 0, 1, 0x61]
            try await socket.send(ByteBuffer(bytes: [0x10, UInt8(body.count)] + body))
            #expect(try await socket.next() == .connack(ConnAck(reason: .unsupportedProtocolVersion)))
            #expect(try await socket.next() == nil)
        }
    }

    // Is nothing done of what comes in one packet with a CONNECT that is refused?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func refusedConnect(version: ProtocolVersion) async throws {
        try await withServer { port in
            let socket = try await TestClient.connect(port: port, version: version)
            var bytes = ByteBuffer()
            let connect = Connect(version: version, clientID: String(repeating: "x", count: 200))
            bytes.write(.connect(connect), version: version)
            let kept = Publish(topic: ByteBuffer(string: "kept"), payload: ByteBuffer(string: "x"), retain: true)
            bytes.write(.publish(kept), version: version)
            bytes.write(.pingreq, version: version)
            try await socket.send(bytes)
            guard case .connack(let answer)? = try await socket.next() else {
                Issue.record("no CONNACK came")
                return
            }
            #expect(answer.reason == .clientIdentifierNotValid && !answer.sessionPresent)
            #expect(try await socket.next() == nil)
            let b = try await Client.connect(port, "b", version)
            try await b.subscribe("kept")
            #expect(try await b.received() == [])
        }
    }

    // Is a client without an id taken, in 3.1.1 only with Clean Session?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func zeroLengthClientID(version: ProtocolVersion) async throws {
        try await withServer { port in
            for clean in [true, false] {
                if version == .v311, !clean {
                    await #expect(throws: Client.Failure.self) {
                        try await Client.connect(port, "", version) { $0.cleanStart = false }
                    }
                } else {
                    try await Client.connect(port, "", version) { $0.cleanStart = clean }.disconnect()
                }
            }
        }
    }

    // Are clients without an id told different ones, with which they can come back?
    @Test func assignedClientID() async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "", stays: true)
            let b = try await Client.connect(port, "", stays: true)
            let id = try #require(a.connack.assignedClientID)
            #expect(id != "" && id != b.connack.assignedClientID)
            try await a.disconnect()
            #expect(try await Client.connect(port, id, clean: false, stays: true).connack.sessionPresent)
        }
    }

    // Does the server name its own keep-alive to a client that asks for more?
    @Test func serverKeepAlive() async throws {
        try await withServer { port in
            let more = try await Client.connect(port, "a", keepAlive: 120)
            let less = try await Client.connect(port, "b", keepAlive: 60)
            #expect(more.connack.serverKeepAlive == 60 && less.connack.serverKeepAlive == nil)
        }
    }
}
