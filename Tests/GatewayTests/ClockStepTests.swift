import Buffer
import Foundation
import GatewaySupport
import MQTTSession
import MQTTWire
import NIOConcurrencyHelpers
import NIOCore
import NIOSSL
import Operations
import PKI
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

    /// Certificates are issued today, so that by a clock of 1970 they are not valid yet.
    @Test func aGatewayThatBootsIn1970AcceptsItsDevices() async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-step-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: folder) }
        let pki = PKIDirectory(folder.path + "/pki")
        let now = SystemClock.wallMicroseconds() / 1_000_000
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try pki.create(now: now)
        let (server, device) = (try PeerRole(.server, id: "edge"), try PeerRole(.device, id: "pump-1"))
        try pki.issue([.init(role: server, names: [.dns("localhost")]), .init(role: device)], now: now)
        var configuration = gatewayConfiguration()
        configuration.listeners[0].tls = .init(
            certificate: pki.certificate(server), key: pki.key(server), clientCA: pki.authorityCertificate, crl: nil)
        let tls = try TLSProfile.client(
            certificate: pki.certificate(device), key: pki.key(device), ca: pki.authorityCertificate)
        let context = try NIOSSLContext(configuration: withoutName(tls))
        func reason(_ clock: SystemClock, in folder: URL) async throws -> ReasonCode? {
            try await withRunningGateway(configuration, in: folder, clock: clock) { gateway in
                let client = try await TestClient.connect(port: gateway.port, tls: context)
                let answer = try await client.open(Connect(version: .v5, clientID: "c"))
                // The sweep looks at the certificates of those who are connected.
                try await Task.sleep(for: .milliseconds(1_200))
                #expect(try await gateway.look { $0.connectionCount } == (answer?.reason == .success ? 1 : 0))
                await client.close()
                return answer?.reason
            }
        }
        let in1970 = SystemClock(
            bootHigh: 1, bootLow: 2, wall: SystemClock.monotonicMicroseconds, synchronised: { false })
        let in2076 = SystemClock(
            bootHigh: 1, bootLow: 3, wall: { SystemClock.wallMicroseconds() + Self.fiftyYears },
            synchronised: { false })
        #expect(
            try await reason(in1970, in: folder.appendingPathComponent("new")) == .notAuthorized,
            "a gateway that has never known the time has its clock alone")
        let right = SystemClock(bootHigh: 1, bootLow: 1, synchronised: { true })
        for clock in [right, in1970, in2076] { #expect(try await reason(clock, in: folder) == .success) }
    }

    private func withoutName(_ tls: TLSConfiguration) -> TLSConfiguration {
        var tls = tls
        tls.certificateVerification = .noHostnameVerification
        return tls
    }
}
