import Logging
import Operations
import PKI

/// Reads the listeners' certificates and revocation lists again, and remembers what it has said: the same concern is
/// logged once, not at every reading.
struct CertificateReloader {
    enum Cause: Sendable {
        /// A signal; a failure is told in any case.
        case asked
        case timer
    }

    private let listeners: [GatewayListener]
    private let metrics: GatewayMetrics
    private let logger: Logger
    /// Seconds since 1970 by which certificates are judged.
    private let now: () -> Int64
    /// By listener; what the log has last said.
    private var known: [Set<GatewayListener.Concern>]

    init(
        listeners: [GatewayListener], metrics: GatewayMetrics, logger: Logger, now: @escaping () -> Int64
    ) {
        self.now = now
        self.listeners = listeners
        self.metrics = metrics
        self.logger = logger
        known = listeners.map { _ in [] }
    }

    /// Blocks on files.
    ///
    /// - Returns: the listeners whose connected clients have to be judged again.
    mutating func reload(_ cause: Cause) -> [(listener: GatewayListener, change: TrustStore.Change)] {
        var changes: [(listener: GatewayListener, change: TrustStore.Change)] = []
        for listener in listeners {
            switch listener.reload() {
            case .success(.none): break
            case .success(let change):
                changes.append((listener, change))
                logger.notice(
                    change == .lists
                        ? "A listener has a new revocation list." : "A listener has new client authorities.",
                    [.listener: "\(listener.name)"])
            case .failure: metrics.reloadFailed()
            }
        }
        report(again: cause == .asked)
        if cause == .asked { logger.notice("Certificates and revocation lists were read again.", [:]) }
        return changes
    }

    /// Logs what is new among the concerns, and that they are over.
    ///
    /// - Parameter again: what is not new as well.
    mutating func report(again: Bool = false) {
        let now = now()
        for (index, listener) in listeners.enumerated() {
            let concerns = Set(listener.concerns(at: now))
            for concern in again ? concerns : concerns.subtracting(known[index]) { log(concern, of: listener) }
            if concerns.isEmpty, !known[index].isEmpty {
                logger.notice(
                    "A listener's certificates are in order again.", [.listener: "\(listener.name)"])
            }
            known[index] = concerns
        }
    }

    private func log(_ concern: GatewayListener.Concern, of listener: GatewayListener) {
        let isFailure = if case .cannotReload = concern { true } else { false }
        logger.log(
            level: isFailure ? .error : .warning, "A listener's certificates need attention.",
            [.listener: "\(listener.name)", isFailure ? .error : .reason: "\(concern.text)"])
    }
}
