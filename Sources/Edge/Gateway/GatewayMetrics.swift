import Buffer
import MQTTSession
import Operations

/// The gateway's time series. What the broker counts is copied from its counters a few times a second; nothing is looked
/// up per message.
package final class GatewayMetrics: Sendable {
    private let connections: MetricGauge
    private let closed: [CloseReason: MetricCounter]
    private let connectionsRefused: MetricCounter
    private let received: [MetricCounter]
    private let delivered: [MetricCounter]
    private let refused: [(RefusalReason, MetricCounter)]
    private let dropped: [(DropReason, MetricCounter)]
    private let committedMessages: MetricCounter
    private let commits: MetricCounter
    private let commitFailures: MetricCounter
    private let commitDuration: MetricHistogram
    private let bufferBytes: MetricGauge
    private let bufferMessages: MetricGauge
    private let bufferFull: MetricGauge

    package init(_ registry: MetricsRegistry = MetricsRegistry()) {
        connections = registry.gauge(.connections)
        closed = Dictionary(
            uniqueKeysWithValues: CloseReason.allCases.map {
                ($0, registry.counter(.connectionsClosed, [("reason", $0.rawValue)]))
            })
        connectionsRefused = registry.counter(.connectionsRefused)
        received = (0...2).map { registry.counter(.messagesReceived, [("qos", "\($0)")]) }
        delivered = (0...2).map { registry.counter(.messagesDelivered, [("qos", "\($0)")]) }
        refused = RefusalReason.allCases.map { ($0, registry.counter(.messagesRefused, [("reason", "\($0)")])) }
        dropped = DropReason.allCases.map { ($0, registry.counter(.messagesDropped, [("reason", "\($0)")])) }
        committedMessages = registry.counter(.messagesCommitted)
        commits = registry.counter(.commits)
        commitFailures = registry.counter(.commitFailures)
        commitDuration = registry.histogram(.commitDuration)
        bufferBytes = registry.gauge(.bufferBytes)
        bufferMessages = registry.gauge(.bufferMessages)
        bufferFull = registry.gauge(.bufferFull)
    }

    func closed(_ reason: CloseReason) { closed[reason]?.increment(by: Int64(1)) }

    func committed(_ receipt: CommitReceipt) {
        committedMessages.increment(by: Int64(receipt.messageCount))
        commits.increment(by: Int64(1))
        commitDuration.recordMicroseconds(receipt.duration)
    }

    func commitFailed() { commitFailures.increment(by: Int64(1)) }

    func update(counters: BrokerCounters, connections open: Int, fill: BufferFill) {
        connections.set(Double(open))
        connectionsRefused.set(total: counters.connectionsRefused)
        for qos in 0...2 {
            received[qos].set(total: counters.received[qos])
            delivered[qos].set(total: counters.delivered[qos])
        }
        for (reason, counter) in refused { counter.set(total: counters.refused[reason]) }
        for (reason, counter) in dropped { counter.set(total: counters.dropped[reason]) }
        bufferBytes.set(Double(fill.bytes))
        bufferMessages.set(Double(fill.messages))
        bufferFull.set(fill.isFull ? 1.0 : 0.0)
    }
}
