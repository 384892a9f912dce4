import EventLog
import FoundationEssentials
import HTTPTypes
import Hummingbird
import HummingbirdCore
import HummingbirdTLS
import Logging
import NIOCore
import NIOSSL
import Operations
import PKI
import ServiceLifecycle
import SyncModel

package struct IngestConfiguration: Sendable {
    package var address: String
    package var port: Int
    package var tls: EdgeConfiguration.TLS
    /// Of a batch as it is sent.
    package var maximumSentBytes = SyncProtocol.maximumSentBytes
    /// Of a batch when unpacked.
    package var maximumUnpackedBytes = SyncProtocol.maximumUnpackedBytes
    package var maximumConnections = 1_000
    /// Requests whose body is in memory; more are answered with 429.
    package var maximumInFlight = 16
    /// Seconds until a connection without progress is closed.
    package var idleTimeout: Int64 = 60

    package init(address: String, port: Int, tls: EdgeConfiguration.TLS) {
        self.address = address
        self.port = port
        self.tls = tls
    }
}

/// The sync endpoint: HTTPS with mutual TLS, `POST /v1/batches`.
package final class IngestService: Service {
    private let configuration: IngestConfiguration
    private let receiver: BatchReceiver
    private let trust: TrustHolder
    private let tlsConfiguration: TLSConfiguration
    private let metrics: IngestMetrics
    private let logger: Logger
    private let gate: RequestGate
    private let bound = BoundAddress()

    package init(
        configuration: IngestConfiguration, log: any EventLog, metrics: MetricRegistry, logger: Logger
    ) throws {
        self.configuration = configuration
        receiver = BatchReceiver(log: log, configuration: configuration)
        let store = try TrustStore.load(clientCA: configuration.tls.clientCA, crl: configuration.tls.crl)
        trust = TrustHolder(store)
        tlsConfiguration = try TLSProfile.server(
            certificate: configuration.tls.certificate, key: configuration.tls.key, trust: store)
        self.metrics = IngestMetrics(metrics)
        self.logger = logger
        gate = RequestGate(maximum: configuration.maximumInFlight)
    }

    /// The port it is bound to; `nil` before.
    package var port: Int? { bound.port }

    /// Reads client CA and CRL again; on an error those in force stay.
    package func reload() {
        do {
            trust.swap(try TrustStore.load(clientCA: configuration.tls.clientCA, crl: configuration.tls.crl))
        } catch {
            logger.error("The sync endpoint keeps its old client CA and CRL.", [.error: "\(error)"])
        }
    }

    package func run() async throws {
        let router = Router(context: IngestContext.self)
        router.post("v1/batches") { [self] request, context in
            await respond(to: request, context: context)
        }
        let logger = logger
        let verification = TLSProfile.verification(trust: trust) { refusal in
            logger.notice(
                "A TLS handshake was refused: \(refusal.description).", [.reason: "\(refusal.label)"])
        }
        let application = Application(
            router: router,
            server: try .tls(
                .http1(configuration: .init(idleTimeout: .seconds(configuration.idleTimeout))),
                configuration: .init(
                    tlsConfiguration: tlsConfiguration, customVerificationCallback: verification)),
            configuration: .init(
                address: .hostname(configuration.address, port: configuration.port), serverName: "sluice",
                availableConnectionsDelegate: MaximumAvailableConnections(configuration.maximumConnections)),
            onServerRunning: { [bound] channel in
                bound.set(channel.localAddress?.port)
                logger.notice(
                    "The sync endpoint is open.", [.listener: "\(channel.localAddress?.description ?? "")"])
            },
            logger: Self.quiet(logger))
        try await application.run()
    }

    /// Hummingbird's own lines say nothing that ours do not.
    private static func quiet(_ logger: Logger) -> Logger {
        var logger = logger
        logger.logLevel = .error
        return logger
    }

    // MARK: a request

    private func respond(to request: Request, context: IngestContext) async -> Response {
        let started = SystemClock.monotonicMicroseconds()
        var gateway: String?
        do throws(IngestRefusal) {
            let identity = try await identify(context.channel)
            gateway = identity
            let received = try await receive(request, from: identity)
            metrics.received(received, duration: SystemClock.monotonicMicroseconds() - started)
            var metadata: [LogKey: Logger.MetadataValue] = [
                .gateway: "\(identity)", .count: "\(received.messages)", .bytes: "\(received.bytes)",
            ]
            metadata[.trace] = received.trace.map { "\($0)" }
            logger.debug("A batch is durable.", metadata)
            return Response(status: .ok)
        } catch {
            metrics.refused(error)
            var metadata: [LogKey: Logger.MetadataValue] = [.reason: "\(error.reason)"]
            metadata[.gateway] = gateway.map { "\($0)" }
            metadata[.remote] = context.channel.remoteAddress.map { "\($0)" }
            logger.warning("A batch was refused with \(error.status.code).", metadata)
            return Self.response(error)
        }
    }

    /// Judged at each request: on a resumed TLS session the handshake verifies nothing.
    private func identify(_ channel: any Channel) async throws(IngestRefusal) -> String {
        let certificate: NIOSSLCertificate?
        do {
            certificate = try await channel.nioSSL_peerCertificate().get()
        } catch {
            throw .notAuthorized("no client certificate: \(error)")
        }
        switch trust.judge.judge(certificate, expecting: .gateway, at: SystemClock.wallMicroseconds() / 1_000_000) {
        case .success(let peer): return peer.role.id
        case .failure(let refusal): throw .notAuthorized(refusal.description)
        }
    }

    private func receive(
        _ request: Request, from gateway: String
    ) async throws(IngestRefusal) -> BatchReceiver.Received {
        guard gate.enter() else { throw .busy("\(configuration.maximumInFlight) batches are in work") }
        defer { gate.leave() }
        if let length = request.headers[.contentLength].flatMap({ Int($0) }), length > configuration.maximumSentBytes {
            throw .tooLarge("the body has \(length) bytes, \(configuration.maximumSentBytes) are allowed")
        }
        let body: ByteBuffer
        do {
            body = try await request.body.collect(upTo: configuration.maximumSentBytes)
        } catch is NIOTooManyBytesError {
            throw .tooLarge("the body is larger than \(configuration.maximumSentBytes) bytes")
        } catch let error as any HTTPResponseError where error.status == .contentTooLarge {
            throw .tooLarge("the body is larger than \(configuration.maximumSentBytes) bytes")
        } catch {
            throw .badRequest("the body did not arrive whole: \(error)")
        }
        let digest = HTTPField.Name(SyncProtocol.digestHeader).flatMap { request.headers[$0] }
        return try await receiver.receive(
            body, from: gateway, encoding: request.headers[.contentEncoding], digest: digest)
    }

    private static func response(_ refusal: IngestRefusal) -> Response {
        var headers = HTTPFields()
        headers[.contentType] = "application/json"
        if let seconds = refusal.retryAfter { headers[.retryAfter] = "\(seconds)" }
        let body = (try? JSONEncoder().encode(["reason": refusal.reason])) ?? Data("{}".utf8)
        return Response(status: refusal.status, headers: headers, body: .init(byteBuffer: ByteBuffer(bytes: body)))
    }
}

/// Hummingbird's request context with the connection, whose TLS handler knows the peer's certificate.
struct IngestContext: RequestContext {
    var coreContext: CoreRequestContextStorage
    let channel: any Channel

    init(source: ApplicationRequestContextSource) {
        coreContext = CoreRequestContextStorage(source: source)
        channel = source.channel
    }
}
