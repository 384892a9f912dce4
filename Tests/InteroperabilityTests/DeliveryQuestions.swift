import MQTTWire
import Testing

@Suite struct DeliveryQuestions {
    private static let topics: [(String, QoS)] = [
        ("TopicA/B", .atMostOnce), ("Topic/C", .atLeastOnce), ("TopicA/C", .exactlyOnce),
    ]

    // Does a new subscriber get the retained message of each topic with its QoS, and none that was cleared?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func retainedMessages(version: ProtocolVersion) async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a", version)
            for (topic, qos) in Self.topics { try await a.publish(topic, "kept", qos, retain: true) }
            try await a.subscribe("+/+")
            let messages = try await a.received(3).sorted { $0.qos < $1.qos }
            #expect(messages == Self.topics.map { Client.Message($0, "kept", $1, retain: true) })
            for (topic, qos) in Self.topics { try await a.publish(topic, "", qos, retain: true) }
            _ = try await a.received(3)
            let b = try await Client.connect(port, "b", version)
            try await b.subscribe("+/+")
            #expect(try await b.received() == [])
        }
    }

    // Does a client that was away get the QoS 1 and 2 messages of that time?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func offlineQueueing(version: ProtocolVersion) async throws {
        try await withServer { port in
            var a = try await Client.connect(port, "a", version, stays: true)
            try await a.subscribe("+/+")
            try await a.disconnect()
            let b = try await Client.connect(port, "b", version)
            for (topic, qos) in Self.topics { try await b.publish(topic, "x", qos) }
            a = try await Client.connect(port, "a", version, clean: false, stays: true)
            #expect(a.connack.sessionPresent)
            #expect(try await a.received(2).map(\.qos) == [.atLeastOnce, .exactlyOnce])
        }
    }

    // Does a message that matches two filters of a client come once, with the higher QoS?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func overlappingSubscriptions(version: ProtocolVersion) async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a", version)
            try await a.subscribe([
                Subscription(filter: "TopicA/#", qos: .exactlyOnce),
                Subscription(filter: "TopicA/+", qos: .atLeastOnce),
            ])
            try await a.publish("TopicA/C", "x", .exactlyOnce)
            #expect(try await a.received(1) == [Client.Message("TopicA/C", "x", .exactlyOnce)])
        }
    }

    // Does what was not acknowledged come again at the next connection, marked as a duplicate?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func redelivery(version: ProtocolVersion) async throws {
        try await withServer { port in
            var b = try await Client.connect(port, "b", version, stays: true)
            try await b.subscribe("TopicA/#")
            b.acknowledges = false
            let a = try await Client.connect(port, "a", version)
            try await a.publish("TopicA/B", "1", .atLeastOnce)
            try await a.publish("TopicA/C", "2", .exactlyOnce)
            let first = try await b.received(2)
            await b.vanish()
            b = try await Client.connect(port, "b", version, clean: false, stays: true)
            let second = try await b.received(2)
            #expect(first.map(\.duplicate) == [false, false] && second.map(\.duplicate) == [true, true])
            #expect(first.map(\.payload) == ["1", "2"] && second.map(\.payload) == ["1", "2"])
            try await b.disconnect()
            b = try await Client.connect(port, "b", version, clean: false, stays: true)
            #expect(try await b.received() == [])
        }
    }

    // Is a filter that the access rules refuse answered with a failure, and the connection left as it is?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func subscribeFailure(version: ProtocolVersion) async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a", version)
            let failure: ReasonCode = version == .v5 ? .notAuthorized : .unspecifiedError
            #expect(try await a.subscribe("test/nosubscribe", "test/yes") == [failure, .grantedQoS2])
            try await a.publish("test/nosubscribe", "x")
            try await a.publish("test/yes", "x")
            #expect(try await a.received(1).map(\.topic) == ["test/yes"])
        }
    }

    // Do filters that begin with a wildcard leave out topics that begin with $?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func dollarTopics(version: ProtocolVersion) async throws {
        try await withServer { port in
            let b = try await Client.connect(port, "b", version)
            try await b.subscribe("#", "+/+", "+/B")
            #expect(try await b.publish("$own/B", "x", .atLeastOnce) == .success)
            #expect(try await b.received() == [])
        }
    }

    // Does a client get no more of a topic that it has unsubscribed from, and all of the others?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func unsubscribe(version: ProtocolVersion) async throws {
        try await withServer { port in
            let b = try await Client.connect(port, "b", version)
            try await b.subscribe("1", "2", "3")
            try await b.unsubscribe("1")
            let a = try await Client.connect(port, "a", version)
            for topic in ["1", "2", "3"] { try await a.publish(topic, "x", .atLeastOnce) }
            #expect(try await b.received(2).map(\.topic) == ["2", "3"])
        }
    }

    // Does a message of a shared subscription come to one of its members, and of any other to all?
    @Test func sharedSubscriptions() async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            let b = try await Client.connect(port, "b")
            for client in [a, b] { try await client.subscribe("$share/name/shared", "all") }
            for count in 1...10 {
                try await b.publish("all", "x", .atLeastOnce)
                try await b.publish("shared", "\(count)", .atLeastOnce)
            }
            let messages = try await (a.received(), b.received())
            #expect(messages.0.count { $0.topic == "all" } == 10 && messages.1.count { $0.topic == "all" } == 10)
            let shared = (messages.0 + messages.1).filter { $0.topic == "shared" }.compactMap { Int($0.payload) }
            #expect(shared.sorted() == Array(1...10))
        }
    }
}
