import Foundation
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import Operations
import SyncModel

/// One line of JSON each way, over a socket that the daemon's user alone can open.
struct ControlRequest: Codable, Equatable {
    /// What the daemon can be asked.
    enum Command: String, CaseIterable {
        case accounting
    }

    var command: String
}

struct ControlFailure: Codable, Error, Equatable {
    var error: String
}

enum ControlLimits {
    /// Bytes of a request.
    static let request = 4 * 1024
    /// Bytes of an answer.
    static let answer = 16 * 1024 * 1024
    static let connections = 8
    /// From accept to close; also the client's patience.
    static let time = TimeAmount.seconds(10)

    static func socketPath(ofBuffer path: String) -> String { path + ".sock" }
}

/// Answers the command line on `<buffer path>.sock`, because the daemon alone may have the buffer open.
package final class ControlServer: Sendable {
    private let channel: any Channel
    private let path: String

    /// Replaces the socket that an earlier process left: the caller holds the buffer, so no other process serves it.
    package static func start(
        bufferPath: String, buffer: Buffer, group: any EventLoopGroup, logger: Logger
    ) async throws(BufferError) -> ControlServer {
        let path = ControlLimits.socketPath(ofBuffer: bufferPath)
        let socket = try UnixSocket.listen(at: path, backlog: Int32(ControlLimits.connections))
        let connections = NIOLockedValueBox(0)
        // A client may close its sending side and still read its answers, as nc does.
        let bootstrap = ServerBootstrap(group: group).childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { channel in
                let isAllowed = connections.withLockedValue { count in
                    guard count < ControlLimits.connections else { return false }
                    count += 1
                    return true
                }
                guard isAllowed else { return channel.close() }
                channel.closeFuture.whenComplete { _ in connections.withLockedValue { $0 -= 1 } }
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        ControlHandler { await answer($0, buffer: buffer, logger: logger) })
                }
            }
        do {
            return ControlServer(channel: try await bootstrap.withBoundSocket(socket).get(), path: path)
        } catch {
            throw .control("\(path): the control socket cannot be served: \(error)")
        }
    }

    private init(channel: any Channel, path: String) {
        self.channel = channel
        self.path = path
    }

    package func stop() async {
        // Closing a channel that is closed already is the one error there is.
        try? await channel.close()
        UnixSocket.remove(path)
    }

    private static func answer(_ line: ByteBuffer, buffer: Buffer, logger: Logger) async -> ByteBuffer {
        do {
            return try encoded(try await accounting(line, buffer: buffer))
        } catch {
            let failure = error as? ControlFailure ?? ControlFailure(error: "\(error)")
            logger.notice("control request refused", metadata: [LogKey.reason.rawValue: "\(failure.error)"])
            return (try? encoded(failure)) ?? ByteBuffer(string: "{\"error\":\"internal\"}\n")
        }
    }

    private static func accounting(_ line: ByteBuffer, buffer: Buffer) async throws -> GatewayAccounting {
        let known = ControlRequest.Command.allCases.map(\.rawValue).joined(separator: ", ")
        let request: ControlRequest
        do {
            request = try JSONDecoder().decode(ControlRequest.self, from: Data(line.readableBytesView))
        } catch {
            throw ControlFailure(error: "not a request; send one line such as {\"command\":\"accounting\"}")
        }
        switch ControlRequest.Command(rawValue: request.command) {
        case .accounting: return try await buffer.accounting()
        case nil: throw ControlFailure(error: "unknown command \"\(request.command)\"; known: \(known)")
        }
    }

    private static func encoded(_ value: some Encodable) throws -> ByteBuffer {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        var line = ByteBuffer(bytes: try encoder.encode(value))
        line.writeInteger(UInt8(ascii: "\n"))
        return line
    }
}

/// One connection: a line in, a line out, one after the other.
final class ControlHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let answer: @Sendable (ByteBuffer) async -> ByteBuffer
    private var received = ByteBuffer()
    private var isAnswering = false
    private var isInputClosed = false
    private var timeout: Scheduled<Void>?

    init(answer: @escaping @Sendable (ByteBuffer) async -> ByteBuffer) { self.answer = answer }

    func channelActive(context: ChannelHandlerContext) {
        timeout = context.eventLoop.assumeIsolated().scheduleTask(in: ControlLimits.time) {
            context.close(promise: nil)
        }
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        timeout?.cancel()
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        received.writeBuffer(&bytes)
        guard received.readableBytes <= ControlLimits.request else {
            context.close(promise: nil)
            return
        }
        proceed(context)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? ChannelEvent, event == .inputClosed {
            isInputClosed = true
            proceed(context)
        }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func proceed(_ context: ChannelHandlerContext) {
        guard !isAnswering else { return }
        guard let end = received.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) else {
            if isInputClosed { context.close(promise: nil) }
            return
        }
        let length = end - received.readableBytesView.startIndex
        guard let line = received.readSlice(length: length) else { return }
        received.moveReaderIndex(forwardBy: 1)
        isAnswering = true
        let promise = context.eventLoop.makePromise(of: ByteBuffer.self)
        let answer = answer
        promise.completeWithTask { await answer(line) }
        promise.futureResult.assumeIsolated().whenSuccess { bytes in
            guard context.channel.isActive else { return }
            context.writeAndFlush(self.wrapOutboundOut(bytes), promise: nil)
            self.isAnswering = false
            self.proceed(context)
        }
    }
}
