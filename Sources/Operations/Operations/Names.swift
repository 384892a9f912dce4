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
    case attempt
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
    case uplinkBatches = "sluice_uplink_batches_total"
    case uplinkMessages = "sluice_uplink_messages_total"
    case uplinkBytes = "sluice_uplink_sent_bytes_total"
    case uplinkFailures = "sluice_uplink_failures_total"
    case uplinkRefused = "sluice_uplink_refused"
    case uplinkLastSuccess = "sluice_uplink_last_success_timestamp_seconds"
    case uplinkBacklogMessages = "sluice_uplink_backlog_messages"
    case uplinkBacklogBytes = "sluice_uplink_backlog_bytes"
}
