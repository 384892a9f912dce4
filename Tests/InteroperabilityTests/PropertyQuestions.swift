import MQTTWire
import NIOCore
import Testing

@Suite struct PropertyQuestions {
    private static func string(_ text: String) -> [UInt8] { [0, UInt8(text.utf8.count)] + Array(text.utf8) }

    /// What a subscriber gets as the properties of a message, at each QoS, now and as a retained message.
    private static func forwarded(_ properties: [UInt8], payload: String = "text") async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            try await a.subscribe("t")
            for qos in [QoS.atMostOnce, .atLeastOnce, .exactlyOnce] {
                try await a.publish("t", payload, qos, retain: true, properties: properties)
            }
            while a.messages.count < 3 { _ = try await a.next() }
            #expect(
                a.publishes.map { Array($0.applicationProperties.readableBytesView) }
                    == Array(repeating: properties, count: 3))
            let b = try await Client.connect(port, "b")
            try await b.subscribe("t")
            while b.messages.isEmpty { _ = try await b.next() }
            #expect(b.publishes.map { Array($0.applicationProperties.readableBytesView) } == [properties])
        }
    }

    // Do user properties arrive with all their names and values, repeated ones too, in their order?
    @Test func userProperties() async throws {
        let pairs = [("a", "2"), ("c", "3"), ("a", "1"), ("", ""), ("ü", "€")]
        try await Self.forwarded(pairs.flatMap { [0x26] + Self.string($0.0) + Self.string($0.1) })
    }

    // Do payload format and content type arrive as they were sent?
    @Test(arguments: [UInt8(0), 1]) func payloadFormat(indicator: UInt8) async throws {
        try await Self.forwarded([0x01, indicator, 0x03] + Self.string("My name"))
    }

    // Is a payload that is not the UTF-8 that it claims to be refused with 0x99?
    @Test func payloadThatIsNotUTF8() async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            try await a.subscribe("t")
            try await a.send(
                .publish(
                    Publish(
                        topic: ByteBuffer(string: "t"), payload: ByteBuffer(bytes: [0xC3, 0x28]), packetID: 77,
                        qos: .atLeastOnce, applicationProperties: ByteBuffer(bytes: [0x01, 1]))))
            guard case .puback(let answer)? = try await a.next() else {
                Issue.record("no PUBACK came")
                return
            }
            #expect(answer.packetID == 77 && answer.reason == .payloadFormatInvalid)
            #expect(try await a.received() == [])
        }
    }

    // Does a request reach who answers it with the topic and the data by which the answer finds its way back?
    @Test func requestResponse() async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            let b = try await Client.connect(port, "b")
            try await a.subscribe([Subscription(filter: "t", qos: .exactlyOnce, noLocal: true)])
            try await b.subscribe([Subscription(filter: "t", qos: .exactlyOnce, noLocal: true)])
            let properties = [0x08] + Self.string("t") + [0x09, 0, 3, 0xFF, 0, 0x34]
            try await a.publish("t", "request", .atLeastOnce, properties: properties)
            while b.messages.isEmpty { _ = try await b.next() }
            let request = try #require(b.publishes.first)
            #expect(Array(request.applicationProperties.readableBytesView) == properties)
            try await b.publish("t", "response", .atLeastOnce, properties: properties)
            #expect(try await a.received(1).map(\.payload) == ["response"])
            #expect(try await b.received(1).map(\.payload) == ["request"])
        }
    }

    // Does a message name the identifiers of all the subscriptions that it matches, and of no others?
    @Test func subscriptionIdentifiers() async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            let b = try await Client.connect(port, "b")
            try await a.subscribe("t", identifier: 456_789)
            try await b.subscribe("t", identifier: 2)
            try await b.subscribe("t/#", identifier: 268_435_455)
            try await b.subscribe("x", identifier: 4)
            try await b.publish("t", "x", .atLeastOnce)
            for (client, identifiers) in [(a, [456_789]), (b, [2, 268_435_455])] as [(Client, [UInt32])] {
                while client.messages.isEmpty { _ = try await client.next() }
                #expect(client.publishes.map { $0.subscriptionIdentifiers.sorted() } == [identifiers])
            }
        }
    }

    // Does no-local keep a client's own messages from it?
    @Test func noLocal() async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            let b = try await Client.connect(port, "b")
            for client in [a, b] {
                try await client.subscribe([Subscription(filter: "t", qos: .exactlyOnce, noLocal: true)])
            }
            try await a.publish("t", "x", .atLeastOnce)
            #expect(try await b.received(1).count == 1)
            #expect(try await a.received() == [])
        }
    }

    // Does the RETAIN flag arrive as it was published where the subscription asks for that?
    @Test(arguments: [false, true]) func retainAsPublished(asked: Bool) async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            try await a.subscribe([Subscription(filter: "t", qos: .exactlyOnce, retainAsPublished: asked)])
            try await a.publish("t", "1", .atLeastOnce)
            try await a.publish("t", "2", .atLeastOnce, retain: true)
            #expect(try await a.received(2).map(\.retain) == [false, asked])
        }
    }

    // Do retained messages come at every subscribe, at the first, or never, as the subscription says?
    @Test(arguments: [(RetainHandling.send, [3, 3]), (.sendIfNew, [3, 0]), (.doNotSend, [0, 0])])
    func retainHandling(handling: RetainHandling, counts: [Int]) async throws {
        try await withServer { port in
            let a = try await Client.connect(port, "a")
            for qos in [QoS.atMostOnce, .atLeastOnce, .exactlyOnce] {
                try await a.publish("t/\(qos)", "x", qos, retain: true)
            }
            for count in counts {
                try await a.subscribe([Subscription(filter: "t/+", qos: .exactlyOnce, retainHandling: handling)])
                #expect(try await a.received(count).count == count)
            }
        }
    }
}
