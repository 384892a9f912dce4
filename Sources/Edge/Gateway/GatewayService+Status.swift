import Buffer
import Flow
import MQTTSession
import NIOCore
import Operations
import Sparkplug
import SyncModel

/// What the gateway says of itself to the status page and the command line.
extension GatewayService {
    /// The devices that are connected or limited, those that need attention first.
    package func devices(maximum: Int = DeviceListing.maximum) async -> DeviceListing {
        listing(of: await look(), maximum: maximum)
    }

    /// - Parameters:
    ///   - uplink: `nil` for a local broker.
    ///   - certificates: beside those of the listeners and their clients.
    package func status(
        uplink: UplinkSummary?, certificates: [CertificateStatus], health: [String: HealthState], maximumDevices: Int
    ) async -> GatewayStatus {
        let sight = await look()
        let fill = buffer.fill()
        var status = GatewayStatus(
            gateway: configuration.gatewayID, now: sight.time.clock.wallTime / 1_000_000,
            uptime: (sight.time.monotonic - startedAt) / 1_000_000,
            isClockSynchronised: sight.time.clock.isSynchronised, connections: sight.connections,
            devices: listing(of: sight, maximum: maximumDevices),
            lastTenSeconds: DeviceStatus.Rate(sight.meter.lastTenSeconds),
            lastMinute: DeviceStatus.Rate(sight.meter.lastMinute),
            buffer: .init(
                messages: fill.messages, bytes: fill.bytes, maximumBytes: fill.maximumBytes, isFull: fill.isFull,
                oldestAge: fill.oldestFrame.map { max(0, sight.time.clock.wallTime - $0) / 1_000_000 }),
            uplink: uplink, certificates: listenerCertificates() + certificates, health: health,
            sparkplug: SparkplugListing(nodes: sight.nodes.map(SparkplugNodeStatus.init), count: sight.nodeCount))
        status.rules = buffer.localWork().map {
            LocalRuleSummary(name: $0.name, held: $0.held, consumed: $0.consumed, aggregates: $0.aggregates)
        }
        return status
    }

    private struct Sight: Sendable {
        var time: BrokerTime
        var connections: Int
        var devices: [DeviceSnapshot]
        var meter: RateMeter
        var nodes: [SparkplugMonitor.Sight]
        var nodeCount: Int
    }

    /// On the event loop a copy alone is made; what is shown is made elsewhere.
    private func look() async -> Sight {
        let driver = driver
        let seen = driver.eventLoop.submit {
            let driver = driver.value
            let time = driver.now()
            return Sight(
                time: time, connections: driver.connectionCount, devices: driver.broker.deviceSnapshots(now: time),
                meter: driver.broker.meter, nodes: driver.broker.sparkplug.sights(maximum: SparkplugListing.maximum),
                nodeCount: driver.broker.sparkplug.nodeCount)
        }
        // Fails only when the loop has ended, and then there is nothing to see.
        return (try? await seen.get())
            ?? Sight(
                time: EdgeClock(clock, gatewayTime: buffer.gatewayTime).now(), connections: 0, devices: [],
                meter: RateMeter(), nodes: [], nodeCount: 0)
    }

    private func listing(of sight: Sight, maximum: Int) -> DeviceListing {
        let all = sight.devices.sorted { a, b in
            a.needsAttention == b.needsAttention ? a.id < b.id : a.needsAttention
        }
        return DeviceListing(
            gateway: configuration.gatewayID, devices: all.prefix(maximum).map { DeviceStatus($0, at: sight.time) },
            leftOut: max(0, all.count - maximum))
    }

    private func listenerCertificates() -> [CertificateStatus] {
        var found: [CertificateStatus] = []
        for listener in listeners {
            if let end = listener.certificateNotAfter {
                found.append(CertificateStatus(name: "listener \(listener.name)", expiresAt: end))
            }
            if let due = listener.listNextUpdate {
                found.append(CertificateStatus(name: "revocation list of \(listener.name)", expiresAt: due))
            }
        }
        if let nearest = metrics.nearestClientExpiry {
            found.append(CertificateStatus(name: "first of the connected devices", expiresAt: nearest))
        }
        return found
    }
}

extension SparkplugNodeStatus {
    init(_ node: SparkplugMonitor.Sight) {
        let state: State =
            switch node.state {
            case .unknown: .unknown
            case .online: .online
            case .offline: .offline
            }
        self.init(
            name: node.name, state: state, bornAt: node.bornAt.map { $0 / 1_000_000 }, devices: node.devices,
            devicesOnline: node.devicesOnline, lostMessages: node.lost)
    }
}

extension DeviceStatus.Rate {
    init(_ rate: RateMeter.Rate) { self.init(messagesPerSecond: rate.messages, bytesPerSecond: rate.bytes) }
}

extension DeviceStatus {
    init(_ device: DeviceSnapshot, at time: BrokerTime) {
        let limit: Limit =
            switch (device.isLimited, device.overLimit) {
            case (false, _): .none
            case (true, .refuse): .refused
            case (true, .slow): .slowed
            }
        var refused: [String: UInt64] = [:]
        for reason in RefusalReason.allCases where device.refused[reason] > 0 {
            refused["\(reason)"] = device.refused[reason]
        }
        self.init(
            id: device.id, group: device.group,
            clients: device.clients.map { client in
                Client(
                    id: client.id,
                    connectedSince: RFC3339.text(
                        secondsSince1970: (time.clock.wallTime - (time.monotonic - client.connectedAt)) / 1_000_000),
                    isPaused: client.isPaused, heldMessages: client.heldMessages)
            },
            lastTenSeconds: Rate(device.lastTenSeconds), lastMinute: Rate(device.lastMinute),
            usualMessagesPerSecond: device.usualRate, isUnusual: device.isUnusual, limit: limit, refused: refused)
    }
}
