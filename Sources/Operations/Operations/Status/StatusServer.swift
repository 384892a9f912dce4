import Atomics
import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import ServiceLifecycle
import Synchronization

package struct StatusResponse: Sendable, Equatable {
    package var status: Int
    package var contentType: String
    package var body: String

    package init(status: Int = 200, contentType: String = "text/plain; charset=utf-8", body: String) {
        self.status = status
        self.contentType = contentType
        self.body = body
    }
}

/// A small HTTP/1.1 server for probes and scrapers. One request a connection; bounded in connections, in bytes of a
/// request and in the time of a connection.
package struct StatusServer: Service {
    package typealias Route = @Sendable () async -> StatusResponse

    package struct Limits: Sendable {
        package var connections = 64
        /// Of a request with its head.
        package var requestBytes = 8 * 1024
        /// From accept to close.
        package var connectionTime: TimeAmount = .seconds(5)
        /// A route that takes longer is answered with 503.
        package var answerTime: TimeAmount = .milliseconds(900)

        package init() {}
    }

    private let endpoint: EdgeConfiguration.Endpoint
    private let routes: [String: Route]
    private let probes: Probes
    private let limits: Limits
    private let logger: Logger
    private let group: any EventLoopGroup
    private let bound: BoundAddress

    /// - Parameter routes: by path, beside `/health/live`, `/health/ready` and `/metrics`.
    package init(
        endpoint: EdgeConfiguration.Endpoint, health: HealthRegistry, metrics: MetricRegistry,
        routes: [String: Route] = [:], limits: Limits = Limits(), logger: Logger,
        group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
    ) {
        var all = routes
        all["/health/live"] = { Self.response(health.live()) }
        all["/health/ready"] = { Self.response(await health.ready()) }
        all["/metrics"] = { StatusResponse(contentType: MetricRegistry.contentType, body: metrics.text()) }
        self.endpoint = endpoint
        self.routes = all
        probes = Probes(
            duration: metrics.histogram(.healthResponse), late: { Self.response(health.overdue()) })
        metrics.gauges(.healthCheckTime) { health.timings.map { ([("check", $0.check)], $0.seconds) } }
        metrics.gauges(.healthCheckFailed) { health.timings.map { ([("check", $0.check)], $0.isFailed ? 1 : 0) } }
        self.limits = limits
        self.logger = logger
        self.group = group
        bound = BoundAddress()
    }

    private static func response(_ report: HealthRegistry.Report) -> StatusResponse {
        StatusResponse(status: report.isGood ? 200 : 503, contentType: "application/json", body: report.json())
    }

    /// The port that it listens on, once it does.
    package var port: Int? { bound.port }

    package func run() async throws {
        let listener = try await bind()
        bound.set(listener.localAddress?.port)
        logger.info(
            "status server listens", [.listener: "\(endpoint.address):\(listener.localAddress?.port ?? 0)"])
        try await withTaskCancellationOrGracefulShutdownHandler {
            try await listener.closeFuture.get()
        } onCancelOrGracefulShutdown: {
            listener.close(promise: nil)
        }
    }

    private func bind() async throws -> any Channel {
        let (routes, probes, limits) = (routes, probes, limits)
        let open = ManagedAtomic<Int>(0)
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 64)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                guard open.loadThenWrappingIncrement(ordering: .relaxed) < limits.connections else {
                    open.wrappingDecrement(ordering: .relaxed)
                    return channel.close()
                }
                channel.closeFuture.whenComplete { _ in open.wrappingDecrement(ordering: .relaxed) }
                return channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.addHandler(RequestBound(maximumBytes: limits.requestBytes))
                    try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: false)
                    try pipeline.addHandler(StatusHandler(routes: routes, probes: probes, limits: limits))
                }
            }
        do {
            return try await bootstrap.bind(host: endpoint.address, port: endpoint.port).get()
        } catch {
            throw BindError(
                "The status port", key: "status", address: endpoint.address, port: endpoint.port, error)
        }
    }
}

