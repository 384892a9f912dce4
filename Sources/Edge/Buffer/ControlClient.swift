import Foundation
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import Operations
import SyncModel

/// Asks a daemon on its control socket, and reads the buffer's file where no daemon runs.
package enum ControlClient {
    /// The accounting of the buffer at `path`: the daemon's when it runs, else what the file says.
    package static func accounting(ofBuffer path: String) async throws(BufferError) -> GatewayAccounting {
        if let answer: GatewayAccounting = try await one(.accounting, ofBuffer: path) { return answer }
        return try await onThread { try Buffer.offlineAccounting(path: path) }
    }

    /// The same for what the buffer holds.
    package static func stats(ofBuffer path: String) async throws(BufferError) -> BufferStats {
        if let answer: BufferStats = try await one(.stats, ofBuffer: path) { return answer }
        return try await onThread { try Buffer.statsOffline(path: path) }
    }

    /// The daemon alone knows its devices.
    package static func devices(ofBuffer path: String) async throws(BufferError) -> DeviceListing {
        if let answer: DeviceListing = try await one(.devices, ofBuffer: path) { return answer }
        throw .control(
            "\(ControlLimits.socketPath(ofBuffer: path)): no gateway serves this buffer; start sluice-edge, or name the "
                + "buffer of one that runs with --buffer")
    }

    /// Lines of JSON, from the daemon or, where none runs, from the file.
    ///
    /// - Parameter write: takes whole lines, in order; it may block, and nothing is read meanwhile.
    /// - Returns: how many.
    package static func export(
        _ contents: BufferContents, ofBuffer path: String, write: @escaping @Sendable (ByteBuffer) throws -> Void
    ) async throws(BufferError) -> Int {
        let request: ControlRequest
        switch contents {
        case .messages(let newest?):
            request = ControlRequest(command: ControlRequest.Command.tail.rawValue, count: newest)
        case .messages(nil): request = ControlRequest(command: ControlRequest.Command.export.rawValue)
        case .deadLetters: request = ControlRequest(command: ControlRequest.Command.deadLetters.rawValue)
        }
        let count = NIOLockedValueBox<Int?>(nil)
        let answer = await ask(request, ofBuffer: path) { line in
            if line.begins(with: "{\"end\":") {
                let end = try JSONDecoder().decode(ControlEnd.self, from: Data(line.readableBytesView))
                count.withLockedValue { $0 = end.end }
                return true
            }
            var line = line
            line.writeInteger(UInt8(ascii: "\n"))
            try write(line)
            return false
        }
        switch answer {
        case .answered: return count.withLockedValue { $0 } ?? 0
        case .failed(let error): throw error
        case .noDaemon:
            return try await onThread { try Buffer.exportOffline(contents, path: path, write: write) }
        }
    }

    /// `nil` where no daemon runs.
    private static func one<Value: Decodable & Sendable>(
        _ command: ControlRequest.Command, ofBuffer path: String
    ) async throws(BufferError) -> Value? {
        let line = NIOLockedValueBox(ByteBuffer())
        let answer = await ask(ControlRequest(command: command.rawValue), ofBuffer: path) { received in
            line.withLockedValue { $0 = received }
            return true
        }
        switch answer {
        case .noDaemon: return nil
        case .failed(let error): throw error
        case .answered: break
        }
        do {
            return try JSONDecoder().decode(Value.self, from: Data(line.withLockedValue { $0 }.readableBytesView))
        } catch {
            throw .control(
                "\(ControlLimits.socketPath(ofBuffer: path)): the answer makes no sense (\(error)); use the sluice of "
                    + "the daemon's version")
        }
    }

    enum Answer: Sendable {
        case answered
        /// Nobody listens.
        case noDaemon
        case failed(BufferError)
    }

    /// One request and the lines of its answer.
    ///
    /// - Parameter take: called for each line, without its end; tells whether it is the last.
    static func ask(
        _ request: ControlRequest, ofBuffer path: String, take: @escaping @Sendable (ByteBuffer) throws -> Bool
    ) async -> Answer {
        let socket = ControlLimits.socketPath(ofBuffer: path)
        // A loop of its own, since `take` may block.
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let answer = await ask(request, socket: socket, loop: group.next(), take: take)
        // Nothing is left on it by then.
        try? await group.shutdownGracefully()
        return answer
    }

    private static func ask(
        _ request: ControlRequest, socket: String, loop: any EventLoop,
        take: @escaping @Sendable (ByteBuffer) throws -> Bool
    ) async -> Answer {
        let promise = loop.makePromise(of: Void.self)
        let bootstrap = ClientBootstrap(group: loop).connectTimeout(ControlLimits.time).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(AnswerHandler(promise, take: take))
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
            var line = ByteBuffer(bytes: try JSONEncoder().encode(request))
            line.writeInteger(UInt8(ascii: "\n"))
            try await channel.writeAndFlush(line)
            try await promise.futureResult.get()
            try? await channel.close()
            return .answered
        } catch let error {
            promise.fail(error)
            try? await channel.close()
            switch error {
            case let failure as ControlFailure:
                return .failed(.control("the gateway's daemon answers: \(failure.error)"))
            case let error as AnswerError:
                return .failed(.control("\(socket): no answer from the daemon (\(error.reason)); look into its log"))
            default: return .failed(.control("\(socket): \(error)"))
            }
        }
    }

    private static func isAbsence(_ error: any Error) -> Bool {
        guard let error = error as? IOError else { return false }
        return error.errnoCode == ENOENT || error.errnoCode == ECONNREFUSED
    }

    /// On a thread of its own, because it blocks.
    private static func onThread<Value: Sendable>(
        _ body: @escaping @Sendable () throws -> Value
    ) async throws(BufferError) -> Value {
        let result: Result<Value, BufferError> = await withCheckedContinuation { continuation in
            let code = WriterThread.start {
                do {
                    continuation.resume(returning: .success(try body()))
                } catch {
                    continuation.resume(returning: .failure(error as? BufferError ?? .control("\(error)")))
                }
            }
            if let code { continuation.resume(returning: .failure(.io("no thread: \(reason(code))"))) }
        }
        return try result.get()
    }
}

