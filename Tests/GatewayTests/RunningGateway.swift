import GatewaySupport
import MQTTSession
import MQTTWire
import NIOCore
import Operations

@testable import Gateway

extension RunningGateway {
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
    var configuration = gatewayConfiguration()
    configuration.access = [.init(verdict: .allow, action: .all, topic: "#")]
    configuration.uplink?.topics = ["devices/#"]
    configuration.deviceLimits.messagesPerSecond = nil
    configuration.deviceLimits.bytesPerSecond = nil
    configuration.global.messagesPerSecond = nil
    configuration.global.connectionsPerSecond = nil
    configuration.buffer.freeDiskFloor = 0
    change(&configuration)
    return configuration
}

func message(
    _ topic: String, _ payload: ByteBuffer, qos: QoS = .atLeastOnce, id: UInt16 = 0, retain: Bool = false
) -> Packet {
    .publish(
        Publish(topic: ByteBuffer(string: topic), payload: payload, packetID: id, qos: qos, retain: retain))
}
