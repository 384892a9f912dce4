import Buffer
import Foundation
import GatewaySupport
import Logging
import MQTTSession
import MQTTWire
import NIOCore
import Operations
import Testing

@testable import Gateway

/// SIGHUP's work on a gateway that runs.
@Suite(.serialized) struct ReloadTests {
    private final class File: Sendable {
        let path = NSTemporaryDirectory() + "sluice-reload-\(UUID().uuidString).yaml"

        func write(_ text: String) throws { try Data(text.utf8).write(to: URL(fileURLWithPath: path)) }

        deinit { try? FileManager.default.removeItem(atPath: path) }
    }

    private static let base = """
        gateway: { id: test }
        listeners: [{ address: 127.0.0.1, port: 0, plaintext: true }]

        """
    private static let open =
        base + """
            access: [{ allow: all, topic: "#" }]
            limits: { device: { messagesPerSecond: unlimited, bytesPerSecond: unlimited } }
            """

    /// A gateway that was started with `open`, and what reads that file again.
    private func withReloading(
        _ body: @escaping @Sendable (RunningGateway, File, inout ConfigurationReloader) async throws -> Void
    ) async throws {
        let file = File()
        try file.write(Self.open)
        let configuration = try EdgeConfiguration.load(file: file.path)
        try await withRunningGateway(configuration) { gateway in
            var reloader = ConfigurationReloader(
                file: file.path, running: configuration, gateway: gateway.service,
                logger: Logger(label: "t") { _ in SwiftLogNoOpLogHandler() })
            try await body(gateway, file, &reloader)
        }
    }

    private func puback(_ client: TestClient, _ topic: String, id: UInt16) async throws -> ReasonCode? {
        try await client.send(message(topic, ByteBuffer(string: "x"), id: id))
        guard case .puback(let ack)? = try await client.next() else { return nil }
        return ack.reason
    }

    @Test func limitsAndAccessRulesChangeUnderOpenConnections() async throws {
        try await withReloading { gateway, file, reloader in
            let client = try await TestClient.connect(port: gateway.port)
            _ = try await client.open(Connect(version: .v5, clientID: "pump"))
            for id in UInt16(1)...30 { #expect(try await puback(client, "a", id: id) == .success) }

            try file.write(
                Self.base + """
                    access: [{ deny: publish, topic: secret }, { allow: all, topic: "#" }]
                    groups: [{ name: local, limits: { messagesPerSecond: 0.001, burst: 2 } }]
                    """)
            let reload = await reloader.reload()
            #expect(reload?.changed == ["limits.device", "groups", "access"] && reload?.needRestart == [])
            #expect(try await puback(client, "secret", id: 31) == .notAuthorized)
            var answers: [ReasonCode?] = []
            for id in UInt16(32)...35 { answers.append(try await puback(client, "a", id: id)) }
            #expect(answers.suffix(2) == [.quotaExceeded, .quotaExceeded], "\(answers)")

            try file.write(Self.open)
            #expect(await reloader.reload() != nil)
            for id in UInt16(40)...60 { #expect(try await puback(client, "a", id: id) == .success) }
            #expect(try await gateway.look { $0.connectionCount } == 1)
            await client.close()
        }
    }

    @Test func syncedTopicsChangeAtOnce() async throws {
        var configuration = gatewayConfiguration()
        configuration.access = [.init(verdict: .allow, action: .all, topic: "#")]
        configuration.uplink?.topics = ["a/#"]
        let started = configuration
        try await withRunningGateway(started) { gateway in
            let client = try await TestClient.connect(port: gateway.port)
            _ = try await client.open(Connect(version: .v5, clientID: "pump"))
            #expect(try await puback(client, "b/1", id: 1) != nil)
            #expect(gateway.buffer.fill().messages == 0)
            var changed = started
            changed.uplink?.topics = ["b/#"]
            await gateway.service.reconfigure(changed)
            #expect(try await puback(client, "b/1", id: 2) != nil)
            #expect(gateway.buffer.fill().messages == 1)
            await client.close()
        }
    }

    @Test func aFileWithMistakesChangesNothing() async throws {
        try await withReloading { gateway, file, reloader in
            let client = try await TestClient.connect(port: gateway.port)
            _ = try await client.open(Connect(version: .v5, clientID: "pump"))
            try file.write(Self.base + "access: []\nlimitz: {}\n")
            #expect(await reloader.reload() == nil)
            #expect(try await puback(client, "a", id: 1) == .success)
            try file.write(Self.base.replacingOccurrences(of: "port: 0", with: "port: 1") + "access: []\n")
            let reload = await reloader.reload()
            #expect(reload?.needRestart == ["listeners"] && reload?.changed == ["limits.device", "access"])
            await client.close()
        }
    }

    @Test func theCapOnConnectionsChanges() async throws {
        try await withReloading { gateway, file, reloader in
            let first = try await TestClient.connect(port: gateway.port)
            _ = try await first.open(Connect(version: .v5, clientID: "a"))
            try file.write(Self.open + "\n" + "log: { level: info }")
            try file.write(
                Self.open.replacingOccurrences(of: "limits: {", with: "limits: { global: { connections: 1 },"))
            #expect(await reloader.reload()?.changed == ["limits.global"])
            let second = try await TestClient.connect(port: gateway.port)
            #expect(await second.isEnded(within: .seconds(5)))
            #expect(gateway.closed(.tooManyConnections) == 1)
            try await first.send(.pingreq)
            #expect(try await first.next() == .pingresp)
            await first.close()
        }
    }
}
