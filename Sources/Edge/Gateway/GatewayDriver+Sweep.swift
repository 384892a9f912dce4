import DequeModule
import MQTTSession
import NIOCore
import PKI

/// What time alone does to connections: certificates that expire or were revoked, and readers that take nothing. One look
/// at all connections a second, instead of timers for each.
extension GatewayDriver {
    /// Microseconds.
    private static let sweepInterval: Int64 = 1_000_000
    /// Microseconds that judging may take at a time: a signature is verified for each certificate.
    private static let judgingTime: Int64 = 5_000

    func sweep() {
        let time = EdgeClock.monotonicTime()
        if time >= nextSweep {
            nextSweep = time + Self.sweepInterval
            let seconds = judgingSeconds
            var nearest = Int64.max
            forEachConnection { handler in
                nearest = min(nearest, handler.validUntil)
                if handler.validUntil < seconds { judgeLater(handler) }
                handler.judgeReader(at: time)
            }
            metrics.nearestClient(expiresAt: nearest == .max ? nil : nearest, now: seconds)
        }
        judge()
    }

    /// Trust has changed: whoever may be concerned is judged again, in the order of their slots, a few at a time.
    func trustChanged(_ change: TrustStore.Change, of listener: GatewayListener) {
        forEachConnection { handler in
            guard handler.listener === listener else { return }
            if change == .authorities || listener.names(serial: handler.serial) { judgeLater(handler) }
        }
        judge()
        cycleEnded()
    }

    private func judgeLater(_ handler: MQTTConnectionHandler) {
        guard !handler.isToBeJudged, let id = handler.id else { return }
        handler.isToBeJudged = true
        toJudge.append(id)
    }

    private func judge() {
        guard !toJudge.isEmpty else { return }
        let end = EdgeClock.monotonicTime() + Self.judgingTime
        while let id = toJudge.popFirst() {
            handler(id)?.judgeAgain()
            if EdgeClock.monotonicTime() >= end { return }
        }
    }
}
