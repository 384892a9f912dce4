import GatewaySupport
import MQTTSession
import MQTTWire
import NIOCore
import Operations
import Testing

@testable import Gateway

/// A client that does not read: what may wait for it, and for how long?
@Suite(.serialized) struct SlowReaderTests {
    private func pendingBytes(_ gateway: RunningGateway) async throws -> Int {
        try await gateway.look { driver in
            var most = 0
            driver.forEachConnection { handler in
                let waiting = try? handler.context?.channel.syncOptions?.getOption(.bufferedWritableBytes)
                most = max(most, handler.outbound.readableBytes + (waiting ?? 0))
            }
            return most
        }
    }

    private func subscriber(_ gateway: RunningGateway, _ id: String) async throws -> TestClient {
        let client = try await TestClient.connect(port: gateway.port)
        _ = try await client.open(Connect(version: .v5, clientID: id))
        let subscription = Subscription(filter: "plain/#", qos: .atMostOnce)
        try await client.send(.subscribe(Subscribe(packetID: 1, subscriptions: [subscription])))
        _ = try await client.next()
        return client
    }

    /// 24 MB of QoS 0, more than the kernel keeps for a connection, in one burst.
    private func flood(_ gateway: RunningGateway) async throws -> TestClient {
        let writer = try await TestClient.connect(port: gateway.port)
        _ = try await writer.open(Connect(version: .v5, clientID: "writer"))
        var bytes = ByteBuffer()
        let payload = ByteBuffer(repeating: 0x78, count: 20_000)
        for _ in 0..<1_200 { bytes.write(message("plain/a", payload, qos: .atMostOnce), version: .v5) }
        writer.post(bytes)
        try await writer.send(.pingreq)
        #expect(try await writer.next(timeout: .seconds(20)) == .pingresp)
        return writer
    }

    @Test func qos0IsDroppedThenTheClientIsDisconnected() async throws {
        let configuration = openConfiguration { $0.mqtt.slowReaderTimeout = 2 }
        try await withRunningGateway(configuration) { gateway in
            let reader = try await subscriber(gateway, "reader")
            let stuck = try await subscriber(gateway, "stuck")
            try await stuck.setReading(false)
            let writer = try await flood(gateway)
            // The socket's high watermark, what is written at once beyond it, and a message.
            let pending = try await pendingBytes(gateway)
            #expect(pending > 0 && pending < 256 * 1024 + 64 * 1024 + 30_000, "\(pending) bytes wait")
            #expect(try await gateway.look { $0.broker.counters.dropped[.slowReader] } > 0)
            #expect(gateway.closed(.slowReader) == 0)
            try await eventually("the one that does not read is disconnected") { gateway.closed(.slowReader) == 1 }
            // Whoever reads is there still.
            try await reader.send(.pingreq)
            var last: Packet?
            while last != .pingresp { last = try await reader.next() }
            for client in [reader, stuck, writer] { await client.close() }
        }
    }

    @Test func whoReadsAgainStays() async throws {
        let configuration = openConfiguration { $0.mqtt.slowReaderTimeout = 2 }
        try await withRunningGateway(configuration) { gateway in
            let reader = try await subscriber(gateway, "reader")
            try await reader.setReading(false)
            let writer = try await flood(gateway)
            #expect(try await gateway.look { $0.broker.counters.dropped[.slowReader] } > 0)
            try await reader.setReading(true)
            try await eventually("everything has left") { try await pendingBytes(gateway) == 0 }
            try await Task.sleep(for: .milliseconds(2_500))
            try await reader.send(.pingreq)
            var last: Packet?
            while last != .pingresp { last = try await reader.next() }
            #expect(gateway.closed(.slowReader) == 0)
            await reader.close()
            await writer.close()
        }
    }

    /// Answers are not dropped, so they are bounded in bytes.
    @Test func answersThatNobodyReadsEndTheConnection() async throws {
        let configuration = openConfiguration {
            $0.mqtt.maximumPacketSize = 32 * 1024
            $0.mqtt.slowReaderBytes = 300 * 1024
            $0.mqtt.slowReaderTimeout = 3_600
            $0.mqtt.discloseReasons = true
            $0.access = []
        }
        try await withRunningGateway(configuration) { gateway in
            let client = try await TestClient.connect(port: gateway.port, receiveBuffer: 16 * 1024)
            _ = try await client.open(Connect(version: .v5, clientID: "stuck"))
            try await client.setReading(false)
            // Each is refused with a reason string, five times as long; the kernel takes some megabytes of them.
            var refused = ByteBuffer()
            for _ in 0..<200_000 { refused.write(message("no", ByteBuffer(), id: 1), version: .v5) }
            client.post(refused)
            try await eventually("it is disconnected", within: .seconds(60)) { gateway.closed(.slowReader) == 1 }
            await client.close()
        }
    }
}
