import Flow
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOSSL
import Operations
import PKI
import SyncModel

struct IngestContext: RequestContext {
    var coreContext: CoreRequestContextStorage
    let channel: any Channel

    init(source: ApplicationRequestContextSource) {
        coreContext = CoreRequestContextStorage(source: source)
        channel = source.channel
    }
}

/// Judges who asks, at each request since a resumed TLS session skips the handshake's checks, and gives the body to the
/// receiver.
struct IngestResponder: HTTPResponder {
    typealias Context = IngestContext

    /// How long an answer has to reach a client that is still sending.
    private static let lingering = TimeAmount.seconds(2)

    let receiver: BatchReceiver
    let trust: TrustHolder
    let logger: Logger
    let metrics: IngestMetrics
    let refusals = RefusalLog()

    func respond(to request: Request, context: Context) async throws -> Response {
        let start = SystemClock.monotonicMicroseconds()
        var gateway: String?
        var hasReadBody = false
        // Since when the cloud, not the link, is what a gateway waits for.
        var workStart = start
        let answer: IngestAnswer
        do throws(IngestAnswer) {
            let peer = try await self.gateway(of: context.channel)
            gateway = peer
            try Self.checkRoute(request)
            let pass = try receiver.enter(peer, BatchReceiver.lane(request.headers))
            let head = try receiver.head(request.headers)
            let body = try await receiver.read(request.body, head, pass: pass)
            hasReadBody = true
            workStart = SystemClock.monotonicMicroseconds()
            let received = try await receiver.store(body, of: peer, pass: pass)
            withExtendedLifetime(pass) {}
            metrics.stored(received, duration: SystemClock.monotonicMicroseconds() - start)
            note(received, of: peer)
            answer = .stored
        } catch {
            metrics.refused(error, lane: BatchReceiver.lane(request.headers))
            note(error, request, gateway: gateway, remote: context.channel.remoteAddress)
            answer = error
        }
        metrics.answered(answer, work: SystemClock.monotonicMicroseconds() - workStart)
        if !hasReadBody { close(context.channel) }
        return answer.response(closes: !hasReadBody)
    }

    private func gateway(of channel: any Channel) async throws(IngestAnswer) -> String {
        let certificate: NIOSSLCertificate?
        do {
            certificate = try await channel.nioSSL_peerCertificate().get()
        } catch {
            throw IngestAnswer(CertificateRefusal.noCertificate)
        }
        let now = SystemClock.wallMicroseconds() / 1_000_000
        switch trust.judge.judge(certificate, expecting: .gateway, at: now) {
        case .success(let peer): return peer.role.id
        case .failure(let refusal): throw IngestAnswer(refusal)
        }
    }

    private static func checkRoute(_ request: Request) throws(IngestAnswer) {
        guard request.uri.path == SyncProtocol.path else {
            throw IngestAnswer(status: .notFound, reason: "there is only POST \(SyncProtocol.path)")
        }
        guard request.method == .post else {
            throw IngestAnswer(status: .methodNotAllowed, reason: "\(SyncProtocol.path) takes POST only")
        }
    }

    /// What is left of a body that nobody wants is not read for ever.
    private func close(_ channel: any Channel) {
        channel.eventLoop.scheduleTask(in: Self.lingering) { channel.close(promise: nil) }
    }

    private func note(_ received: ReceivedBatch, of gateway: String) {
        var metadata: [LogKey: Logger.MetadataValue] = [
            .gateway: "\(gateway)", .count: "\(received.messages)", .bytes: "\(received.bytes)",
        ]
        metadata[.trace] = received.trace.map { "\($0)" }
        logger.debug("A batch is durable.", metadata)
    }

    private func note(_ answer: IngestAnswer, _ request: Request, gateway: String?, remote: SocketAddress?) {
        guard let suppressed = refusals.admit() else { return }
        var metadata: [LogKey: Logger.MetadataValue] = [.reason: "\(answer.reason)"]
        metadata[.gateway] = gateway.map { "\($0)" }
        metadata[.remote] = remote?.ipAddress.map { "\($0)" }
        metadata[.path] = answer.path.map { "\($0)" }
        metadata[.offset] = answer.offset.map { "\($0)" }
        metadata[.trace] = HTTPField.Name(BatchReceiver.traceHeader).flatMap { request.headers[$0] }.map {
            "\($0.printable)"
        }
        if suppressed > 0 { metadata[.count] = "\(suppressed)" }
        logger.warning("A batch was refused with \(answer.status.code).", metadata)
    }
}

/// Keeps a client that asks and asks from filling the disk with log lines.
final class RefusalLog: Sendable {
    private struct State {
        var bucket = TokenBucket(rate: 5, burst: 50, at: SystemClock.monotonicMicroseconds())
        var suppressed = 0
    }

    private let state = NIOLockedValueBox(State())

    /// - Returns: lines left out since the last one, or `nil` when this one is left out.
    func admit() -> Int? {
        state.withLockedValue { state in
            guard case .admitted = state.bucket.take(at: SystemClock.monotonicMicroseconds()) else {
                state.suppressed += 1
                return nil
            }
            defer { state.suppressed = 0 }
            return state.suppressed
        }
    }
}
