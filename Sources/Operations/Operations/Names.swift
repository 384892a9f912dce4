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
    case eventLogAppended = "sluice_event_log_appended_total"
    case eventLogCommits = "sluice_event_log_commits_total"
    case eventLogBytes = "sluice_event_log_bytes"
    case eventLogUsedBytes = "sluice_event_log_used_bytes"
}
