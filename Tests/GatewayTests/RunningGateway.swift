import Buffer
import Foundation
import Logging
import MQTTSession
import MQTTWire
import NIOCore
import Operations
import ServiceLifecycle
import SyncModel
import Testing

@testable import Gateway

/// A gateway with what a test looks into.
struct GatewayUnderTest: Sendable {
    let service: GatewayService
    let buffer: Buffer
    let metrics: MetricRegistry
    let health: HealthRegistry
    let port: Int

    /// Looks at the driver, on its loop.
    func look<Value: Sendable>(_ body: @escaping @Sendable (GatewayDriver) -> Value) async throws -> Value {
        let driver = service.driver
        return try await driver.eventLoop.submit { body(driver.value) }.get()
    }

    /// The value of a series, as `name{label="value"}` in `/metrics`.
    func metric(_ series: String) -> Double? {
        metrics.text().split(separator: "\n").first { $0.hasPrefix(series + " ") }
            .flatMap { $0.split(separator: " ").last }.flatMap { Double($0) }
    }

    func closed(_ reason: CloseReason) -> Double {
        metric("sluice_connections_closed_total{reason=\"\(reason.rawValue)\"}") ?? 0
    }
}

/// A gateway without limits on rates, one plaintext listener unless another is given.
func openConfiguration(_ change: (inout EdgeConfiguration) -> Void = { _ in }) -> EdgeConfiguration {
    var configuration = EdgeConfiguration(gatewayID: "test")
    configuration.listeners = [.init(endpoint: .init(address: "127.0.0.1", port: 0), tls: nil)]
    configuration.access = [.init(verdict: .allow, action: .all, topic: "#")]
    configuration.uplink = .init(url: "https://127.0.0.1:1", certificate: "", key: "", ca: "")
    configuration.uplink?.topics = ["devices/#"]
    configuration.deviceLimits.messagesPerSecond = nil
    configuration.deviceLimits.bytesPerSecond = nil
    configuration.global.messagesPerSecond = nil
    configuration.global.connectionsPerSecond = nil
    configuration.buffer.freeDiskFloor = 0
    change(&configuration)
    return configuration
}

/// Runs `body` against a gateway, then shuts it down in order.
func withGatewayUnderTest(
    _ configuration: EdgeConfiguration, _ body: @escaping @Sendable (GatewayUnderTest) async throws -> Void
) async throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-gateway-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    var random = SystemRandomNumberGenerator()
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    var settings = Buffer.Configuration(path: folder.appendingPathComponent("buffer.db").path, gatewayID: "test")
    settings.freeDiskFloor = 0
    let opened = try Buffer.open(settings, epoch: .random(using: &random), logger: logger)
    let registry = MetricRegistry()
    let health = HealthRegistry()
    let service = try await GatewayService(
        configuration: configuration, buffer: opened.buffer, restored: opened.restored, clock: SystemClock(),
        metrics: GatewayMetrics(registry), health: health, logger: logger)
    let group = ServiceGroup(
        configuration: .init(services: [.init(service: service)], gracefulShutdownSignals: [], logger: logger))
    let running = Task { try await group.run() }
    while service.addresses.isEmpty { try await Task.sleep(for: .milliseconds(5)) }
    let gateway = GatewayUnderTest(
        service: service, buffer: opened.buffer, metrics: registry, health: health,
        port: service.addresses[0].port ?? 0)
    let result: Result<Void, any Error>
    do { result = .success(try await body(gateway)) } catch { result = .failure(error) }
    await group.triggerGracefulShutdown()
    try await running.value
    await opened.buffer.close()
    try result.get()
}

/// Tries until it is so, every 10 ms.
func eventually(
    _ what: String, within limit: Duration = .seconds(10), _ body: () async throws -> Bool
) async throws {
    let end = ContinuousClock.now + limit
    while try await !body() {
        guard ContinuousClock.now < end else {
            Issue.record("not within \(limit): \(what)")
            return
        }
        try await Task.sleep(for: .milliseconds(10))
    }
}

func message(
    _ topic: String, _ payload: ByteBuffer, qos: QoS = .atLeastOnce, id: UInt16 = 0, retain: Bool = false
) -> Packet {
    .publish(
        Publish(topic: ByteBuffer(string: topic), payload: payload, packetID: id, qos: qos, retain: retain))
}
