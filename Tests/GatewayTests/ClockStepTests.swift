import Buffer
import Foundation
import GatewaySupport
import MQTTSession
import MQTTWire
import NIOConcurrencyHelpers
import NIOCore
import Operations
import Testing

@testable import Gateway

/// Steps of the wall clock, in a gateway that runs and over its restarts.
@Suite(.serialized) struct ClockStepTests {
    private static let fiftyYears: Int64 = 50 * 365 * 86_400 * 1_000_000

    /// The kernel's clocks, the wall clock moved and without synchronisation, in a boot of the test's own.
    private func clock(boot: UInt64, step: NIOLockedValueBox<Int64>) -> SystemClock {
        SystemClock(
            bootHigh: 1, bootLow: boot, wall: { SystemClock.wallMicroseconds() + step.withLockedValue { $0 } },
            synchronised: { false })
    }

    @Test(arguments: [fiftyYears, -fiftyYears])
    func aStepExpiresNoSessionNoQueueNoRetainedMessage(by years: Int64) async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-step-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: folder) }
        let step = NIOLockedValueBox<Int64>(0)
        let reader = Connect(version: .v5, clientID: "reader", cleanStart: false, sessionExpiryInterval: 600)
        try await withRunningGateway(gatewayConfiguration(), in: folder, clock: clock(boot: 1, step: step)) { gateway in
            let first = try await TestClient.connect(port: gateway.port)
            _ = try await first.open(reader)
            try await first.send(
                .subscribe(Subscribe(packetID: 1, subscriptions: [Subscription(filter: "q", qos: .atLeastOnce)])))
            _ = try await first.next()
            await first.close()
            let writer = try await TestClient.connect(port: gateway.port)
            _ = try await writer.open(Connect(version: .v5, clientID: "writer"))
            for (id, topic) in [(1, "q"), (2, "r")] as [(UInt16, String)] {
                try await writer.send(
                    .publish(
                        Publish(
                            topic: ByteBuffer(string: topic), payload: ByteBuffer(string: "kept"), packetID: id,
                            qos: .atLeastOnce, retain: topic == "r", messageExpiry: 300)))
                #expect(try await writer.next() == .puback(Acknowledgement(packetID: id)))
            }
            step.withLockedValue { $0 = years }
            // Sessions are looked at once a second.
            try await Task.sleep(for: .milliseconds(1_200))
            #expect(try await gateway.look { $0.broker.sessions.contains { $0.clientID == "reader" } })
            await writer.close()
        }
        try await withRunningGateway(gatewayConfiguration(), in: folder, clock: clock(boot: 2, step: step)) { gateway in
            let again = try await TestClient.connect(port: gateway.port)
            #expect(try await again.open(reader)?.sessionPresent == true)
            try await again.send(
                .subscribe(Subscribe(packetID: 1, subscriptions: [Subscription(filter: "r", qos: .atMostOnce)])))
            var left: [String: UInt32] = [:]
            while left.count < 2 {
                guard let packet = try await again.next() else { break }
                guard case .publish(let found) = packet else { continue }
                left[String(buffer: found.topic)] = found.messageExpiry
            }
            #expect(left.keys.sorted() == ["q", "r"])
            #expect(left.values.allSatisfy { (280...300).contains($0) }, "MQTT-3.3.2-6: \(left)")
            await again.close()
        }
    }
}
