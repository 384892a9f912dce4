import FoundationEssentials
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1
import NIOPosix
import ServiceLifecycle

/// A page of the status port.
package struct StatusAnswer: Sendable {
    package var status: HTTPResponseStatus
    package var contentType: String
    package var body: String

    package init(status: HTTPResponseStatus = .ok, contentType: String = "application/json", body: String) {
        self.status = status
        self.contentType = contentType
        self.body = body
    }
}

/// The status port of a daemon: `/health/live`, `/health/ready`, `/metrics` and whatever pages the daemon adds.
///
/// Plain HTTP/1.1 for an operator's network: GET and HEAD only, one request a connection, everything bounded.
package final class StatusService: Service {
    package typealias Page = @Sendable () async -> StatusAnswer

    /// Connections at once; more are closed at accept.
    static let maximumConnections = 64
    /// From accept to the end of the answer.
    static let connectionTimeout = TimeAmount.seconds(5)

    private let endpoint: (address: String, port: Int)
    private let pages: [String: Page]
    private let logger: Logger
    private let bound = NIOLockedValueBox<SocketAddress?>(nil)

    package init(
        address: String, port: Int, health: HealthRegistry, metrics: MetricsRegistry, pages: [String: Page] = [:],
        logger: Logger
    ) {
        endpoint = (address, port)
        self.logger = logger
        var all = pages
        all["/health/live"] = { Self.answer(health.live()) }
        all["/health/ready"] = { Self.answer(await health.ready()) }
        all["/metrics"] = {
            StatusAnswer(contentType: PrometheusText.contentType, body: PrometheusText.encode(metrics))
        }
        self.pages = all
    }

    /// Where it is bound; `nil` before.
    package var address: SocketAddress? { bound.withLockedValue { $0 } }

    package func run() async throws {
        let pages = pages
        let count = NIOLockedValueBox(0)
        let channel = try await ServerBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .serverChannelOption(.backlog, value: 64)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                let isWithinBound = count.withLockedValue { count in
                    guard count < Self.maximumConnections else { return false }
                    count += 1
                    return true
                }
                guard isWithinBound else { return channel.close() }
                channel.closeFuture.whenComplete { _ in count.withLockedValue { $0 -= 1 } }
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline(withErrorHandling: true)
                    try channel.pipeline.syncOperations.addHandler(StatusHandler(pages: pages))
                }
            }
            .bind(host: endpoint.address, port: endpoint.port).get()
        bound.withLockedValue { $0 = channel.localAddress }
        logger.notice("The status port is open.", [.listener: channel.localAddress?.description ?? ""])
        await cancelWhenGracefulShutdown { try? await channel.closeFuture.get() }
        try? await channel.close()
    }

    static func answer(_ report: HealthReport) -> StatusAnswer {
        struct Body: Encodable {
            var status: String
            var checks: [HealthReport.Entry]
        }
        let body = Body(status: report.isPassing ? "pass" : "fail", checks: report.entries)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        let text = (try? encoder.encode(body)).map { String(decoding: $0, as: UTF8.self) } ?? "{}"
        return StatusAnswer(status: report.isPassing ? .ok : .serviceUnavailable, body: text + "\n")
    }
}

/// One request, one answer, close.
private final class StatusHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let pages: [String: StatusService.Page]
    private var head: HTTPRequestHead?
    private var timer: Scheduled<Void>?

    init(pages: [String: StatusService.Page]) { self.pages = pages }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        timer = context.eventLoop.scheduleTask(in: StatusService.connectionTimeout) { channel.close(promise: nil) }
    }

    func handlerRemoved(context: ChannelHandlerContext) { timer?.cancel() }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): self.head = head
        case .body: break
        case .end:
            guard let head else { return }
            self.head = nil
            answer(head, context: context)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func answer(_ head: HTTPRequestHead, context: ChannelHandlerContext) {
        guard head.method == .GET || head.method == .HEAD else {
            write(
                StatusAnswer(status: .methodNotAllowed, contentType: "text/plain", body: "GET and HEAD only\n"), head,
                context)
            return
        }
        let path = String(head.uri.prefix { $0 != "?" })
        guard let page = pages[path] else {
            let known = pages.keys.sorted().joined(separator: "\n")
            write(
                StatusAnswer(status: .notFound, contentType: "text/plain", body: "Pages here:\n\(known)\n"), head,
                context)
            return
        }
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        let answered = context.eventLoop.makePromise(of: StatusAnswer.self)
        answered.completeWithTask { await page() }
        answered.futureResult.whenSuccess { answer in
            let (handler, context) = bound.value
            handler.write(answer, head, context)
        }
    }

    private func write(_ answer: StatusAnswer, _ request: HTTPRequestHead, _ context: ChannelHandlerContext) {
        var headers = HTTPHeaders()
        headers.add(name: "Content-Type", value: answer.contentType)
        headers.add(name: "Content-Length", value: "\(answer.body.utf8.count)")
        headers.add(name: "Cache-Control", value: "no-store")
        headers.add(name: "Connection", value: "close")
        if answer.status == .methodNotAllowed { headers.add(name: "Allow", value: "GET, HEAD") }
        let head = HTTPResponseHead(version: .http1_1, status: answer.status, headers: headers)
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        if request.method != .HEAD {
            context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: answer.body)))), promise: nil)
        }
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
    }
}
