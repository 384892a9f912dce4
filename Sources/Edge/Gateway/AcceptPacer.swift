import Flow
import NIOCore

/// What all listeners together may accept. It lives on the event loop.
///
/// While the loop is overloaded a trickle is let in: few enough that their handshakes do not feed the overload, enough
/// that a client is told "server busy" instead of waiting without an end.
final class AcceptBudget {
    /// One token a connection; `nil` is unlimited.
    private var bucket: TokenBucket?
    private var trickle: TokenBucket
    var isOverloaded = false

    /// Connections a second.
    static let trickleRate = 5.0

    /// - Parameters:
    ///   - rate: connections a second; `nil` is unlimited.
    ///   - now: microseconds on the monotonic clock.
    init(rate: Double?, at now: Int64) {
        bucket = rate.map { TokenBucket(rate: $0, burst: Int64($0.rounded(.up)), at: now) }
        trickle = TokenBucket(rate: Self.trickleRate, burst: 1, at: now)
    }

    /// Takes a token, or tells for how many microseconds to wait.
    func take(at now: Int64) -> TokenBucket.Admission {
        if isOverloaded, case .wait(let wait) = trickle.take(at: now) { return .wait(wait) }
        return bucket?.take(at: now) ?? .admitted
    }
}

/// Accepts connections no faster than the budget allows, before any TLS: whoever comes in a storm waits in the kernel's
/// queue, where it costs nothing, and is served in turn.
final class AcceptPacer: ChannelDuplexHandler {
    typealias InboundIn = Channel
    typealias InboundOut = Channel
    typealias OutboundIn = Never

    private let budget: AcceptBudget
    private let now: () -> Int64
    private var isWaiting = false
    private var isStopped = false

    /// - Parameter now: microseconds on the monotonic clock.
    init(budget: AcceptBudget, now: @escaping () -> Int64) {
        self.budget = budget
        self.now = now
    }

    func read(context: ChannelHandlerContext) {
        guard !isStopped, !isWaiting else { return }
        guard case .wait(let wait) = budget.take(at: now()) else {
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
