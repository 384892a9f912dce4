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

/// A gateway that runs, with what a test looks into.
package struct RunningGateway: Sendable {
    package let service: GatewayService
    package let buffer: Buffer
    package let metrics: MetricRegistry
    package let health: HealthRegistry
    package let port: Int
}

/// Runs `body` against a gateway on a free port, then shuts it down in order.
///
/// - Parameter kept: a folder for the buffer that another gateway is to find; the caller removes it.
package func withRunningGateway<Result: Sendable>(
    _ configuration: EdgeConfiguration, in kept: URL? = nil, clock: SystemClock = .ofThisBoot,
    _ body: @escaping @Sendable (RunningGateway) async throws -> Result
) async throws -> Result {
    let folder =
        kept
        ?? FileManager.default.temporaryDirectory.appendingPathComponent("sluice-gateway-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { if kept == nil { try? FileManager.default.removeItem(at: folder) } }
    var random = SystemRandomNumberGenerator()
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    var settings = Buffer.Configuration(path: folder.appendingPathComponent("buffer.db").path, gatewayID: "test")
    // The disk of the machine that tests is none of their questions.
    settings.freeDiskFloor = 0
    settings.clock = clock
    let opened = try Buffer.open(settings, epoch: .random(using: &random), logger: logger)
    let metrics = MetricRegistry()
    let health = HealthRegistry()
    let service = try await GatewayService(
        configuration: configuration, buffer: opened.buffer, restored: opened.restored, clock: clock,
        metrics: GatewayMetrics(metrics), health: health, logger: logger)
    let group = ServiceGroup(
        configuration: .init(services: [.init(service: service)], gracefulShutdownSignals: [], logger: logger))
    let running = Task { try await group.run() }
    while service.addresses.isEmpty { try await Task.sleep(for: .milliseconds(5)) }
    let gateway = RunningGateway(
        service: service, buffer: opened.buffer, metrics: metrics, health: health,
        port: service.addresses[0].port ?? 0)
    let result: Swift.Result<Result, any Error>
    do { result = .success(try await body(gateway)) } catch { result = .failure(error) }
    await group.triggerGracefulShutdown()
    try await running.value
    await opened.buffer.close()
    return try result.get()
}

/// The same for those who need the port and the buffer alone.
package func withGateway<Result: Sendable>(
    _ configuration: EdgeConfiguration = gatewayConfiguration(),
    _ body: @escaping @Sendable (Int, Buffer) async throws -> Result
) async throws -> Result {
    try await withRunningGateway(configuration) { try await body($0.port, $0.buffer) }
}

/// A condition that did not come about.
package struct NotInTime: Error, CustomStringConvertible {
    package let description: String
}

/// Tries until it is so, every 10 ms.
package func eventually(
    _ what: String, within limit: Duration = .seconds(10), _ body: () async throws -> Bool
) async throws {
    let end = ContinuousClock.now + limit
    while try await !body() {
        guard ContinuousClock.now < end else { throw NotInTime(description: "not within \(limit): \(what)") }
        try await Task.sleep(for: .milliseconds(10))
    }
}
