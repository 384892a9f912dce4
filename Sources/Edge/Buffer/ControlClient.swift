import Foundation
import NIOCore
import NIOPosix
import SyncModel

/// Asks a daemon on its control socket.
package enum ControlClient {
    /// The accounting of the buffer at `path`: the daemon's when it runs, else what the file says.
    package static func accounting(ofBuffer path: String) async throws(BufferError) -> GatewayAccounting {
        let answer: ByteBuffer
        switch await ask(ControlRequest.Command.accounting.rawValue, ofBuffer: path) {
        case .answered(let line): answer = line
        case .failed(let error): throw error
        case .noDaemon: return try await offline(path)
        }
        let data = Data(answer.readableBytesView)
        if let failure = try? JSONDecoder().decode(ControlFailure.self, from: data) {
            throw .control("the gateway's daemon answers: \(failure.error)")
        }
        do {
            return try JSONDecoder().decode(GatewayAccounting.self, from: data)
        } catch {
            throw .control(
                "\(ControlLimits.socketPath(ofBuffer: path)): the answer makes no sense (\(error)); use the sluice of "
                    + "the daemon's version")
        }
    }

    enum Answer: Sendable {
        case answered(ByteBuffer)
        /// Nobody listens.
        case noDaemon
        case failed(BufferError)
    }

    /// One request and its answer, a line each.
    static func ask(_ command: String, ofBuffer path: String) async -> Answer {
        let socket = ControlLimits.socketPath(ofBuffer: path)
        let group = MultiThreadedEventLoopGroup.singleton
        let loop = group.next()
        let promise = loop.makePromise(of: ByteBuffer.self)
        let bootstrap = ClientBootstrap(group: loop).connectTimeout(ControlLimits.time).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(AnswerHandler(promise))
            }
        }
        let channel: any Channel
        do {
            channel = try await bootstrap.connect(unixDomainSocketPath: socket).get()
        } catch {
            promise.fail(error)
            return isAbsence(error)
                ? .noDaemon : .failed(.control("\(socket): \(error); run as the daemon's user or as root"))
        }
        do {
            var line = ByteBuffer(bytes: try JSONEncoder().encode(ControlRequest(command: command)))
            line.writeInteger(UInt8(ascii: "\n"))
            try await channel.writeAndFlush(line)
            let answer = try await promise.futureResult.get()
            try? await channel.close()
            return .answered(answer)
        } catch {
            promise.fail(error)
            try? await channel.close()
            return .failed(.control("\(socket): no answer from the daemon (\(error)); look into its log"))
        }
    }

    private static func isAbsence(_ error: any Error) -> Bool {
        guard let error = error as? IOError else { return false }
        return error.errnoCode == ENOENT || error.errnoCode == ECONNREFUSED
    }

    /// On a thread of its own, because it blocks.
    private static func offline(_ path: String) async throws(BufferError) -> GatewayAccounting {
        let result: Result<GatewayAccounting, BufferError> = await withCheckedContinuation { continuation in
            let code = WriterThread.start {
                do throws(BufferError) {
                    continuation.resume(returning: .success(try Buffer.offlineAccounting(path: path)))
                } catch {
                    continuation.resume(returning: .failure(error))
                }
            }
            if let code { continuation.resume(returning: .failure(.io("no thread: \(reason(code))"))) }
        }
        return try result.get()
    }
}

/// Collects one line.
private final class AnswerHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let promise: EventLoopPromise<ByteBuffer>
    private var received = ByteBuffer()
    private var timeout: Scheduled<Void>?

    init(_ promise: EventLoopPromise<ByteBuffer>) { self.promise = promise }

    func channelActive(context: ChannelHandlerContext) {
        timeout = context.eventLoop.assumeIsolated().scheduleTask(in: ControlLimits.time) {
            self.fail("it took longer than 10 s", context)
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        let isComplete = bytes.readableBytesView.contains(UInt8(ascii: "\n"))
        received.writeBuffer(&bytes)
        guard received.readableBytes <= ControlLimits.answer else { return fail("it is too long", context) }
        if isComplete { promise.succeed(received) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        timeout?.cancel()
        promise.fail(ControlFailure(error: "the connection was closed"))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        promise.fail(error)
        context.close(promise: nil)
    }

    private func fail(_ why: String, _ context: ChannelHandlerContext) {
        promise.fail(ControlFailure(error: why))
        context.close(promise: nil)
    }
}
