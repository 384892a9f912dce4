import Buffer
import MQTTSession
import NIOConcurrencyHelpers
import Operations
import Sparkplug
import SyncModel

/// The gateway's time series. What the broker counts is copied from its counters a few times a second, and read at a
/// scrape; nothing is looked up per message.
package final class GatewayMetrics: Sendable {
    private struct Snapshot {
        var counters = BrokerCounters()
        var connections = 0
        var limitedDevices = 0
        var unusualDevices = 0
        var sparkplug = SparkplugMonitor.Counters()
        var sparkplugNodesOnline = 0
        var sparkplugDevicesOnline = 0
        var fill: BufferFill?
        var concerns = BufferConcerns()
        var failedCommits = 0
        var isOverloaded = false
        /// Seconds since 1970; `nil` without a client that has a certificate.
        var nearestClientExpiry: Int64?
        /// Days from the last look until then.
        var nearestClientDays: Double { GatewayMetrics.days(until: nearestClientExpiry, from: lookedAt) }
        /// Seconds since 1970, as certificates are judged.
        var lookedAt: Int64 = 0
    }

    private let registry: MetricRegistry

    private let closed: [CloseReason: MetricCounter]
    private let committedMessages: MetricCounter
    private let commits: MetricCounter
    private let commitFailures: MetricCounter
    private let commitDuration: MetricHistogram
    private let reloadFailures: MetricCounter
    private let loopLag: MetricHistogram
    /// Written by the event loop, read by a scrape; held for a copy only.
    private let snapshot = NIOLockedValueBox(Snapshot())

    package init(_ registry: MetricRegistry = MetricRegistry()) {
        closed = Dictionary(
            uniqueKeysWithValues: CloseReason.allCases.map {
                ($0, registry.counter(.connectionsClosed, [(name: "reason", value: $0.rawValue)]))
            })
        committedMessages = registry.counter(.messagesCommitted)
        commits = registry.counter(.commits)
        commitFailures = registry.counter(.commitFailures)
        commitDuration = registry.histogram(.commitDuration)
        reloadFailures = registry.counter(.certificateReloadFailures)
        loopLag = registry.histogram(.eventLoopLag)
        self.registry = registry
        register(in: registry)
    }

    private func register(in registry: MetricRegistry) {
        let box = snapshot
        func read(_ value: @escaping @Sendable (Snapshot) -> Double) -> @Sendable () -> Double {
            { box.withLockedValue { value($0) } }
        }
        registry.gauge(.connections, read: read { Double($0.connections) })
        registry.gauge(.devicesLimited, read: read { Double($0.limitedDevices) })
        registry.gauge(.devicesUnusual, read: read { Double($0.unusualDevices) })
        registry.gauge(.sparkplugNodesOnline, read: read { Double($0.sparkplugNodesOnline) })
        registry.gauge(.sparkplugDevicesOnline, read: read { Double($0.sparkplugDevicesOnline) })
        registry.counter(.sparkplugLost, read: read { Double($0.sparkplug.lost) })
        registry.counter(.sparkplugStaleDeaths, read: read { Double($0.sparkplug.staleDeaths) })
        registry.counter(.sparkplugUnknownAliases, read: read { Double($0.sparkplug.unknownAliases) })
        registry.counter(.sparkplugMalformed, read: read { Double($0.sparkplug.malformed) })
        registry.counter(.sparkplugUnfollowed, read: read { Double($0.sparkplug.unfollowed) })
        registry.gauge(.overloaded, read: read { $0.isOverloaded ? 1 : 0 })
        registry.gauge(
            .certificateExpiry, [(name: "kind", value: "nearest_client")],
            read: read { $0.nearestClientDays })
        registry.counter(.connectionsRefused, read: read { Double($0.counters.connectionsRefused) })
        for qos in 0...2 {
            let labels = [(name: "qos", value: "\(qos)")]
            registry.counter(.messagesReceived, labels, read: read { Double($0.counters.received[qos]) })
            registry.counter(.messagesDelivered, labels, read: read { Double($0.counters.delivered[qos]) })
        }
        for reason in RefusalReason.allCases {
            let labels = [(name: "reason", value: "\(reason)")]
            registry.counter(.messagesRefused, labels, read: read { Double($0.counters.refused[reason]) })
        }
        for reason in DropReason.allCases {
            let labels = [(name: "reason", value: "\(reason)")]
            registry.counter(.messagesDropped, labels, read: read { Double($0.counters.dropped[reason]) })
        }
        registry.gauge(.bufferBytes, read: read { Double($0.fill?.bytes ?? 0) })
        registry.gauge(.bufferMessages, read: read { Double($0.fill?.messages ?? 0) })
        let droppings: [(LedgerReason, @Sendable (Snapshot) -> Int)] = [
            (.bufferFull, { $0.concerns.droppedForRoom }), (.expiredByAge, { $0.concerns.expired }),
        ]
        for (reason, count) in droppings {
            registry.counter(.bufferDropped, [(name: "reason", value: "\(reason)")], read: read { Double(count($0)) })
        }
        registry.gauge(.bufferDeadLetters, read: read { Double($0.concerns.deadLetters) })
        registry.gauge(.bufferFull, read: read { $0.fill?.isFull == true ? 1 : 0 })
    }

    /// - Parameter read: what the rules have done, in their order.
    func watch(rules: [String], read: @escaping @Sendable () -> [LocalRuleStatus]) {
        let box = snapshot
        guard !rules.isEmpty else { return }
        registry.counter(.localUnreadable, read: { box.withLockedValue { Double($0.counters.unreadable) } })
        for (index, rule) in rules.enumerated() {
            let labels = [(name: "rule", value: rule)]
            func value(_ value: @escaping @Sendable (LocalRuleStatus) -> Int) -> @Sendable () -> Double {
                {
                    let all = read()
                    return index < all.count ? Double(value(all[index])) : 0
                }
            }
            registry.gauge(.localHeld, labels, read: value(\.held))
            registry.counter(.localConsumed, labels, read: value(\.consumed))
            registry.counter(.localAggregates, labels, read: value(\.aggregates))
            registry.counter(.localUnsent, labels, read: value(\.unsent))
            registry.counter(.localReleased, labels, read: value(\.released))
        }
    }

    /// What a listener's certificates have of time.
    ///
    /// - Parameter now: seconds since 1970, as certificates are judged.
    func watch(_ listener: GatewayListener, now: @escaping @Sendable () -> Int64) {
        guard listener.tls != nil else { return }
        let name = (name: "listener", value: listener.name)
        registry.gauge(.certificateExpiry, [(name: "kind", value: "server"), name]) {
            Self.days(until: listener.certificateNotAfter, from: now())
        }
        registry.gauge(.revocationListDue, [name]) { Self.days(until: listener.listNextUpdate, from: now()) }
    }

    /// No number where there is no such time, so that no rule that compares it fires.
    private static func days(until time: Int64?, from now: Int64) -> Double {
        time.map { Double($0 - now) / 86_400 } ?? .nan
    }

    func reloadFailed() { reloadFailures.add() }

    /// - Parameter lag: microseconds.
    func ticked(lag: Int64, isOverloaded: Bool) {
        loopLag.observe(Double(lag) / 1e6)
        snapshot.withLockedValue { $0.isOverloaded = isOverloaded }
    }

    func nearestClient(expiresAt time: Int64?, now: Int64) {
        snapshot.withLockedValue {
            $0.nearestClientExpiry = time
            $0.lookedAt = now
        }
    }

    func closed(_ reason: CloseReason) { closed[reason]?.add() }

    func committed(_ receipt: CommitReceipt) {
        snapshot.withLockedValue { $0.failedCommits = 0 }
        committedMessages.add(UInt64(receipt.messageCount))
        commits.add()
        commitDuration.observe(Double(receipt.duration) / 1e6)
    }

    /// - Parameter failures: commits that have failed since the last success.
    func commitFailed(since failures: Int) {
        commitFailures.add()
        snapshot.withLockedValue { $0.failedCommits = failures }
    }

    /// The writer cannot commit now; for the health check.
    package var isFailing: Bool { snapshot.withLockedValue { $0.failedCommits > 0 } }

    /// When the certificate of the first of the connected clients expires; seconds since 1970.
    var nearestClientExpiry: Int64? { snapshot.withLockedValue { $0.nearestClientExpiry } }

    func update(_ broker: Broker, connections: Int, fill: BufferFill, concerns: BufferConcerns) {
        snapshot.withLockedValue {
            $0.counters = broker.counters
            $0.connections = connections
            $0.limitedDevices = broker.limitedDevices
            $0.unusualDevices = broker.unusualDevices
            $0.sparkplug = broker.sparkplug.counters
            $0.sparkplugNodesOnline = broker.sparkplug.nodesOnline
            $0.sparkplugDevicesOnline = broker.sparkplug.devicesOnline
            $0.fill = fill
            $0.concerns = concerns
        }
    }
}
