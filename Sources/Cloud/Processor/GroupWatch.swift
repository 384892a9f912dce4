import Metrics
import NIOConcurrencyHelpers
import Operations

/// What the consumer group does to this processor, and how far it is behind, as metrics.
struct GroupWatch {
    private let assigned = Gauge(label: MetricName.processorAssigned.rawValue)
    private let rebalances = Counter(label: MetricName.processorRebalances.rawValue)
    private let rebalanceSeconds = Recorder(label: MetricName.processorRebalanceSeconds.rawValue)
    /// Since when this processor waits for its partitions.
    private var waitsSince: ContinuousClock.Instant?
    private var lags: [Int32: PartitionLag] = [:]
    /// Written by the processor, read at each scrape; never held over a call.
    private let shown = NIOLockedValueBox<[Int32: (records: Int64, seconds: Double)]>([:])

    init(_ registry: MetricRegistry) {
        registry.gauges(.processorLag) { [shown] in
            shown.withLockedValue { $0 }.sorted { $0.key < $1.key }
                .map { ([(name: "partition", value: "\($0.key)")], Double($0.value.records)) }
        }
        registry.gauges(.processorLagSeconds) { [shown] in
            shown.withLockedValue { $0 }.sorted { $0.key < $1.key }
                .map { ([(name: "partition", value: "\($0.key)")], $0.value.seconds) }
        }
    }

    mutating func isWithoutPartitions(since now: ContinuousClock.Instant) {
        waitsSince = waitsSince ?? now
        assigned.record(0)
    }

    mutating func isGiven(_ partitions: Int, at now: ContinuousClock.Instant) {
        rebalances.increment()
        assigned.record(partitions)
        // Without any there is nothing to be claimed.
        if partitions == 0 { isServing(at: now) }
    }

    /// The partitions are claimed, and their records come.
    mutating func isServing(at now: ContinuousClock.Instant) {
        guard let since = waitsSince else { return }
        waitsSince = nil
        rebalanceSeconds.record((now - since).seconds)
    }

    /// - Parameter appendTime: of the newest record that is processed, microseconds since 1970.
    mutating func processed(_ partition: Int32, appendTime: Int64) {
        lags[partition, default: PartitionLag()].processed(appendTime: appendTime)
    }

    /// - Parameter now: microseconds since 1970.
    mutating func measure(_ partition: Int32, waiting records: Int64, now: Int64) {
        let seconds = lags[partition, default: PartitionLag()].seconds(waiting: records, now: now)
        shown.withLockedValue { $0[partition] = (records, seconds) }
    }

    /// Another processor shows this one's lag from now on.
    mutating func forget(_ partition: Int32) {
        lags[partition] = nil
        shown.withLockedValue { $0[partition] = nil }
    }
}

/// For how long the oldest unprocessed record of a partition waits. It is younger than the newest that is processed, and
/// than the last moment at which nothing waited.
struct PartitionLag: Sendable, Equatable {
    /// Microseconds since 1970, as all times here; `nil` until something was processed, or nothing waited.
    private var since: Int64?
    /// When it was first asked for, which stands in for what is not known.
    private var firstAsked: Int64?

    mutating func processed(appendTime: Int64) { since = max(since ?? appendTime, appendTime) }

    mutating func seconds(waiting records: Int64, now: Int64) -> Double {
        firstAsked = firstAsked ?? now
        guard records > 0 else {
            since = max(since ?? now, now)
            return 0
        }
        return Double(max(0, now - (since ?? firstAsked ?? now))) / 1e6
    }
}
