import GatewaySupport
import MQTTWire
import NIOCore
import Testing

@Suite struct TimeQuestions {
    private static func will(delay: UInt32 = 0) -> Will {
        Will(
            topic: "will", payload: ByteBuffer(string: "gone"), qos: .atLeastOnce, delayInterval: delay,
            applicationProperties: ByteBuffer(bytes: [0x26, 0, 1, 0x61, 0, 1, 0x32, 0x26, 0, 1, 0x63, 0, 1, 0x33]))
    }

    /// Seconds until the will is there.
    private func seconds(until client: Client) async throws -> Double {
        let start = ContinuousClock.now
        _ = try await client.received(1)
        return (ContinuousClock.now - start) / .seconds(1)
    }

    // Is a client that stays silent ended after one and a half times its keep-alive, and its will published?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func keepAlive(version: ProtocolVersion) async throws {
        try await withServer { port in
            let b = try await Client.connect(port, "b", version, keepAlive: 0)
            try await b.subscribe("will")
            let a = try await Client.connect(port, "a", version, keepAlive: 1, will: Self.will())
            #expect(try await (1.0...3.5).contains(seconds(until: b)))
            try await a.end()
            #expect(a.disconnect?.reason == (version == .v5 ? .keepAliveTimeout : nil))
        }
    }

    // Is the will of a client that vanishes published with its properties, and of one that says goodbye not?
    @Test(arguments: [ProtocolVersion.v311, .v5]) func willMessage(version: ProtocolVersion) async throws {
        try await withServer { port in
            let b = try await Client.connect(port, "b", version)
            try await b.subscribe("will")
            try await Client.connect(port, "a", version, will: Self.will()).disconnect()
            #expect(try await b.received() == [])
            await (try await Client.connect(port, "a", version, will: Self.will())).vanish()
            try await eventually("the will is there", within: .seconds(5)) {
                try await b.received().map(\.payload) == ["gone"]
            }
        }
    }

    // Does a session last as long as its expiry says, also where DISCONNECT has changed that?
    @Test func sessionExpiry() async throws {
        try await withServer { port in
            func present(_ expiry: UInt32, clean: Bool = false, disconnect: UInt32? = nil) async throws -> Bool {
                let a = try await Client.connect(port, "a", clean: clean) { $0.sessionExpiryInterval = expiry }
                try await a.subscribe("t")
                try await a.disconnect(Disconnect(sessionExpiryInterval: disconnect))
                return a.connack.sessionPresent
            }
            #expect(try await !present(0, clean: true))
            #expect(try await !present(2))
            #expect(try await present(2))
            try await Task.sleep(for: .milliseconds(2_100))
            #expect(try await !present(1, disconnect: 60))
            try await Task.sleep(for: .milliseconds(1_100))
            #expect(try await present(60, disconnect: 0))
            #expect(try await !present(0))
        }
    }

    // Is a queued message dropped when its time is over, and of another told how much is left?
    @Test func publicationExpiry() async throws {
        try await withServer { port in
            var b = try await Client.connect(port, "b", stays: true)
            try await b.subscribe("t")
            try await b.disconnect()
            let a = try await Client.connect(port, "a")
            for qos in [QoS.atLeastOnce, .exactlyOnce] {
                try await a.publish("t", "short", qos, expiry: 1)
                try await a.publish("t", "long", qos, expiry: 60)
                try await a.publish("t", "endless", qos)
            }
            try await Task.sleep(for: .milliseconds(1_100))
            b = try await Client.connect(port, "b", clean: false, stays: true)
            while b.messages.count < 4 { _ = try await b.next() }
            #expect(b.messages.map(\.payload) == ["long", "endless", "long", "endless"])
            for (index, publish) in b.publishes.enumerated() {
                if index % 2 == 0 {
                    #expect((50...59).contains(publish.messageExpiry ?? 0))
                } else {
                    #expect(publish.messageExpiry == nil)
                }
            }
        }
    }

    // Is a will published at the end of its delay or of its session, whichever comes first?
    @Test(arguments: [(1, 60), (60, 0), (60, 1)] as [(UInt32, UInt32)])
    func willDelay(delay: UInt32, expiry: UInt32) async throws {
        try await withServer { port in
            let b = try await Client.connect(port, "b")
            try await b.subscribe("will")
            let a = try await Client.connect(port, "a", will: Self.will(delay: delay)) {
                $0.sessionExpiryInterval = expiry
            }
            await a.vanish()
            let least = Double(min(delay, expiry))
            // Sessions are looked at every second.
            #expect(try await (least - 0.1...least + 2).contains(seconds(until: b)))
        }
    }

    // Is a will with a delay dropped when its client comes back in time?
    @Test func willDelayAndReturn() async throws {
        try await withServer { port in
            let b = try await Client.connect(port, "b")
            try await b.subscribe("will")
            let a = try await Client.connect(port, "a", stays: true, will: Self.will(delay: 1))
            await a.vanish()
            _ = try await Client.connect(port, "a", clean: false, stays: true)
            try await Task.sleep(for: .milliseconds(1_500))
            #expect(try await b.received() == [])
        }
    }
}
