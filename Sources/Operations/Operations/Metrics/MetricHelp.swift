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
        }
    }
}
