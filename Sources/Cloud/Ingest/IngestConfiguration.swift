import Operations
import SyncModel

/// Where the sync endpoint listens, and its bounds.
package struct IngestConfiguration: Sendable {
    package var address: String
    /// 0 takes a free one.
    package var port: Int
    package var tls: EdgeConfiguration.TLS
    /// Of a batch as it is sent; more is 413.
    package var maximumSentBytes = SyncProtocol.maximumSentBytes
    /// Of a batch when unpacked; more is 413.
    package var maximumUnpackedBytes = SyncProtocol.maximumUnpackedBytes
    /// Open at a time; more wait in the kernel's queue.
    package var maximumConnections = 1_000
    /// Batches in work at a time; more are 429.
    package var maximumInFlight = 16
    /// The same for batches of the lane backlog, beside those; more are 429.
    package var maximumBacklogInFlight = 4
    /// Messages that all backlogs together may bring in a second; more are 429. `nil`: unlimited.
    package var backlogMessagesPerSecond: Int? = 100_000
    /// Live messages of all gateways in a second; more are 429. `nil`: unlimited.
    package var messagesPerSecond: Int?
    /// The same for each gateway.
    package var gatewayMessagesPerSecond: Int?
    package var gatewayBacklogMessagesPerSecond: Int?
    /// Batches in work of each gateway; `nil`: as many as of all.
    package var maximumGatewayInFlight: Int?
    package var maximumGatewayBacklogInFlight: Int?
    /// Messages a second of a device beyond which it is reported. `nil`: any rate is expected.
    package var expectedDeviceMessagesPerSecond: Int?
    /// Unpacked bytes of all batches in work; a batch that would go beyond is 429.
    package var maximumInFlightBytes = 256 * 1024 * 1024
    /// Seconds for the handshake and a request's head, and between requests; then the connection is closed.
    package var idleTimeout: Int64 = 60
    /// Seconds from a request's head to the end of its body; later is 408.
    package var requestTimeout: Int64 = 60

    /// Why nothing may be acknowledged now though the event log would take it; `nil`: it may.
    package var refusal: @Sendable () -> String? = { nil }

    package init(address: String, port: Int, tls: EdgeConfiguration.TLS) {
        self.address = address
        self.port = port
        self.tls = tls
    }
}
