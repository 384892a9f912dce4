import MQTTSession
import Operations
import SyncModel

extension BrokerConfiguration {
    /// The daemon's configuration in the broker's terms; what has no key keeps the broker's default.
    init(_ edge: EdgeConfiguration) {
        self.init()
        receiveMaximum = UInt16(clamping: edge.mqtt.receiveMaximum)
        heldMessagesMaximum = edge.mqtt.receiveMaximum + 1
        maximumPacketSize = edge.mqtt.maximumPacketSize
        keepAliveMaximum = UInt16(clamping: edge.mqtt.keepAliveMaximum)
        sessionExpiryMaximum = UInt32(clamping: edge.mqtt.sessionExpiryMaximum)
        topicAliasMaximum = UInt16(clamping: edge.mqtt.topicAliasMaximum)
        queuedMessagesMaximum = edge.mqtt.queuedMessagesMaximum
        queuedBytesMaximum = edge.mqtt.queuedBytesMaximum
        // Below what may wait for a slow reader, so that nobody looks like one who takes what is sent.
        inflightBytesMaximum = edge.mqtt.slowReaderBytes / 8
        retainedBytesPerSubscribe = edge.mqtt.slowReaderBytes / 2
        disclosesReasons = edge.mqtt.discloseReasons
        systemTopicsInterval = edge.mqtt.systemTopicsInterval == 0 ? nil : edge.mqtt.systemTopicsInterval
        whenFull = edge.buffer.whenFull == .slow ? .slow : .refuse
        uplinkFilters = edge.uplink?.topics ?? []
        priorities = edge.buffer.priorities.map {
            PriorityRule(filter: $0.topic, priority: MessagePriority(UInt8(clamping: $0.priority)))
        }
        localRules = edge.enabledRules.map {
            LocalRuleFilter(filter: $0.filter, discards: $0.action == .discard)
        }
        groups = edge.groups.map { GroupPolicy(name: $0.name, devices: $0.devices, rate: RatePolicy($0.limits)) }
        defaultRate = RatePolicy(edge.deviceLimits)
        globalMessagesPerSecond = edge.global.messagesPerSecond
        access = edge.access.map(AccessRule.init)
    }
}

extension RatePolicy {
    init(_ limit: EdgeConfiguration.RateLimit) {
        self.init(
            messagesPerSecond: limit.messagesPerSecond, burst: limit.burst, bytesPerSecond: limit.bytesPerSecond,
            overLimit: limit.overLimit == .slow ? .slow : .refuse)
    }
}

extension AccessRule {
    init(_ rule: EdgeConfiguration.AccessRule) {
        let action: Action =
            switch rule.action {
            case .publish: .publish
            case .subscribe: .subscribe
            case .all: .all
            }
        self.init(
            verdict: rule.verdict == .allow ? .allow : .deny, action: action, topic: rule.topic, group: rule.group)
    }
}
