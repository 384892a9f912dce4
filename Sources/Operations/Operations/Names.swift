/// Keys of structured log lines. A line that speaks of the same thing uses the same key everywhere.
package enum LogKey: String, Sendable, CaseIterable {
    case gateway
    case device
    case client
    case trace
    case remote
    case reason
    case error
    case certificate
    case listener
    case epoch
    case batch
    case count
    case bytes
    case seconds
    case partition
    case offset
    case path
    case signal
}

/// Names of metrics; counters end in `_total`, units are in the name (Prometheus' conventions).
package enum MetricName: String, Sendable, CaseIterable {
    case connections = "sluice_connections"
    case connectionsClosed = "sluice_connections_closed_total"
    case messagesReceived = "sluice_messages_received_total"
    case messagesRefused = "sluice_messages_refused_total"
    case logLinesDropped = "sluice_log_lines_dropped_total"
    case metricsRejected = "sluice_metrics_rejected_total"

    private static let helps: [MetricName: String] = [
        .connections: "Connections that are open now.",
        .connectionsClosed: "Connections that ended, by reason.",
        .messagesReceived: "Messages that came from devices.",
        .messagesRefused: "Messages that were refused, by reason.",
        .logLinesDropped: "Log lines that nobody read in time.",
        .metricsRejected: "Measurements that were not kept: a name of another type, or too many label values.",
    ]

    /// What it counts, for `# HELP`; its own words where nothing better is written.
    package var help: String {
        MetricName.helps[self]
            ?? rawValue.split(separator: "_").dropFirst().filter { $0 != "total" }.joined(separator: " ")
    }
}
