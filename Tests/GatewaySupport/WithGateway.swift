import Buffer
import Foundation
import Gateway
import Logging
import NIOCore
import Operations
import ServiceLifecycle
import SyncModel

/// One plaintext listener on a free port; its clients may do everything, and everything is synced to nowhere.
package func gatewayConfiguration() -> EdgeConfiguration {
    var configuration = EdgeConfiguration(gatewayID: "test")
    configuration.listeners = [.init(endpoint: .init(address: "127.0.0.1", port: 0), tls: nil)]
    configuration.access = [.init(verdict: .allow, action: .all, topic: "#", group: "local")]
    configuration.uplink = .init(url: "https://127.0.0.1:1", certificate: "", key: "", ca: "")
    return configuration
}

/// Runs `body` against a gateway on a free port, then shuts it down in order.
package func withGateway<Result: Sendable>(
    _ configuration: EdgeConfiguration = gatewayConfiguration(),
    _ body: @escaping @Sendable (Int, Buffer) async throws -> Result
) async throws -> Result {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-gateway-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    var random = SystemRandomNumberGenerator()
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let opened = try Buffer.open(
        .init(path: folder.appendingPathComponent("buffer.db").path, gatewayID: "test"),
        epoch: .random(using: &random), logger: logger)
    let service = try await GatewayService(
        configuration: configuration, buffer: opened.buffer, restored: opened.restored, clock: SystemClock(),
        metrics: GatewayMetrics(),
        logger: logger)
    let group = ServiceGroup(
        configuration: .init(services: [.init(service: service)], gracefulShutdownSignals: [], logger: logger))
    let running = Task { try await group.run() }
    while service.addresses.isEmpty { try await Task.sleep(for: .milliseconds(5)) }
    let port = service.addresses[0].port ?? 0
    let result: Swift.Result<Result, any Error>
    do { result = .success(try await body(port, opened.buffer)) } catch { result = .failure(error) }
    await group.triggerGracefulShutdown()
    try await running.value
    await opened.buffer.close()
    return try result.get()
}
