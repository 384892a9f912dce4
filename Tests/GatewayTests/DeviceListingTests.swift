import Foundation
import GatewaySupport
import MQTTSession
import MQTTWire
import NIOCore
import Operations
import Testing

@testable import Gateway

/// What the gateway says of its devices, and what the limits do to them.
@Suite(.serialized) struct DeviceListingTests {
    @Test func limitedDevicesComeFirstWithTheirRefusals() async throws {
        let configuration = openConfiguration {
            $0.deviceLimits.messagesPerSecond = 1
            $0.deviceLimits.burst = 2
        }
        try await withRunningGateway(configuration) { gateway in
            let calm = try await TestClient.connect(port: gateway.port)
            _ = try await calm.open(Connect(version: .v5, clientID: "a-calm"))
            let busy = try await TestClient.connect(port: gateway.port)
            _ = try await busy.open(Connect(version: .v5, clientID: "b-busy"))
            for id in UInt16(1)...6 { try await busy.send(message("devices/x", ByteBuffer(string: "x"), id: id)) }
            for _ in 1...6 { _ = try await busy.next() }
            let listing = await gateway.service.devices()
            #expect(listing.gateway == "test" && listing.leftOut == 0)
            #expect(listing.devices.map(\.id) == ["b-busy", "a-calm"])
            #expect(listing.devices[0].limit == .refused && listing.devices[0].refused["rate"] ?? 0 >= 3)
            #expect(listing.devices[0].clients.map(\.id) == ["b-busy"] && listing.devices[0].group == "local")
            #expect(listing.devices[1].limit == .none && listing.devices[1].refused == [:])
            let since = try #require(listing.devices[1].clients.first?.connectedSince)
            let now = RFC3339.text(secondsSince1970: Int64(Date().timeIntervalSince1970))
            #expect(since.prefix(13) == now.prefix(13) || since < now, "\(since) \(now)")
            #expect(await gateway.service.devices(maximum: 1).leftOut == 1)

            let status = await gateway.service.status(
                uplink: nil, certificates: [], health: [:], maximumDevices: 10)
            #expect(status.connections == 2 && status.buffer.messages > 0 && status.uptime >= 0)
            await calm.close()
            await busy.close()
        }
    }

    /// Its keep-alive is 1 s, so that it would be ended after 1.5 s of silence.
    @Test func aSlowedClientOf311StaysConnectedPastItsKeepAlive() async throws {
        let configuration = openConfiguration {
            $0.deviceLimits.messagesPerSecond = 5
            $0.deviceLimits.burst = 1
            $0.deviceLimits.overLimit = .slow
            $0.mqtt.receiveMaximum = 2
        }
        try await withRunningGateway(configuration) { gateway in
            let client = try await TestClient.connect(port: gateway.port, version: .v311)
            _ = try await client.open(Connect(version: .v311, clientID: "slow", keepAlive: 1))
            // Far beyond the window of held messages: the socket is not read, and no ping could be.
            var bytes = ByteBuffer()
            for id in UInt16(1)...20 {
                bytes.write(message("devices/x", ByteBuffer(string: "x"), id: id), version: .v311)
            }
            client.post(bytes)
            try await eventually("it is paused") {
                try await gateway.look { $0.broker.connections.first?.isPaused == true }
            }
            let started = ContinuousClock.now
            for id in UInt16(1)...20 {
                #expect(try await client.next() == .puback(Acknowledgement(packetID: id)))
            }
            let took = ContinuousClock.now - started
            #expect(took > .seconds(3), "\(took): longer than twice its patience")
            try await client.send(.pingreq, version: .v311)
            #expect(try await client.next() == .pingresp)
            #expect(await gateway.service.devices().devices.first?.limit == .slowed)
            #expect(gateway.closed(.keepAliveTimeout) == 0)
            await client.close()
        }
    }
}
