import MQTTWire
import NIOCore
import Testing

@Suite struct FlowQuestions {
    // Does an alias stand for its topic until the connection ends, and is one that was not set refused?
    @Test func clientTopicAlias() async throws {
        try await withServer { port in
            var a = try await Client.connect(port, "a", stays: true)
            #expect(a.connack.topicAliasMaximum == 16)
            try await a.subscribe("t")
            try await a.publish("t", "1", .atLeastOnce, alias: 1)
            try await a.publish("", "2", .atLeastOnce, alias: 1)
            #expect(try await a.received(2) == ["1", "2"].map { Client.Message("t", $0, .atLeastOnce) })
            try await a.disconnect()
            a = try await Client.connect(port, "a", clean: false, stays: true)
            try await a.publish("t", "3", .atLeastOnce)
            #expect(try await a.received(1).count == 1)
            try await a.send(.publish(Publish(topic: ByteBuffer(), payload: ByteBuffer(), topicAlias: 1)))
            try await a.end()
            #expect(a.disconnect?.reason == .topicAliasInvalid)
        }
    }

    // Is an alias of 0, or above what CONNACK allows, answered with 0x94?
    @Test(arguments: [UInt16(0), 17]) func topicAliasThatIsNone(alias: UInt16) async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            if alias == 0 {
                // The encoder writes no alias of 0.
                try await a.send(bytes: [0x30, 7, 0, 1, 0x74, 3, 0x23, 0, 0])
            } else {
                try await a.send(
                    .publish(Publish(topic: ByteBuffer(string: "t"), payload: ByteBuffer(), topicAlias: alias)))
            }
            try await a.end()
            #expect(a.disconnect?.reason == .topicAliasInvalid)
        }
    }

    // Does the server use as many aliases as the client takes, and none where it takes none?
    @Test(arguments: [UInt16(0), 1]) func serverTopicAlias(maximum: UInt16) async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a") { $0.topicAliasMaximum = maximum }
            try await a.subscribe("#")
            for qos in [QoS.atMostOnce, .atLeastOnce, .exactlyOnce] { try await a.publish("t", "x", qos) }
            try await a.publish("another", "x")
            while a.messages.count < 4 { _ = try await a.next() }
            #expect(a.messages.map(\.topic) == ["t", "t", "t", "another"])
            #expect(a.publishes.map(\.topicAlias) == [maximum, maximum, maximum, 0])
            #expect(a.publishes.map { $0.topic.readableBytes } == (maximum == 0 ? [1, 1, 1, 7] : [1, 0, 0, 7]))
        }
    }

    // Is a client that sends more than the maximum packet size told 0x95?
    @Test(arguments: [QoS.atMostOnce, .atLeastOnce]) func maximumPacketSizeOfTheServer(qos: QoS) async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            let maximum = Int(try #require(a.connack.maximumPacketSize))
            try await a.publish("t", String(repeating: ".", count: maximum - 20), .atLeastOnce)
            let large = Publish(
                topic: ByteBuffer(string: "t"), payload: ByteBuffer(repeating: 0x2E, count: maximum), packetID: 99,
                qos: qos)
            try await a.send(.publish(qos == .atMostOnce ? Publish(topic: large.topic, payload: large.payload) : large))
            try await a.end()
            #expect(a.disconnect?.reason == .packetTooLarge)
        }
    }

    // Is a message that is too large for a subscriber left out for it, and counted as delivered?
    @Test func maximumPacketSizeOfTheClient() async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a") { $0.maximumPacketSize = 64 }
            try await a.subscribe("t")
            for qos in [QoS.atMostOnce, .atLeastOnce, .exactlyOnce] {
                try await a.publish("t", String(repeating: ".", count: 32), qos)
                #expect(try await a.publish("t", String(repeating: ".", count: 64), qos) == .success)
            }
            #expect(try await a.received(3).map(\.qos) == [.atMostOnce, .atLeastOnce, .exactlyOnce])
        }
    }

    // Is a client closed that takes no packet as large as the answer that it waits for?
    @Test func answersThatAreTooLarge() async throws {
        try await withServer { port in
            await #expect(throws: Client.Failure.self) {
                try await Client.connect(port, "a") { $0.maximumPacketSize = 10 }
            }
            let a = try await Client.connect(port, "b") { $0.maximumPacketSize = 64 }
            let filters = (0..<60).map { Subscription(filter: "\($0)", qos: .atMostOnce) }
            await #expect(throws: Client.Failure.self) { try await a.subscribe(filters) }
            #expect(a.disconnect == nil)
        }
    }

    // Does the server wait for acknowledgements when the client's receive maximum is reached?
    @Test func receiveMaximumOfTheClient() async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a") { $0.receiveMaximum = 2 }
            a.acknowledges = false
            try await a.subscribe("t")
            for payload in ["1", "2", "3", "4"] { try await a.publish("t", payload, .atLeastOnce) }
            while a.messages.count < 2 { _ = try await a.next() }
            let ids = a.publishes.map(\.packetID)
            #expect(try await a.received().map(\.payload) == ["1", "2"])
            try await a.send(.puback(Acknowledgement(packetID: ids[1])))
            #expect(try await a.received(1).map(\.payload) == ["3"])
            try await a.send(.puback(Acknowledgement(packetID: ids[0])))
            #expect(try await a.received(1).map(\.payload) == ["4"])
        }
    }

    // Is a client that has more unacknowledged than the server's receive maximum told 0x93?
    @Test func receiveMaximumOfTheServer() async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            let maximum = try #require(a.connack.receiveMaximum)
            // None is released.
            var bytes = ByteBuffer()
            for id in 1...maximum + 1 {
                bytes.write(
                    .publish(
                        Publish(topic: ByteBuffer(string: "t"), payload: ByteBuffer(), packetID: id, qos: .exactlyOnce)),
                    version: .v5)
            }
            try await a.send(bytes: Array(bytes.readableBytesView))
            try await a.end()
            #expect(a.disconnect?.reason == .receiveMaximumExceeded)
        }
    }
}
