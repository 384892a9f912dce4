import SyncModel

/// A device as the status page and the command line show it.
package struct DeviceStatus: Codable, Sendable, Equatable {
    package struct Client: Codable, Sendable, Equatable {
        package var id: String
        /// RFC 3339.
        package var connectedSince: String
        /// It is not read for now.
        package var isPaused: Bool
        /// Messages that wait to be taken.
        package var heldMessages: Int

        package init(id: String, connectedSince: String, isPaused: Bool, heldMessages: Int) {
            self.id = id
            self.connectedSince = connectedSince
            self.isPaused = isPaused
            self.heldMessages = heldMessages
        }
    }

    package struct Rate: Codable, Sendable, Equatable {
        package var messagesPerSecond: Double
        package var bytesPerSecond: Double

        package init(messagesPerSecond: Double, bytesPerSecond: Double) {
            self.messagesPerSecond = messagesPerSecond
            self.bytesPerSecond = bytesPerSecond
        }
    }

    /// What its limits do to it now.
    package enum Limit: String, Codable, Sendable, CaseIterable {
        case none, refused, slowed
    }

    package var id: String
    package var group: String?
    /// Its open connections; none, where it was limited within the last minute and is gone.
    package var clients: [Client]
    package var lastTenSeconds: Rate
    package var lastMinute: Rate
    /// Messages a second in the minutes in which it sends.
    package var usualMessagesPerSecond: Double
    /// It sends far more than usual.
    package var isUnusual: Bool
    package var limit: Limit
    /// Messages by reason, since the buffer's file was made.
    package var refused: [String: UInt64]

    package init(
        id: String, group: String?, clients: [Client], lastTenSeconds: Rate, lastMinute: Rate,
        usualMessagesPerSecond: Double, isUnusual: Bool, limit: Limit, refused: [String: UInt64]
    ) {
        self.id = id
        self.group = group
        self.clients = clients
        self.lastTenSeconds = lastTenSeconds
        self.lastMinute = lastMinute
        self.usualMessagesPerSecond = usualMessagesPerSecond
        self.isUnusual = isUnusual
        self.limit = limit
        self.refused = refused
    }
}

/// The devices that are connected or limited; those that need attention first.
package struct DeviceListing: Codable, Sendable, Equatable {
    /// Devices that one listing has at most.
    package static let maximum = 10_000

    package var gateway: String
    package var devices: [DeviceStatus]
    /// Devices that did not fit.
    package var leftOut: Int

    package init(gateway: String, devices: [DeviceStatus], leftOut: Int) {
        self.gateway = gateway
        self.devices = devices
        self.leftOut = leftOut
    }
}

/// A certificate or revocation list that somebody has to replace in time.
package struct CertificateStatus: Sendable, Equatable {
    package var name: String
    /// Seconds since 1970.
    package var expiresAt: Int64

    package init(name: String, expiresAt: Int64) {
        self.name = name
        self.expiresAt = expiresAt
    }
}

/// How far the cloud is behind; what is not known is `nil`.
package struct UplinkSummary: Sendable, Equatable {
    package var url: String
    package var backlogMessages: Int
    package var backlogBytes: Int
    /// Seconds since the oldest message that waits arrived.
    package var lag: Int64?
    /// Seconds since 1970.
    package var lastSuccess: Int64?
    /// Seconds until nothing waits any more, at the present rates.
    package var drainTime: Int64?
    /// Batches that the cloud refuses as they are.
    package var refusedBatches: Int
    /// The hour's bytes are spent.
    package var isHeldBack = false

    package init(
        url: String, backlogMessages: Int, backlogBytes: Int, lag: Int64? = nil, lastSuccess: Int64? = nil,
        drainTime: Int64? = nil, refusedBatches: Int = 0
    ) {
        self.url = url
        self.backlogMessages = backlogMessages
        self.backlogBytes = backlogBytes
        self.lag = lag
        self.lastSuccess = lastSuccess
        self.drainTime = drainTime
        self.refusedBatches = refusedBatches
    }
}

/// What a rule of local work has done since the start.
package struct LocalRuleSummary: Sendable, Equatable {
    package var name: String
    /// Messages that wait for the end of a window now.
    package var held: Int
    package var consumed: Int
    package var aggregates: Int

    package init(name: String, held: Int, consumed: Int, aggregates: Int) {
        self.name = name
        self.held = held
        self.consumed = consumed
        self.aggregates = aggregates
    }
}

/// Everything that the status page shows.
package struct GatewayStatus: Sendable, Equatable {
    package struct BufferStatus: Sendable, Equatable {
        package var messages: Int
        package var bytes: Int
        package var maximumBytes: Int
        package var isFull: Bool
        /// Seconds since the oldest message arrived; `nil`: it is empty.
        package var oldestAge: Int64?

        package init(messages: Int, bytes: Int, maximumBytes: Int, isFull: Bool, oldestAge: Int64?) {
            self.messages = messages
            self.bytes = bytes
            self.maximumBytes = maximumBytes
            self.isFull = isFull
            self.oldestAge = oldestAge
        }
    }

    package var gateway: String
    /// Seconds since 1970.
    package var now: Int64
    /// Seconds.
    package var uptime: Int64
    package var isClockSynchronised: Bool
    package var connections: Int
    package var devices: DeviceListing
    /// Of all devices together.
    package var lastTenSeconds: DeviceStatus.Rate
    package var lastMinute: DeviceStatus.Rate
    package var buffer: BufferStatus
    /// `nil`: a local broker.
    package var uplink: UplinkSummary?
    package var rules: [LocalRuleSummary] = []
    package var certificates: [CertificateStatus]
    /// What the checks of `/health/ready` and the heartbeats of `/health/live` say, by name.
    package var health: [String: HealthState]
    package var sparkplug: SparkplugListing

    package init(
        gateway: String, now: Int64, uptime: Int64, isClockSynchronised: Bool, connections: Int,
        devices: DeviceListing, lastTenSeconds: DeviceStatus.Rate, lastMinute: DeviceStatus.Rate,
        buffer: BufferStatus, uplink: UplinkSummary?, certificates: [CertificateStatus], health: [String: HealthState],
        sparkplug: SparkplugListing = SparkplugListing()
    ) {
        self.gateway = gateway
        self.now = now
        self.uptime = uptime
        self.isClockSynchronised = isClockSynchronised
        self.connections = connections
        self.devices = devices
        self.lastTenSeconds = lastTenSeconds
        self.lastMinute = lastMinute
        self.buffer = buffer
        self.uplink = uplink
        self.certificates = certificates
        self.health = health
        self.sparkplug = sparkplug
    }
}
