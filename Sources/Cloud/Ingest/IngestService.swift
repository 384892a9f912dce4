import EventLog
import Hummingbird
import HummingbirdTLS
import Logging
import NIOCore
import Operations
import PKI
import ServiceLifecycle

/// The sync endpoint. A graceful shutdown stops accepting, lets requests in work end, and then returns.
package struct IngestService: Service {
    private let application: Application<IngestResponder>

    /// - Parameters:
    ///   - trust: judged by at each request; swap it to reload authorities and revocation lists.
    ///   - onListening: called once with the address, when the first request can come.
    /// - Throws: where the server's certificate or key cannot be used.
    package init(
        configuration: IngestConfiguration, trust: TrustHolder, log: any EventLog, logger: Logger,
        onListening: @escaping @Sendable (SocketAddress) -> Void = { _ in }
    ) throws(TrustError) {
        let tls = TLSChannelConfiguration(
            tlsConfiguration: try TLSProfile.server(
                certificate: configuration.certificate, key: configuration.key, trust: trust.trust),
            customVerificationCallback: Self.verification(trust: trust, logger: logger))
        let idle = TimeAmount.nanoseconds(Int64(configuration.idleTimeout / .nanoseconds(1)))
        let server: HTTPServerBuilder
        do {
            server = try .tls(.http1(configuration: .init(idleTimeout: idle)), configuration: tls)
        } catch {
            throw TrustError(file: configuration.certificate, reason: "the TLS library refuses it: \(error)")
        }
        let receiver = BatchReceiver(
            configuration: configuration, log: log,
            gate: InFlightGate(
                maximumBatches: configuration.batchesInFlight, maximumBytes: configuration.bytesInFlight))
        application = Application(
            responder: IngestResponder(receiver: receiver, trust: trust, logger: logger),
            server: server,
            configuration: ApplicationConfiguration(
                address: .hostname(configuration.address, port: configuration.port),
                availableConnectionsDelegate: .maximum(configuration.connections, logger: logger)),
            onServerRunning: { channel in
                if let address = channel.localAddress { onListening(address) }
            },
            logger: logger)
    }

    package func run() async throws { try await application.run() }

    private static func verification(
        trust: TrustHolder, logger: Logger
    ) -> TLSChannelConfiguration.CustomVerificationCallback {
        let refusals = RefusalLog()
        return TLSProfile.verification(trust: trust) { refusal in
            guard let suppressed = refusals.admit() else { return }
            var metadata: [LogKey: String] = [.reason: refusal.description]
            if suppressed > 0 { metadata[.count] = "\(suppressed)" }
            logger.warning("TLS handshake refused", metadata)
        }
    }
}
