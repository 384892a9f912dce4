import Foundation
import GatewaySupport
import MQTTSession
import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import Buffer
@testable import Gateway
@testable import MQTTSession

/// The disk does not answer: what do the devices see, and what does it cost?
@Suite(.serialized) struct StalledDiskTests {
    /// Stops the writer's thread until the second call of what it returns.
    private func stall(_ gateway: GatewayUnderTest) async throws -> @Sendable () async throws -> Void {
        let isHeld = DispatchSemaphore(value: 0)
        let goesOn = DispatchSemaphore(value: 0)
        let buffer = gateway.buffer
        let job = Task {
            try await buffer.perform { _ in
                isHeld.signal()
                goesOn.wait()
            }
        }
        await withCheckedContinuation { continuation in
            DispatchQueue.global().async {
                isHeld.wait()
                continuation.resume()
            }
        }
        return {
            goesOn.signal()
            try await job.value
        }
    }

    /// Bounds that a test reaches quickly.
    private func narrow(_ gateway: GatewayUnderTest) async throws {
        try await gateway.look { driver in
            var configuration = driver.broker.configuration
            configuration.openGroupBytesMaximum = 64 * 1024
            configuration.heldBytesMaximum = 64 * 1024
            configuration.allHeldBytesMaximum = 256 * 1024
            driver.broker.reconfigure(configuration, now: driver.now())
        }
    }

    private func waitingBytes(_ gateway: GatewayUnderTest) async throws -> Int {
        try await gateway.look { $0.output.group.byteCount + $0.broker.heldBytes }
    }

    @Test(arguments: [ProtocolVersion.v311, .v5])
    func nothingIsAcknowledgedPingsAreAnsweredAndNothingIsLost(version: ProtocolVersion) async throws {
        try await withGatewayUnderTest(openConfiguration()) { gateway in
            try await narrow(gateway)
            let calm = try await TestClient.connect(port: gateway.port, version: version)
            _ = try await calm.open(Connect(version: version, clientID: "calm"))
            let flood = try await TestClient.connect(port: gateway.port, version: .v311)
            _ = try await flood.open(Connect(version: .v311, clientID: "flood"))

            let goOn = try await stall(gateway)
            // Far more than may wait: 300 messages of 10 kB.
            var bytes = ByteBuffer()
            let payload = ByteBuffer(repeating: 0x78, count: 10_000)
            for id in UInt16(1)...300 { bytes.write(message("devices/flood/t", payload, id: id), version: .v311) }
            flood.post(bytes)
            try await eventually("the flood's socket is not read any more") {
                try await gateway.look { $0.broker.connections.contains { $0.isPaused } }
            }
            for id in UInt16(1)...8 {
                try await calm.send(message("devices/calm/t", ByteBuffer(string: "\(id)"), id: id), version: version)
                try await calm.send(.pingreq, version: version)
                #expect(try await calm.next() == .pingresp)
            }
            // One read of the flood more than the bounds, and the bounds are those of `narrow`.
            let waiting = try await waitingBytes(gateway)
            #expect((64_000...600_000).contains(waiting), "\(waiting) bytes wait")
            try await goOn()

            for id in UInt16(1)...8 { #expect(try await calm.next() == .puback(Acknowledgement(packetID: id))) }
            for id in UInt16(1)...300 { #expect(try await flood.next() == .puback(Acknowledgement(packetID: id))) }
            #expect(try await gateway.buffer.accounting().epochs.last?.lastSequence == 308)
            #expect(try await waitingBytes(gateway) == 0)
            await calm.close()
            await flood.close()
        }
    }

    @Test func aFloodOfQoS0IsPausedWithinOneRead() async throws {
        try await withGatewayUnderTest(openConfiguration()) { gateway in
            try await narrow(gateway)
            let client = try await TestClient.connect(port: gateway.port)
            _ = try await client.open(Connect(version: .v5, clientID: "flood"))
            let goOn = try await stall(gateway)
            var bytes = ByteBuffer()
            for _ in 0..<20_000 {
                bytes.write(
                    message("devices/flood/t", ByteBuffer(string: "0123456789"), qos: .atMostOnce), version: .v5)
            }
            client.post(bytes)
            try await eventually("the flood's socket is not read any more") {
                try await gateway.look { $0.broker.connections.contains { $0.isPaused } }
            }
            let held = try await gateway.look { $0.broker.connections[0].heldMessages }
            #expect(held == 33)
            try await goOn()
            try await eventually("everything is in the buffer") {
                try await gateway.buffer.accounting().epochs.last?.lastSequence == 20_000
            }
            try await client.send(.pingreq)
            #expect(try await client.next() == .pingresp)
            await client.close()
        }
    }

    /// What does not wait in the window (here: subscriptions of stored sessions) is bounded as well, for all together.
    @Test func beyondTheBoundOfAllNoSocketIsRead() async throws {
        try await withGatewayUnderTest(openConfiguration()) { gateway in
            try await gateway.look { driver in
                var configuration = driver.broker.configuration
                configuration.openGroupEntriesMaximum = 500
                driver.broker.reconfigure(configuration, now: driver.now())
            }
            let flood = try await TestClient.connect(port: gateway.port)
            _ = try await flood.open(Connect(version: .v5, clientID: "flood", sessionExpiryInterval: 600))
            let other = try await TestClient.connect(port: gateway.port)
            _ = try await other.open(Connect(version: .v5, clientID: "other"))
            let goOn = try await stall(gateway)
            // The writer has this one; the rest is in the open group.
            try await other.send(message("devices/other/t", ByteBuffer(string: "1"), id: 1))
            try await eventually("the writer has a group") { try await gateway.look { $0.groupInFlight != nil } }
            var bytes = ByteBuffer()
            for id in UInt16(1)...60_000 {
                let one = Subscription(filter: "a", qos: .atMostOnce)
                bytes.write(.subscribe(Subscribe(packetID: id, subscriptions: [one])), version: .v5)
            }
            flood.post(bytes)
            try await eventually("everything together is at its bound") { try await gateway.look { $0.isOverfull } }
            let entries = try await gateway.look { $0.output.group.changes.count + $0.output.group.effects.count }
            // A read brings at most 4 × 64 KiB, of at least 9 bytes each, with two entries each.
            #expect(entries < 1_000 + 2 * 4 * 65_536 / 9, "\(entries)")
            try await goOn()
            for id in UInt16(1)...60_000 {
                guard case .suback(let answer)? = try await flood.next(), answer.packetID == id else {
                    Issue.record("SUBACK \(id) did not come")
                    return
                }
            }
            #expect(try await other.next() == .puback(Acknowledgement(packetID: 1)))
            await flood.close()
            await other.close()
        }
    }
}
