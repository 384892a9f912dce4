import Flow
import NIOCore

/// Accepts connections no faster than the configured rate, before any TLS: whoever comes in a storm waits in the kernel's
/// queue, where it costs nothing, and is served in turn.
final class AcceptPacer: ChannelDuplexHandler {
    typealias InboundIn = Channel
    typealias InboundOut = Channel
    typealias OutboundIn = Never

    private var bucket: TokenBucket?
    private let now: () -> Int64
    private var isWaiting = false
    private var isStopped = false

    /// - Parameters:
    ///   - bucket: one token a connection; `nil` is unlimited.
    ///   - now: microseconds on the monotonic clock.
    init(bucket: TokenBucket?, now: @escaping () -> Int64) {
        self.bucket = bucket
        self.now = now
    }

    func read(context: ChannelHandlerContext) {
        guard !isStopped, !isWaiting else { return }
        guard case .wait(let wait)? = bucket?.take(1, at: now()) else {
            context.read()
            return
        }
        isWaiting = true
        let loopBound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(in: .microseconds(wait)) {
            let (pacer, context) = loopBound.value
            pacer.isWaiting = false
            pacer.read(context: context)
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) { isStopped = true }
    func channelInactive(context: ChannelHandlerContext) {
        isStopped = true
        context.fireChannelInactive()
    }
}
