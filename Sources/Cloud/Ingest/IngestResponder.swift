import Flow
import Hummingbird
import Logging
import Metrics
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
    let refusals = RefusalLog()
    private let messages = Counter(label: MetricName.ingestMessages.rawValue)
    private let bytes = Counter(label: MetricName.ingestBytes.rawValue)
    private let seconds = Recorder(label: MetricName.ingestSeconds.rawValue)

    init(receiver: BatchReceiver, trust: TrustHolder, logger: Logger) {
        self.receiver = receiver
        self.trust = trust
        self.logger = logger
    }

    func respond(to request: Request, context: Context) async throws -> Response {
        let start = SystemClock.monotonicTime()
        var gateway: String?
        var hasReadBody = false
        let answer: IngestAnswer
        do throws(IngestAnswer) {
            let peer = try await self.gateway(of: context.channel)
            gateway = peer
            try Self.checkRoute(request)
            guard let pass = receiver.gate.enter() else {
                throw IngestAnswer(status: .tooManyRequests, reason: "too many batches are in work", retryAfter: 1)
            }
            let head = try receiver.head(request.headers)
            let (body, sentBytes) = try await receiver.read(request.body, head, pass: pass)
            hasReadBody = true
            bytes.increment(by: sentBytes)
            let received = try await receiver.store(body, of: peer)
            withExtendedLifetime(pass) {}
            messages.increment(by: received.messages)
            seconds.record(Double(SystemClock.monotonicTime() - start) / 1e6)
            note(received, of: peer, sentBytes: sentBytes)
            answer = .stored
        } catch {
            note(error, request, gateway: gateway, remote: context.channel.remoteAddress)
            answer = error
        }
        Counter(
            label: MetricName.ingestBatches.rawValue, dimensions: [("status", "\(answer.status.code)")]
        ).increment()
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
        let now = SystemClock.wallTime() / 1_000_000
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

    private func note(_ received: ReceivedBatch, of gateway: String, sentBytes: Int) {
        var metadata: [LogKey: String] = [
            .gateway: gateway, .count: "\(received.messages)", .bytes: "\(sentBytes)",
        ]
        metadata[.trace] = received.trace
        logger.debug("batch stored", metadata)
    }

    private func note(_ answer: IngestAnswer, _ request: Request, gateway: String?, remote: SocketAddress?) {
        guard let suppressed = refusals.admit() else { return }
        var metadata: [LogKey: String] = [.reason: answer.reason]
        metadata[.gateway] = gateway
        metadata[.remote] = remote?.ipAddress
        metadata[.path] = answer.path
        metadata[.offset] = answer.offset.map { "\($0)" }
        metadata[.trace] = HTTPField.Name(BatchReceiver.traceHeader).flatMap { request.headers[$0]?.printable }
        if suppressed > 0 { metadata[.count] = "\(suppressed)" }
        logger.warning("batch refused", metadata)
    }
}

/// Keeps a client that asks and asks from filling the disk with log lines.
final class RefusalLog: Sendable {
    private struct State {
        var bucket = TokenBucket(rate: 5, burst: 50, at: SystemClock.monotonicTime())
        var suppressed = 0
    }

    private let state = NIOLockedValueBox(State())

    /// - Returns: lines left out since the last one, or `nil` when this one is left out.
    func admit() -> Int? {
        state.withLockedValue { state in
            guard case .admitted = state.bucket.take(at: SystemClock.monotonicTime()) else {
                state.suppressed += 1
                return nil
            }
            defer { state.suppressed = 0 }
            return state.suppressed
        }
    }
}
