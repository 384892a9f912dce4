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
    /// Runs `body` while the writer's thread stands still.
    private func whileStalled(_ gateway: RunningGateway, _ body: () async throws -> Void) async throws {
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
        let result: Result<Void, any Error>
        do { result = .success(try await body()) } catch { result = .failure(error) }
        goesOn.signal()
        try await job.value
        try result.get()
    }

    /// Bounds that a test reaches quickly.
    private func narrow(_ gateway: RunningGateway) async throws {
        try await gateway.look { driver in
            var configuration = driver.broker.configuration
            configuration.openGroupBytesMaximum = 64 * 1024
            configuration.heldBytesMaximum = 64 * 1024
            configuration.allHeldBytesMaximum = 256 * 1024
            driver.broker.reconfigure(configuration, now: driver.now())
        }
    }

    private func waitingBytes(_ gateway: RunningGateway) async throws -> Int {
        try await gateway.look { $0.output.group.byteCount + $0.broker.heldBytes }
    }

    @Test(arguments: [ProtocolVersion.v311, .v5])
    func nothingIsAcknowledgedPingsAreAnsweredAndNothingIsLost(version: ProtocolVersion) async throws {
        try await withRunningGateway(openConfiguration()) { gateway in
            try await narrow(gateway)
            let calm = try await TestClient.connect(port: gateway.port, version: version)
            _ = try await calm.open(Connect(version: version, clientID: "calm"))
            let flood = try await TestClient.connect(port: gateway.port, version: .v311)
            _ = try await flood.open(Connect(version: .v311, clientID: "flood"))

            try await whileStalled(gateway) {
                // Far more than may wait: 300 messages of 10 kB.
                var bytes = ByteBuffer()
                let payload = ByteBuffer(repeating: 0x78, count: 10_000)
                for id in UInt16(1)...300 { bytes.write(message("devices/flood/t", payload, id: id), version: .v311) }
                flood.post(bytes)
                try await eventually("the flood's socket is not read any more") {
                    try await gateway.look { $0.broker.connections.contains { $0.isPaused } }
                }
                for id in UInt16(1)...8 {
                    try await calm.send(
                        message("devices/calm/t", ByteBuffer(string: "\(id)"), id: id), version: version)
                    try await calm.send(.pingreq, version: version)
                    #expect(try await calm.next() == .pingresp)
                }
                // One read of the flood more than the bounds, and the bounds are those of `narrow`.
                let waiting = try await waitingBytes(gateway)
                #expect((64_000...600_000).contains(waiting), "\(waiting) bytes wait")
            }

            for id in UInt16(1)...8 { #expect(try await calm.next() == .puback(Acknowledgement(packetID: id))) }
            for id in UInt16(1)...300 { #expect(try await flood.next() == .puback(Acknowledgement(packetID: id))) }
            #expect(try await gateway.buffer.accounting().epochs.last?.lastSequence == 308)
            #expect(try await waitingBytes(gateway) == 0)
            await calm.close()
            await flood.close()
        }
    }

    @Test func aFloodOfQoS0IsPausedWithinOneRead() async throws {
        try await withRunningGateway(openConfiguration()) { gateway in
            try await narrow(gateway)
            let client = try await TestClient.connect(port: gateway.port)
            _ = try await client.open(Connect(version: .v5, clientID: "flood"))
            try await whileStalled(gateway) {
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
            }
            try await eventually("everything is in the buffer") {
                try await gateway.buffer.accounting().epochs.last?.lastSequence == 20_000
            }
            try await client.send(.pingreq)
            #expect(try await client.next() == .pingresp)
            await client.close()
        }
    }

    /// A group of 500 entries is at its bound.
    private func boundEntries(_ gateway: RunningGateway) async throws {
        try await gateway.look { driver in
            var configuration = driver.broker.configuration
            configuration.openGroupEntriesMaximum = 500
            driver.broker.reconfigure(configuration, now: driver.now())
        }
    }

    private func subscriptions(_ count: UInt16) -> ByteBuffer {
        var bytes = ByteBuffer()
        for id in 1...count {
            let one = Subscription(filter: "a", qos: .atMostOnce)
            bytes.write(.subscribe(Subscribe(packetID: id, subscriptions: [one])), version: .v5)
        }
        return bytes
    }

    private func expectAnswers(_ count: UInt16, to client: TestClient) async throws {
        for id in 1...count {
            guard case .suback(let answer)? = try await client.next(), answer.packetID == id else {
                Issue.record("SUBACK \(id) did not come")
                return
            }
        }
    }

    /// Does a client whose packets do not wait in the window (here: subscriptions of a stored session) hinder others?
    @Test func aFloodOfSubscriptionsStopsItsOwnClientAlone() async throws {
        try await withRunningGateway(openConfiguration()) { gateway in
            try await boundEntries(gateway)
            let flood = try await TestClient.connect(port: gateway.port)
            _ = try await flood.open(Connect(version: .v5, clientID: "flood", sessionExpiryInterval: 600))
            let calm = try await TestClient.connect(port: gateway.port)
            _ = try await calm.open(Connect(version: .v5, clientID: "calm"))
            try await whileStalled(gateway) {
                // The writer has this one; the rest is in the open group.
                try await calm.send(message("devices/calm/t", ByteBuffer(string: "1"), id: 1))
                try await eventually("the writer has a group") { try await gateway.look { $0.groupInFlight != nil } }
                flood.post(subscriptions(60_000))
                try await eventually("the flood's socket is not read any more") {
                    try await gateway.look { $0.broker.connections.contains { $0.isPaused } }
                }
                let entries = try await gateway.look { $0.output.group.entryCount }
                // Two for each, and a window's worth beyond the bound.
                #expect((501...500 + 2 * 33 + 2).contains(entries), "\(entries)")
                for _ in 0..<8 {
                    try await calm.send(.pingreq)
                    #expect(try await calm.next() == .pingresp)
                }
            }
            try await expectAnswers(60_000, to: flood)
            #expect(try await calm.next() == .puback(Acknowledgement(packetID: 1)))
            await flood.close()
            await calm.close()
        }
    }

    @Test func beyondTheBoundOfAllNoSocketIsRead() async throws {
        try await withRunningGateway(openConfiguration()) { gateway in
            try await boundEntries(gateway)
            var floods: [TestClient] = []
            for index in 0..<20 {
                let flood = try await TestClient.connect(port: gateway.port)
                _ = try await flood.open(Connect(version: .v5, clientID: "f\(index)", sessionExpiryInterval: 600))
                floods.append(flood)
            }
            let other = try await TestClient.connect(port: gateway.port)
            _ = try await other.open(Connect(version: .v5, clientID: "other"))
            try await whileStalled(gateway) {
                try await other.send(message("devices/other/t", ByteBuffer(string: "1"), id: 1))
                try await eventually("the writer has a group") { try await gateway.look { $0.groupInFlight != nil } }
                let bytes = subscriptions(2_000)
                for flood in floods { flood.post(bytes) }
                try await eventually("all together are at their bound") { try await gateway.look { $0.isOverfull } }
                let entries = try await gateway.look { $0.output.group.entryCount }
                // Each of them has had the read that it had asked for, and no more.
                #expect((1_001...500 + 20 * 2 * 33 + 2).contains(entries), "\(entries)")
                var ping = ByteBuffer()
                ping.write(.pingreq, version: .v5)
                other.post(ping)
                try await eventually("nobody is read") { try await gateway.look { $0.readsAreOwed } }
            }
            let answers = [try await other.next(), try await other.next()]
            #expect(answers.contains(.puback(Acknowledgement(packetID: 1))) && answers.contains(.pingresp))
            for flood in floods { try await expectAnswers(2_000, to: flood) }
            for flood in floods { await flood.close() }
            await other.close()
        }
    }
}
