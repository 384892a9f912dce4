extension MetricName {
    /// One line for `# HELP`.
    package var help: String {
        switch self {
        case .connections: "MQTT connections that are open."
        case .connectionsClosed: "MQTT connections that ended, by reason."
        case .connectionsRefused: "MQTT sessions that were refused at CONNECT."
        case .messagesReceived: "PUBLISH packets received, by QoS; repeated and refused ones included."
        case .messagesRefused: "Messages that were not admitted, by reason."
        case .messagesDelivered: "PUBLISH packets sent to subscribers, by QoS."
        case .messagesDropped: "Messages that did not reach a subscriber, by reason."
        case .messagesCommitted: "Messages committed to the buffer."
        case .commits: "Group commits of the buffer."
        case .commitFailures: "Group commits that failed."
        case .commitDuration: "Time of a group commit with its fsync."
        case .bufferBytes: "Bytes of messages in the buffer."
        case .bufferMessages: "Messages in the buffer."
        case .bufferFull: "1 while the buffer refuses messages."
        case .eventLogAppended: "Records appended to the embedded event log."
        case .eventLogCommits: "Commits of the embedded event log."
        case .eventLogBytes: "Bytes in the embedded event log."
        case .eventLogUsedBytes: "Bytes of records in the embedded event log."
        case .processorMessages: "Messages stored in the database."
        case .processorRows: "Rows stored in the database."
        case .processorDuplicates: "Messages that had been stored or dropped before."
        case .processorLedger: "Messages that ledger lines ended."
        case .processorUndecodable: "Records of the event log that could not be decoded."
        case .processorRejected: "Messages whose rows PostgreSQL refused, kept as events."
        case .processorFailures: "Attempts that failed and are repeated."
        case .processorBatchSeconds: "Time of a batch from its start to its commit."
        case .processorStopped: "Partitions that wait for an operator."
        case .processorLag: "Records of the event log that are not in the database, by partition."
        case .processorNewestAge: "Age of the newest message's time when it was stored, by gateway."
        }
    }
}
