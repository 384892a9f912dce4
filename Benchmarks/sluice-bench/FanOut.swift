import MQTTWire
import NIOCore
import NIOPosix
import NIOSSL

/// One run of the fan-out. Lives on its event loop alone.
final class FanOut {
    let settings: FanOutSettings
    private let loop: any EventLoop
    private let result: EventLoopPromise<LoadReport>
    private var clients: [FanOutClient] = []
    private var ready = 0
    private(set) var isStopped = false
    private let message: ByteBuffer
    private var sent = 0
    private var received = 0
    private var receivedBefore = 0
    private var lost = 0
    private var began = NIODeadline.now()
    /// `received` when nothing was lost yet, looked at twice a second.
    private var lastSeen = 0

    private static let openAtOnce = 16
    private static let openTimeout = TimeAmount.seconds(60)

    init(_ settings: FanOutSettings, on loop: any EventLoop, result: EventLoopPromise<LoadReport>) {
        self.settings = settings
        self.loop = loop
        self.result = result
        var message = ByteBuffer()
        message.write(
            .publish(
                Publish(
                    topic: ByteBuffer(string: settings.topic),
                    payload: ByteBuffer(repeating: UInt8(ascii: "x"), count: settings.payload))), version: .v311)
        self.message = message
    }

    func start() {
        loop.assumeIsolated().scheduleTask(in: Self.openTimeout) {
            if self.ready <= self.settings.subscribers {
                self.fail("only \(self.ready) of \(self.settings.subscribers + 1) clients were ready in time")
            }
        }
        for _ in 0..<Self.openAtOnce { openNext() }
    }

    private func openNext() {
        guard clients.count <= settings.subscribers, !isStopped else { return }
        let number = clients.count
        let id = settings.id.replacing("%d", with: "\(number)")
        let client = FanOutClient(id: id, isPublisher: number == 0, run: self)
        clients.append(client)
        do {
            let context = try settings.tls?.context(device: id)
            let bound = NIOLoopBound(client, eventLoop: loop)
            let future = ClientBootstrap(group: loop)
                .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        if let context {
                            try channel.pipeline.syncOperations.addHandler(
                                NIOSSLClientHandler(context: context, serverHostname: nil))
                        }
                        try channel.pipeline.syncOperations.addHandler(bound.value)
                    }
                }
                .connect(host: settings.host, port: settings.port)
            future.assumeIsolated().whenFailure { self.fail("\(id) cannot connect: \($0)") }
        } catch {
            fail("\(id): \(error)")
        }
    }

    func wasReady() {
        ready += 1
        openNext()
        guard ready == settings.subscribers + 1 else { return }
        watch()
        publish()
        loop.assumeIsolated().scheduleTask(in: Self.nanoseconds(settings.warmup)) {
            self.receivedBefore = self.received
            self.began = .now()
            self.loop.assumeIsolated().scheduleTask(in: Self.nanoseconds(self.settings.seconds)) { self.finish() }
        }
    }

    func arrived(_ count: Int) {
        received += count
        publish()
    }

    private func publish() {
        guard !isStopped else { return }
        let ahead = sent - (received + lost) / settings.subscribers
        let count = settings.window - ahead
        // Not one by one: half a window at a time costs both sides fewer calls.
        guard count >= (settings.window + 1) / 2 else { return }
        sent += count
        clients[0].write(message, times: count)
    }

    /// What has not come within half a second without any arrival was dropped by the broker.
    private func watch() {
        loop.assumeIsolated().scheduleTask(in: .milliseconds(500)) {
            guard !self.isStopped else { return }
            if self.received == self.lastSeen {
                self.lost = self.sent * self.settings.subscribers - self.received
                self.publish()
            }
            self.lastSeen = self.received
            self.watch()
        }
    }

    private func finish() {
        guard !isStopped else { return }
        let seconds = Double((NIODeadline.now() - began).nanoseconds) / 1e9
        stop()
        result.succeed(
            LoadReport(
                connections: settings.subscribers, inFlight: settings.window, messages: received - receivedBefore,
                seconds: seconds, p50: 0, p99: 0, maximum: 0, errors: lost,
                firstError: lost > 0 ? "\(lost) deliveries did not come" : nil))
    }

    private func stop() {
        isStopped = true
        for client in clients { client.end() }
    }

    func fail(_ why: String) {
        guard !isStopped else { return }
        stop()
        result.fail(LoadError(description: why))
    }

    private static func nanoseconds(_ seconds: Double) -> TimeAmount { .nanoseconds(Int64(seconds * 1e9)) }
}

/// The publisher, or a subscriber that counts packets without looking into them.
final class FanOutClient: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let id: String
    private let isPublisher: Bool
    /// Breaks with the channel.
    private var run: FanOut?
    private var context: ChannelHandlerContext?
    private var unread = ByteBuffer()
    private var isReady = false

    init(id: String, isPublisher: Bool, run: FanOut) {
        self.id = id
        self.isPublisher = isPublisher
        self.run = run
    }

    func write(_ message: ByteBuffer, times: Int) {
        guard let context else { return }
        var out = context.channel.allocator.buffer(capacity: message.readableBytes * times)
        for _ in 0..<times { out.writeImmutableBuffer(message) }
        context.writeAndFlush(wrapOutboundOut(out), promise: nil)
    }

    func end() { context?.close(promise: nil) }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        run = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        send(.connect(Connect(version: .v311, clientID: id, cleanStart: true, keepAlive: 60)))
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var incoming = unwrapInboundIn(data)
        if unread.readableBytes == 0 { unread = incoming } else { unread.writeBuffer(&incoming) }
        var count = 0
        while let (first, size) = header(), unread.readableBytes >= size {
            unread.moveReaderIndex(forwardBy: size)
            switch first >> 4 {
            case 3: count += 1
            case 2 where isPublisher, 9: becomeReady()
            case 2:
                let subscription = Subscription(filter: run?.settings.topic ?? "", qos: .atMostOnce)
                send(.subscribe(Subscribe(packetID: 1, subscriptions: [subscription])))
            default: break
            }
        }
        if count > 0 { run?.arrived(count) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        run?.fail("\(id): \(error)")
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        run?.fail("\(id): the broker closed the connection")
    }

    /// First byte and whole size of the next packet; payloads are bounded so that a length has at most three bytes.
    private func header() -> (UInt8, Int)? {
        let start = unread.readerIndex
        guard let first = unread.getInteger(at: start, as: UInt8.self) else { return nil }
        var length = 0
        for position in 0..<3 {
            guard let byte = unread.getInteger(at: start + 1 + position, as: UInt8.self) else { return nil }
            length |= Int(byte & 0x7F) << (7 * position)
            if byte < 0x80 { return (first, 2 + position + length) }
        }
        return nil
    }

    private func becomeReady() {
        guard !isReady else { return }
        isReady = true
        run?.wasReady()
    }

    private func send(_ packet: Packet) {
        var bytes = ByteBuffer()
        bytes.write(packet, version: .v311)
        context?.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
    }
}
