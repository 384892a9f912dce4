import Flow
import Glibc
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

    /// Whoever waits goes on waiting as long as it was told.
    func change(rate: Double?, at now: Int64) {
        bucket = rate.map { TokenBucket(rate: $0, burst: Int64($0.rounded(.up)), at: now) }
    }

    /// Takes a token, or tells for how many microseconds to wait.
    func take(at now: Int64) -> TokenBucket.Admission {
        if isOverloaded, case .wait(let wait) = trickle.take(at: now) { return .wait(wait) }
        return bucket?.take(at: now) ?? .admitted
    }

    /// Whoever was accepted had gone already.
    func giveBack() {
        if isOverloaded { trickle.giveBack() }
        bucket?.giveBack()
    }
}

/// Accepts connections no faster than the budget allows, before any TLS: whoever comes in a storm waits in the kernel's
/// queue, where it costs nothing, and is served in turn.
///
/// Who has given up waiting lies in that queue too, before those who came later. It costs no token: else a storm whose
/// clients have less patience than the queue is long would spend all tokens on the dead, and never end.
final class AcceptPacer: ChannelDuplexHandler {
    typealias InboundIn = Channel
    typealias InboundOut = Channel
    typealias OutboundIn = Never

    private let budget: AcceptBudget
    private let now: () -> Int64
    private let gaveUp: () -> Void
    private var isWaiting = false
    private var isStopped = false

    /// - Parameters:
    ///   - now: microseconds on the monotonic clock.
    ///   - gaveUp: called for each connection whose client had closed it before it was accepted.
    init(budget: AcceptBudget, now: @escaping () -> Int64, gaveUp: @escaping () -> Void) {
        self.budget = budget
        self.now = now
        self.gaveUp = gaveUp
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

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let channel = unwrapInboundIn(data)
        guard Self.isGone(channel) else {
            context.fireChannelRead(data)
            return
        }
        budget.giveBack()
        gaveUp()
        channel.close(promise: nil)
    }

    private static func isGone(_ channel: any Channel) -> Bool {
        guard let socket = channel as? any SocketOptionProvider else { return false }
        var isGone = false
        // On the channel's loop, where this is, the answer is there at once.
        socket.getTCPInfo().assumeIsolated().whenSuccess { isGone = $0.tcpi_state != UInt8(TCP_ESTABLISHED) }
        return isGone
    }

    func handlerRemoved(context: ChannelHandlerContext) { isStopped = true }
    func channelInactive(context: ChannelHandlerContext) {
        isStopped = true
        context.fireChannelInactive()
    }
}
