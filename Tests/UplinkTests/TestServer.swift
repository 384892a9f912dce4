import CZstd
import Crypto
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import SyncModel

/// A sync endpoint over HTTPS on a free port of 127.0.0.1 that answers as the test says.
final class TestServer: Sendable {
    enum Answer: Sendable {
        case status(Int, retryAfter: String? = nil, body: String = "")
        /// Reads the whole request, then closes: the answer is lost.
        case lost
        /// Reads the whole request and stays silent.
        case silence
        /// A status, and a body of which a byte comes every 50 ms.
        case trickle(Int)
        /// As the request deserves.
        case judged(@Sendable (Request) -> Int)
    }

    struct Request: Sendable {
        var head: HTTPRequestHead
        var body: ByteBuffer
    }

    /// Answers in order; then the last one for ever.
    private let script: NIOLockedValueBox<[Answer]>
    private let received = NIOLockedValueBox<[Request]>([])
    private let channel: any Channel
    private let accepted = NIOLockedValueBox<[any Channel]>([])
    private let group: MultiThreadedEventLoopGroup

    init(tls: TLSConfiguration, answers: [Answer]) async throws {
        let script = NIOLockedValueBox(answers)
        let (received, accepted) = (received, accepted)
        let context = try NIOSSLContext(configuration: tls)
        self.script = script
        group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        channel = try await ServerBootstrap(group: group)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                accepted.withLockedValue { $0.append(channel) }
                return channel.eventLoop.makeCompletedFuture {
                    let sync = channel.pipeline.syncOperations
                    try sync.addHandler(NIOSSLServerHandler(context: context))
                    try sync.configureHTTPServerPipeline()
                    try sync.addHandler(
                        Handler { request in
                            received.withLockedValue { $0.append(request) }
                            let answer = script.withLockedValue { $0.count > 1 ? $0.removeFirst() : $0[0] }
                            guard case .judged(let judge) = answer else { return answer }
                            return .status(judge(request), body: "judged")
                        })
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
    }

    var url: String { "https://localhost:\(channel.localAddress?.port ?? 0)" }
    var requests: [Request] { received.withLockedValue { $0 } }

    /// Ends all connections, as a link that fails does.
    func drop() async { for channel in accepted.withLockedValue({ $0 }) { try? await channel.close() } }

    func stop() async throws {
        try await channel.close()
        try await group.shutdownGracefully()
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart

        private let answer: (Request) -> Answer
        private var request: Request?

        init(_ answer: @escaping (Request) -> Answer) { self.answer = answer }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch unwrapInboundIn(data) {
            case .head(let head): request = Request(head: head, body: ByteBuffer())
            case .body(let part): request?.body.writeImmutableBuffer(part)
            case .end:
                guard let request else { return }
                reply(answer(request), context)
            }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

        private func trickle(_ context: ChannelHandlerContext) {
            guard context.channel.isActive else { return }
            context.writeAndFlush(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: ".")))), promise: nil)
            // Safe: the task runs on the handler's own loop.
            let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
            context.eventLoop.scheduleTask(in: .milliseconds(50)) { bound.value.0.trickle(bound.value.1) }
        }

        private func reply(_ answer: Answer, _ context: ChannelHandlerContext) {
            switch answer {
            case .lost: context.close(promise: nil)
            case .silence, .judged: break
            case .trickle(let status):
                let head = HTTPResponseHead(
                    version: .http1_1, status: HTTPResponseStatus(statusCode: status),
                    headers: ["Content-Length": "1000"])
                context.write(wrapOutboundOut(.head(head)), promise: nil)
                trickle(context)
            case .status(let status, let retryAfter, let body):
                var headers: HTTPHeaders = ["Content-Length": "\(body.utf8.count)"]
                if let retryAfter { headers.add(name: "Retry-After", value: retryAfter) }
                let head = HTTPResponseHead(
                    version: .http1_1, status: HTTPResponseStatus(statusCode: status), headers: headers)
                context.write(wrapOutboundOut(.head(head)), promise: nil)
                context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: body)))), promise: nil)
                context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
            }
        }
    }
}

extension TestServer.Request {
    /// Unpacks and decodes the body, and says whether the digest is that of the unpacked bytes.
    func batch() throws -> (batch: Batch, digestIsRight: Bool) {
        var unpacked = ByteBuffer()
        unpacked.writeWithUnsafeMutableBytes(minimumWritableBytes: 16 * 1024 * 1024) { target in
            body.withUnsafeReadableBytes { source in
                let size = ZSTD_decompress(target.baseAddress, target.count, source.baseAddress, source.count)
                return ZSTD_isError(size) == 0 ? size : 0
            }
        }
        let digest = SHA256.hash(data: Array(unpacked.readableBytesView))
        let header = head.headers.first(name: SyncProtocol.digestHeader) ?? ""
        return (try Batch.decode(unpacked), SyncProtocol.digest(fromHeader: header) == Array(digest))
    }
}
