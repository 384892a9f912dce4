import EventLog
import Hummingbird
import HummingbirdCore
import HummingbirdTLS
import Logging
import NIOConcurrencyHelpers
import NIOCore
import Operations
import PKI
import ServiceLifecycle

/// The sync endpoint: HTTPS with mutual TLS, `POST /v1/batches`. A graceful shutdown stops accepting, lets requests in work
/// end, and then returns.
package final class IngestService: Service {
    private let configuration: IngestConfiguration
    private let trust: TrustHolder
    private let logger: Logger
    private let application: Application<IngestResponder>
    private let bound: NIOLockedValueBox<Int?>

    /// - Throws: where a file of `configuration.tls` cannot be used.
    package init(
        configuration: IngestConfiguration, log: any EventLog, metrics: MetricRegistry, logger: Logger
    ) throws(TrustError) {
        self.configuration = configuration
        self.logger = logger
        let store = try TrustStore.load(clientCA: configuration.tls.clientCA, crl: configuration.tls.crl)
        let trust = TrustHolder(store)
        self.trust = trust
        let bound = NIOLockedValueBox<Int?>(nil)
        self.bound = bound
        let gate = InFlightGate(
            InFlightGate.Limits(
                bytes: configuration.maximumInFlightBytes, backlogBytes: configuration.maximumInFlightBytes / 2),
            budget: Self.budget(configuration))
        metrics.gauge(.ingestInFlightBytes) { Double(gate.bytes) }
        Self.watchCertificates(configuration, trust: trust, metrics)
        application = Application(
            responder: IngestResponder(
                receiver: BatchReceiver(
                    configuration: configuration, log: log, gate: gate,
                    watch: DeviceWatch(
                        expected: configuration.expectedDeviceMessagesPerSecond, metrics: metrics, logger: logger)),
                trust: trust,
                logger: logger, metrics: IngestMetrics(metrics)),
            server: try Self.server(configuration, trust: trust, store: store, logger: logger),
            configuration: ApplicationConfiguration(
                address: .hostname(configuration.address, port: configuration.port),
                availableConnectionsDelegate: MaximumAvailableConnections(configuration.maximumConnections)),
            onServerRunning: { channel in
                bound.withLockedValue { $0 = channel.localAddress?.port }
                let address = channel.localAddress.map { "\($0)" } ?? ""
                logger.notice("The sync endpoint is open.", [.listener: "\(address)"])
            },
            logger: Self.quiet(logger))
    }

    /// The port it is bound to; `nil` before.
    package var port: Int? { bound.withLockedValue { $0 } }

    /// Reads client CA and CRL again; on an error those in force stay.
    package func reload() {
        do {
            trust.swap(try TrustStore.load(clientCA: configuration.tls.clientCA, crl: configuration.tls.crl))
        } catch {
            logger.error("The sync endpoint keeps its old client CA and CRL.", [.error: "\(error)"])
        }
    }

    package func run() async throws {
        do {
            try await application.run()
        } catch let error as IOError where port == nil {
            throw BindError(
                "The sync endpoint", key: "listener", address: configuration.address, port: configuration.port, error)
        }
    }

    private static func budget(_ configuration: IngestConfiguration) -> IngestBudget {
        IngestBudget(
            live: .init(
                batches: configuration.maximumInFlight, messagesPerSecond: configuration.messagesPerSecond,
                gatewayBatches: configuration.maximumGatewayInFlight ?? configuration.maximumInFlight,
                gatewayMessagesPerSecond: configuration.gatewayMessagesPerSecond),
            backlog: .init(
                batches: configuration.maximumBacklogInFlight,
                messagesPerSecond: configuration.backlogMessagesPerSecond,
                gatewayBatches: configuration.maximumGatewayBacklogInFlight ?? configuration.maximumBacklogInFlight,
                gatewayMessagesPerSecond: configuration.gatewayBacklogMessagesPerSecond),
            at: SystemClock.monotonicMicroseconds())
    }

    /// No number where there is no such time, so that no rule that compares it fires.
    private static func watchCertificates(
        _ configuration: IngestConfiguration, trust: TrustHolder, _ metrics: MetricRegistry
    ) {
        let name = (name: "listener", value: "\(configuration.address):\(configuration.port)")
        @Sendable func days(until time: Int64?) -> Double {
            time.map { Double($0 - SystemClock.wallMicroseconds() / 1_000_000) / 86_400 } ?? .nan
        }
        // It is read once, as the TLS library has it.
        let expiry = try? TrustStore.expiry(ofCertificate: configuration.tls.certificate)
        metrics.gauge(.certificateExpiry, [(name: "kind", value: "server"), name]) { days(until: expiry) }
        metrics.gauge(.revocationListDue, [name]) { days(until: trust.trust.nextUpdate) }
    }

    private static func server(
        _ configuration: IngestConfiguration, trust: TrustHolder, store: TrustStore, logger: Logger
    ) throws(TrustError) -> HTTPServerBuilder {
        let tls = TLSChannelConfiguration(
            tlsConfiguration: try TLSProfile.server(
                certificate: configuration.tls.certificate, key: configuration.tls.key, trust: store),
            customVerificationCallback: verification(trust: trust, logger: logger))
        do {
            return try .tls(
                .http1(configuration: .init(idleTimeout: .seconds(configuration.idleTimeout))), configuration: tls)
        } catch {
            throw TrustError(file: configuration.tls.certificate, reason: "the TLS library refuses it: \(error)")
        }
    }

    private static func verification(
        trust: TrustHolder, logger: Logger
    ) -> TLSChannelConfiguration.CustomVerificationCallback {
        let refusals = RefusalLog()
        return TLSProfile.verification(trust: trust) { refusal in
            guard let suppressed = refusals.admit() else { return }
            var metadata: [LogKey: Logger.MetadataValue] = [.reason: "\(refusal.description)"]
            if suppressed > 0 { metadata[.count] = "\(suppressed)" }
            logger.warning("A TLS handshake was refused.", metadata)
        }
    }

    /// Hummingbird's own lines say nothing that ours do not.
    private static func quiet(_ logger: Logger) -> Logger {
        var logger = logger
        logger.logLevel = .error
        return logger
    }
}
