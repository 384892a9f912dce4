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
    /// Messages that are known to be lost.
    case missing
    case signal
    case day
    case object
    /// A processor's name in its group.
    case member
}

/// Names of metrics; counters end in `_total`, units are in the name (Prometheus' conventions).
package enum MetricName: String, Sendable, CaseIterable {
    // Edge
    case connections = "sluice_connections"
    case connectionsClosed = "sluice_connections_closed_total"
    case connectionsRefused = "sluice_connections_refused_total"
    case certificateExpiry = "sluice_certificate_expiry_days"
    case revocationListDue = "sluice_revocation_list_next_update_days"
    case certificateReloadFailures = "sluice_certificate_reload_failures_total"
    case eventLoopLag = "sluice_event_loop_lag_seconds"
    case overloaded = "sluice_overloaded"
    case messagesReceived = "sluice_messages_received_total"
    case messagesRefused = "sluice_messages_refused_total"
    case devicesLimited = "sluice_devices_limited"
    case devicesUnusual = "sluice_devices_unusual_rate"
    case sparkplugNodesOnline = "sluice_sparkplug_nodes_online"
    case sparkplugDevicesOnline = "sluice_sparkplug_devices_online"
    case sparkplugLost = "sluice_sparkplug_lost_messages_total"
    case sparkplugStaleDeaths = "sluice_sparkplug_stale_deaths_total"
    case sparkplugUnknownAliases = "sluice_sparkplug_unknown_aliases_total"
    case sparkplugMalformed = "sluice_sparkplug_malformed_messages_total"
    case sparkplugUnfollowed = "sluice_sparkplug_unfollowed_messages_total"
    case messagesDelivered = "sluice_messages_delivered_total"
    case messagesDropped = "sluice_messages_dropped_total"
    case messagesCommitted = "sluice_messages_committed_total"
    case commits = "sluice_commits_total"
    case commitFailures = "sluice_commit_failures_total"
    case commitDuration = "sluice_commit_duration_seconds"
    case bufferBytes = "sluice_buffer_bytes"
    case bufferMessages = "sluice_buffer_messages"
    case bufferFull = "sluice_buffer_full"
    case bufferDropped = "sluice_buffer_dropped_messages_total"
    case bufferDeadLetters = "sluice_buffer_dead_letters"
    case localHeld = "sluice_local_held_messages"
    case localConsumed = "sluice_local_consumed_messages_total"
    case localAggregates = "sluice_local_aggregates_total"
    case localUnsent = "sluice_local_unsent_aggregates_total"
    case localReleased = "sluice_local_released_messages_total"
    case localUnreadable = "sluice_local_unreadable_messages_total"
    case uplinkBatches = "sluice_uplink_batches_total"
    case uplinkMessages = "sluice_uplink_messages_total"
    case uplinkBytes = "sluice_uplink_sent_bytes_total"
    case uplinkFailures = "sluice_uplink_failures_total"
    case uplinkRefused = "sluice_uplink_refused"
    case uplinkDrain = "sluice_uplink_drain_seconds"
    case uplinkBreakerOpen = "sluice_uplink_breaker_open"
    case uplinkDeadLetters = "sluice_uplink_dead_letters_total"
    case uplinkHourBytes = "sluice_uplink_hour_bytes"
    case uplinkLastSuccess = "sluice_uplink_last_success_timestamp_seconds"
    case uplinkBacklogMessages = "sluice_uplink_backlog_messages"
    case uplinkBacklogBytes = "sluice_uplink_backlog_bytes"
    // Both
    case logLinesDropped = "sluice_log_lines_dropped_total"
    case metricsRejected = "sluice_metrics_rejected_total"
    // Cloud
    case ingestBatches = "sluice_ingest_batches_total"
    case ingestMessages = "sluice_ingest_messages_total"
    case ingestBytes = "sluice_ingest_bytes_total"
    case ingestRefused = "sluice_ingest_refused_total"
    case ingestDuration = "sluice_ingest_duration_seconds"
    case eventLogAppended = "sluice_event_log_appended_total"
    case eventLogCommits = "sluice_event_log_commits_total"
    case eventLogBytes = "sluice_event_log_bytes"
    case eventLogUsedBytes = "sluice_event_log_used_bytes"
    case ingestInFlightBytes = "sluice_ingest_in_flight_bytes"
    case processorMessages = "sluice_processor_messages_total"
    case processorRows = "sluice_processor_rows_total"
    case processorDuplicates = "sluice_processor_duplicates_removed_total"
    case processorLedger = "sluice_processor_ledger_messages_total"
    case processorUndecodable = "sluice_processor_undecodable_records_total"
    case processorRejected = "sluice_processor_rejected_messages_total"
    case processorSparkplugForgotten = "sluice_processor_sparkplug_forgotten_total"
    case processorSparkplugLate = "sluice_processor_sparkplug_late_births_total"
    case processorSparkplugUnresolved = "sluice_processor_sparkplug_unresolved_messages_total"
    case processorFailures = "sluice_processor_failed_attempts_total"
    case processorBatchSeconds = "sluice_processor_batch_seconds"
    case processorStopped = "sluice_processor_stopped_partitions"
    case processorLag = "sluice_processor_lag_records"
    case processorLagSeconds = "sluice_processor_lag_seconds"
    case processorAssigned = "sluice_processor_assigned_partitions"
    case processorRebalances = "sluice_processor_rebalances_total"
    case processorRebalanceSeconds = "sluice_processor_rebalance_seconds"
    case eventLogProducersRemade = "sluice_event_log_producers_remade_total"
    case processorNewestAge = "sluice_processor_newest_row_age_seconds"
    case processorBreakerOpen = "sluice_processor_breaker_open"
    case processorBreakerTransitions = "sluice_processor_breaker_transitions_total"
    case deadLetterObjects = "sluice_dead_letter_objects_total"
    case deadLetterFailures = "sluice_dead_letter_failures_total"
    case deadLettersWaiting = "sluice_dead_letters_waiting"
    case sampleRangesWaiting = "sluice_sample_ranges_waiting"
    case sampleRangesAge = "sluice_sample_ranges_age_seconds"
    case objectRequests = "sluice_object_store_requests_total"
    case archiveRows = "sluice_archive_rows_total"
    case archiveBytes = "sluice_archive_bytes_total"
    case archiveDue = "sluice_archive_due_days"
    case archiveFailures = "sluice_archive_failures_total"
    case archiveLastSuccess = "sluice_archive_last_success_timestamp_seconds"
    // Life of the cloud's data
    case rollupEnd = "sluice_rollup_end_timestamp_seconds"
    case rollupHours = "sluice_rollup_hours_total"
    case rollupWaiting = "sluice_rollup_waiting_hours"
    case rollupHourSeconds = "sluice_rollup_hour_seconds"
    case lifecycleDropped = "sluice_lifecycle_dropped_days_total"
    case lifecycleOverdue = "sluice_lifecycle_overdue_days"
    case lifecycleFailures = "sluice_lifecycle_failures_total"
    case lifecycleClockAhead = "sluice_lifecycle_clock_ahead_seconds"
    case lifecycleLastPass = "sluice_lifecycle_last_pass_timestamp_seconds"
    case featureFlag = "sluice_feature_flag"
    // Cloud: service levels and limits
    case requestDuration = "sluice_request_duration_seconds"
    case ingestLimited = "sluice_ingest_limited_total"
    case ingestUnusual = "sluice_ingest_devices_unusual_rate"
    case processorEndToEnd = "sluice_processor_end_to_end_seconds"
    case healthResponse = "sluice_health_response_seconds"
    case healthCheckTime = "sluice_health_check_seconds"
    case healthCheckFailed = "sluice_health_check_failed"
    case shutdownTime = "sluice_shutdown_seconds"
}