private struct AnswerError: Error {
    var reason: String
}

/// Takes the lines of an answer.
private final class AnswerHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let promise: EventLoopPromise<Void>
    private let take: (ByteBuffer) throws -> Bool
    private var received = ByteBuffer()
    private var isDone = false
    private var lastPart = NIODeadline.now()
    private var timer: RepeatedTask?

    init(_ promise: EventLoopPromise<Void>, take: @escaping (ByteBuffer) throws -> Bool) {
        self.promise = promise
        self.take = take
    }

    func channelActive(context: ChannelHandlerContext) {
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        timer = context.eventLoop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in
            let (handler, context) = bound.value
            guard NIODeadline.now() - handler.lastPart > ControlLimits.time else { return }
            handler.fail(AnswerError(reason: "it took longer than 10 s"), context)
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isDone else { return }
        var bytes = unwrapInboundIn(data)
        received.writeBuffer(&bytes)
        do {
            while !isDone,
                let length = received.readableBytesView.firstIndex(of: UInt8(ascii: "\n")).map({
                    $0 - received.readerIndex
                }), let line = received.readSlice(length: length)
            {
                received.moveReaderIndex(forwardBy: 1)
                if line.begins(with: "{\"error\":") {
                    throw try JSONDecoder().decode(ControlFailure.self, from: Data(line.readableBytesView))
                }
                if try take(line) {
                    isDone = true
                    promise.succeed()
                }
            }
        } catch {
            return fail(error, context)
        }
        received.discardReadBytes()
        guard received.readableBytes <= ControlLimits.answer else {
            return fail(AnswerError(reason: "it is too long"), context)
        }
        lastPart = .now()
    }

    func channelInactive(context: ChannelHandlerContext) {
        timer?.cancel()
        promise.fail(AnswerError(reason: "the connection was closed"))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { fail(error, context) }

    private func fail(_ error: any Error, _ context: ChannelHandlerContext) {
        promise.fail(error)
        context.close(promise: nil)
    }
}

extension ByteBuffer {
    fileprivate func begins(with text: StaticString) -> Bool {
        readableBytesView.starts(with: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
}
