import SyncModel

/// Where the sync endpoint listens, and its bounds.
package struct IngestConfiguration: Sendable {
    package var address = "0.0.0.0"
    /// 0 takes a free one.
    package var port = 8443
    /// PEM files of the server's own identity.
    package var certificate: String
    package var key: String
    /// Of a body as it is sent; more is 413.
    package var maximumSentBytes = SyncProtocol.maximumSentBytes
    /// Of a body when unpacked; more is 413.
    package var maximumUnpackedBytes = SyncProtocol.maximumUnpackedBytes
    /// Connections that are open at a time; more wait in the kernel's queue.
    package var connections = 1_000
    /// From a request's head to the end of its body; more is 408.
    package var requestTimeout = Duration.seconds(60)
    /// For the handshake and a request's head, and between requests; then the connection is closed.
    package var idleTimeout = Duration.seconds(75)
    /// Batches in work at a time; more get 429.
    package var batchesInFlight = 16
    /// Unpacked bytes of all batches in work; a batch that would go beyond gets 429.
    package var bytesInFlight = 256 * 1024 * 1024

    package init(certificate: String, key: String) {
        self.certificate = certificate
        self.key = key
    }
}
