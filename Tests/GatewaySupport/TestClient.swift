import MQTTWire
import NIOCore
import NIOPosix
import NIOSSL

/// A client for tests on the project's own codec: what it sends may be any bytes, what it receives are packets.
package final class TestClient: Sendable {
    package enum Failure: Error { case timeout, closed }

    private let channel: any Channel
    private let packets: PacketQueue

    package static func connect(
        port: Int, tls: NIOSSLContext? = nil, version: ProtocolVersion = .v5, receiveBuffer: Int? = nil
    ) async throws -> TestClient {
        let queue = PacketQueue()
        var bootstrap = ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup).connectTimeout(.seconds(5))
        if let receiveBuffer {
            bootstrap = bootstrap.channelOption(.socketOption(.so_rcvbuf), value: .init(receiveBuffer))
        }
        let channel =
            try await bootstrap
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    if let tls {
                        try channel.pipeline.syncOperations.addHandler(
                            NIOSSLClientHandler(context: tls, serverHostname: nil))
                    }
                    try channel.pipeline.syncOperations.addHandler(Receiver(queue: queue, version: version))
                }
            }
            .connect(host: "127.0.0.1", port: port).get()
        return TestClient(channel: channel, packets: queue)
    }

    private init(channel: any Channel, packets: PacketQueue) {
        self.channel = channel
        self.packets = packets
    }

    package func send(_ packet: Packet, version: ProtocolVersion = .v5) async throws {
        var buffer = ByteBuffer()
        buffer.write(packet, version: version)
        try await send(buffer)
    }

    package func send(_ bytes: ByteBuffer) async throws { try await channel.writeAndFlush(bytes) }

    /// The next packet; `nil` when the server has closed the connection.
    package func next(timeout: Duration = .seconds(5)) async throws -> Packet? {
        try await withThrowingTaskGroup(of: Packet?.self) { group in
            group.addTask { await self.packets.next() }
            group.addTask {
                try await Task.sleep(for: timeout)
                throw Failure.timeout
            }
            defer { group.cancelAll() }
            guard let first = try await group.next() else { throw Failure.closed }
            return first
        }
    }

    /// Opens a session and gives the CONNACK.
    package func open(_ connect: Connect) async throws -> ConnAck? {
        try await send(.connect(connect), version: connect.version)
        guard case .connack(let answer)? = try await next() else { return nil }
        return answer
    }

    package func close() async { try? await channel.close() }

    /// Takes nothing more from the socket, or goes on.
    package func setReading(_ reads: Bool) async throws {
        try await channel.setOption(.autoRead, value: reads).get()
        if reads { channel.read() }
    }

    /// Sends in the background: the server may not take it all.
    package func post(_ bytes: ByteBuffer) { channel.writeAndFlush(bytes, promise: nil) }

    /// Whether the server ends the connection within the time, whatever it sends before.
    package func isEnded(within timeout: Duration) async -> Bool {
        let end = ContinuousClock.now + timeout
        while ContinuousClock.now < end {
            do {
                if try await next(timeout: end - ContinuousClock.now) == nil { return true }
            } catch {
                return false
            }
        }
        return false
    }
}

private final class PacketQueue: Sendable {
    private let stream: AsyncStream<Packet>
    private let continuation: AsyncStream<Packet>.Continuation

    init() { (stream, continuation) = AsyncStream.makeStream(of: Packet.self) }

    func push(_ packet: Packet) { continuation.yield(packet) }
    func finish() { continuation.finish() }

    package func next() async -> Packet? {
        for await packet in stream { return packet }
        return nil
    }
}

private final class Receiver: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let queue: PacketQueue
    private var decoder = PacketDecoder(maximumPacketSize: 16 * 1024 * 1024)
    private var buffer = ByteBuffer()

    init(queue: PacketQueue, version: ProtocolVersion) {
        self.queue = queue
        decoder.version = version
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        buffer.writeBuffer(&bytes)
        do {
            while let packet = try decoder.next(&buffer) { queue.push(packet) }
        } catch {
            context.close(promise: nil)
        }
    }

    func channelInactive(context: ChannelHandlerContext) { queue.finish() }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
