import Flow
import NIOCore
import NIOPosix
import Synchronization

/// The link between a gateway and its cloud, as bad as a test makes it: a proxy of TCP on loopback.
///
/// Packets that a network loses are sent again by TCP; what reaches a program is delay, silence, and connections that end in
/// the middle of a request or before its answer. Those are what it makes.
final class BadLink: Sendable {
    struct Weather: Sendable {
        /// Of each piece of data, in both directions.
        var delay = 0.0
        /// Connections end at once, and no new one comes about.
        var isCut = false
        /// Data waits until this ends.
        var isSilent = false
        /// Out of 100 pieces on their way to the cloud, after how many the connection ends: a request that came in part.
        var requestLoss = 0
        /// The same for pieces on their way back: the cloud has the batch, the gateway does not know.
        var answerLoss = 0
    }

    private struct State {
        var weather = Weather()
        var generator: SeededGenerator
        var connections: [ObjectIdentifier: any Channel] = [:]
        /// Connections that a loss has ended.
        var losses = 0
    }

    private let state: Mutex<State>
    private let server: any Channel
    let port: Int

    init(to cloud: Int, seed: UInt64) async throws {
        let shared = Mutex<BadLink?>(nil)
        server = try await ServerBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                guard let link = shared.withLock({ $0 }) else { return channel.close() }
                return link.connect(channel, to: cloud)
            }
            .bind(host: "127.0.0.1", port: 0).get()
        port = server.localAddress?.port ?? 0
        state = Mutex(State(generator: SeededGenerator(seed: seed)))
        shared.withLock { $0 = self }
    }

    var losses: Int { state.withLock { $0.losses } }

    var weather: Weather {
        get { state.withLock { $0.weather } }
        set {
            let ended = state.withLock { state in
                state.weather = newValue
                return newValue.isCut ? Array(state.connections.values) : []
            }
            for channel in ended { channel.close(promise: nil) }
        }
    }

    func close() async {
        weather.isCut = true
        try? await server.close()
    }

    // MARK: Connections

    private func connect(_ device: any Channel, to cloud: Int) -> EventLoopFuture<Void> {
        guard !weather.isCut else { return device.close() }
        let loop = device.eventLoop
        return ClientBootstrap(group: loop).connect(host: "127.0.0.1", port: cloud).flatMap { peer in
            self.state.withLock { $0.connections[ObjectIdentifier(device)] = device }
            device.closeFuture.whenComplete { _ in
                self.state.withLock { _ = $0.connections.removeValue(forKey: ObjectIdentifier(device)) }
            }
            return loop.makeCompletedFuture {
                try device.pipeline.syncOperations.addHandler(Pipe(self, to: peer, isRequest: true))
                try peer.pipeline.syncOperations.addHandler(Pipe(self, to: device, isRequest: false))
            }
        }
    }

    /// What becomes of a piece of data: `nil` when the connection ends instead.
    fileprivate func fate(isRequest: Bool) -> (delay: TimeAmount, isHeld: Bool)? {
        state.withLock { state in
            let loss = isRequest ? state.weather.requestLoss : state.weather.answerLoss
            if loss > 0, Int.random(in: 0..<100, using: &state.generator) < loss {
                state.losses += 1
                return nil
            }
            return (.microseconds(Int64(state.weather.delay * 1_000_000)), state.weather.isSilent)
        }
    }

    fileprivate var isSilent: Bool { state.withLock { $0.weather.isSilent } }
}

/// Passes on what it reads, in order, when its time has come.
private final class Pipe: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let link: BadLink
    private let peer: any Channel
    private let isRequest: Bool
    private var waiting: [(due: NIODeadline, data: ByteBuffer)] = []

    init(_ link: BadLink, to peer: any Channel, isRequest: Bool) {
        self.link = link
        self.peer = peer
        self.isRequest = isRequest
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard let fate = link.fate(isRequest: isRequest) else {
            context.close(promise: nil)
            return
        }
        waiting.append((.now() + fate.delay, unwrapInboundIn(data)))
        passOn(context)
    }

    private func passOn(_ context: ChannelHandlerContext) {
        guard context.channel.isActive, let first = waiting.first else { return }
        let now = NIODeadline.now()
        guard first.due <= now, !link.isSilent else {
            let pause: TimeAmount = first.due > now ? first.due - now : .milliseconds(20)
            // Safe: the task runs on the handler's own loop.
            let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
            context.eventLoop.scheduleTask(in: pause) { bound.value.0.passOn(bound.value.1) }
            return
        }
        peer.writeAndFlush(waiting.removeFirst().data, promise: nil)
        passOn(context)
    }

    func channelInactive(context: ChannelHandlerContext) {
        peer.close(promise: nil)
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
