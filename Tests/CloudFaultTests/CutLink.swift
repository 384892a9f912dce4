import NIOCore
import NIOPosix
import Synchronization

/// A TCP proxy on loopback that can be cut: connections end, and new ones are closed at once.
final class CutLink: Sendable {
    private struct State {
        var isCut = false
        var connections: [ObjectIdentifier: any Channel] = [:]
    }

    private let state = Mutex(State())
    private let target: Int
    /// Set once, before anybody connects.
    private let server = Mutex<(any Channel)?>(nil)

    init(to port: Int) { target = port }

    /// - Returns: the port to connect to.
    func open() async throws -> Int {
        let channel = try await ServerBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .childChannelInitializer { self.connect($0) }
            .bind(host: "127.0.0.1", port: 0).get()
        server.withLock { $0 = channel }
        return channel.localAddress?.port ?? 0
    }

    func cut() {
        let ended = state.withLock { state in
            state.isCut = true
            return Array(state.connections.values)
        }
        for channel in ended { channel.close(promise: nil) }
    }

    func mend() { state.withLock { $0.isCut = false } }

    func close() async {
        cut()
        try? await server.withLock { $0 }?.close()
    }

    private func connect(_ client: any Channel) -> EventLoopFuture<Void> {
        guard !state.withLock({ $0.isCut }) else { return client.close() }
        return ClientBootstrap(group: client.eventLoop).connect(host: "127.0.0.1", port: target).flatMap { peer in
            self.state.withLock { $0.connections[ObjectIdentifier(client)] = client }
            client.closeFuture.whenComplete { _ in
                self.state.withLock { _ = $0.connections.removeValue(forKey: ObjectIdentifier(client)) }
            }
            return client.eventLoop.makeCompletedFuture {
                try client.pipeline.syncOperations.addHandler(Forwarder(to: peer))
                try peer.pipeline.syncOperations.addHandler(Forwarder(to: client))
            }
        }
    }

    private final class Forwarder: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer

        private let peer: any Channel

        init(to peer: any Channel) { self.peer = peer }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            peer.writeAndFlush(unwrapInboundIn(data), promise: nil)
        }

        func channelInactive(context: ChannelHandlerContext) { peer.close(promise: nil) }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }
}