/// What the answers to probes need beside their routes.
private struct Probes: Sendable {
    let duration: MetricHistogram
    /// The answer of `/health/ready` when its own is late.
    let late: @Sendable () -> StatusResponse
}

private final class BoundAddress: Sendable {
    private let value = Mutex<Int?>(nil)

    var port: Int? { value.withLock { $0 } }

    func set(_ port: Int?) { value.withLock { $0 = port } }
}

/// Ends a connection that sends more than a request may have; there is one request a connection.
private final class RequestBound: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    private var left: Int

    init(maximumBytes: Int) { left = maximumBytes }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        left -= unwrapInboundIn(data).readableBytes
        guard left >= 0 else {
            context.close(promise: nil)
            return
        }
        context.fireChannelRead(data)
    }
}

private final class StatusHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let routes: [String: StatusServer.Route]
    private let probes: Probes
    private let limits: StatusServer.Limits
    private var request: HTTPRequestHead?
    /// Microseconds, monotonic.
    private var requested: Int64 = 0
    private var isAnswered = false
    private var timers: [Scheduled<Void>] = []

    init(routes: [String: StatusServer.Route], probes: Probes, limits: StatusServer.Limits) {
        self.routes = routes
        self.probes = probes
        self.limits = limits
    }

    func channelActive(context: ChannelHandlerContext) {
        let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
        timers.append(
            context.eventLoop.scheduleTask(in: limits.connectionTime) { bound.value.close(promise: nil) })
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        for timer in timers { timer.cancel() }
        isAnswered = true
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head):
            guard request == nil else { return }
            request = head
            requested = SystemClock.monotonicMicroseconds()
        case .body: break
        case .end: serve(context: context)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func serve(context: ChannelHandlerContext) {
        guard let request, !isAnswered else { return }
        guard request.method == .GET || request.method == .HEAD else {
            answer(StatusResponse(status: 405, body: "GET and HEAD alone\n"), context: context)
            return
        }
        let path = String(request.uri.prefix { $0 != "?" })
        guard let route = routes[path] else {
            answer(StatusResponse(status: 404, body: "not found\n"), context: context)
            return
        }
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        timers.append(
            context.eventLoop.scheduleTask(in: limits.answerTime) {
                let (handler, context) = bound.value
                let late =
                    path == "/health/ready"
                    ? handler.probes.late() : StatusResponse(status: 503, body: "no answer in time\n")
                handler.answer(late, context: context)
            })
        let loop = context.eventLoop
        Task {
            let response = await route()
            loop.execute {
                let (handler, context) = bound.value
                handler.answer(response, context: context)
            }
        }
    }

    /// Nothing is loaded or run, whatever should ever get into a page.
    private static let contentPolicy =
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

    private func answer(_ response: StatusResponse, context: ChannelHandlerContext) {
        guard !isAnswered, let request else { return }
        isAnswered = true
        if request.uri.hasPrefix("/health/") {
            probes.duration.observe(Double(SystemClock.monotonicMicroseconds() - requested) / 1e6)
        }
        let body = ByteBuffer(string: response.body)
        var head = HTTPResponseHead(version: .http1_1, status: .init(statusCode: response.status))
        head.headers.add(name: "Content-Type", value: response.contentType)
        head.headers.add(name: "Content-Length", value: "\(body.readableBytes)")
        head.headers.add(name: "Cache-Control", value: "no-store")
        head.headers.add(name: "Connection", value: "close")
        head.headers.add(name: "X-Content-Type-Options", value: "nosniff")
        head.headers.add(name: "Content-Security-Policy", value: Self.contentPolicy)
        if response.status == 405 { head.headers.add(name: "Allow", value: "GET, HEAD") }
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        if request.method != .HEAD { context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: nil) }
        let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
        context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in bound.value.close(promise: nil) }
    }
}
