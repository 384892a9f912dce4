import NIOCore

/// One connection: a line in, an answer out, one after the other.
final class ControlHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer
    /// Returns when the client's socket has taken it.
    typealias Write = @Sendable (ByteBuffer) async throws -> Void

    private let answer: @Sendable (ByteBuffer, @escaping Write) async -> Void
    private var received = ByteBuffer()
    private var isAnswering = false
    private var isInputClosed = false
    private var timeout: Scheduled<Void>?

    init(answer: @escaping @Sendable (ByteBuffer, @escaping Write) async -> Void) { self.answer = answer }

    func channelActive(context: ChannelHandlerContext) {
        close(in: ControlLimits.time, context)
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

    private func close(in time: TimeAmount, _ context: ChannelHandlerContext) {
        timeout?.cancel()
        timeout = context.eventLoop.assumeIsolated().scheduleTask(in: time) { context.close(promise: nil) }
    }

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
        let loop = context.eventLoop
        let bound = NIOLoopBound((self, context), eventLoop: loop)
        let promise = loop.makePromise(of: Void.self)
        let answer = answer
        promise.completeWithTask {
            await answer(line) { bytes in
                try await loop.flatSubmit { bound.value.0.write(bytes, bound.value.1) }.get()
            }
        }
        promise.futureResult.assumeIsolated().whenComplete { _ in
            guard context.channel.isActive else { return }
            self.isAnswering = false
            self.proceed(context)
        }
    }

    private func write(_ bytes: ByteBuffer, _ context: ChannelHandlerContext) -> EventLoopFuture<Void> {
        guard context.channel.isActive else {
            return context.eventLoop.makeFailedFuture(ChannelError.ioOnClosedChannel)
        }
        close(in: ControlLimits.takingTime, context)
        let written = context.writeAndFlush(wrapOutboundOut(bytes))
        written.assumeIsolated().whenSuccess {
            if context.channel.isActive { self.close(in: ControlLimits.time, context) }
        }
        return written
    }
}
