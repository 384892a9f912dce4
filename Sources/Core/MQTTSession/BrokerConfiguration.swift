import SyncModel

/// What happens to a message over its limit.
package enum OverLimit: String, Sendable, CaseIterable {
    /// 5.0: PUBACK or PUBREC 0x97. 3.1.1: no acknowledgement, and the connection ends when it persists. QoS 0: dropped. All counted.
    case refuse
    /// Held in a bounded window, in order, until there is a token; beyond the window the socket is not read.
    case slow
}

/// How fast a device may publish.
package struct RatePolicy: Sendable, Equatable {
    /// `nil`: unlimited.
    package var messagesPerSecond: Double?
    /// Messages that may come at once.
    package var burst: Int
    /// Topic, payload and properties; `nil`: unlimited.
    package var bytesPerSecond: Int?
    package var overLimit: OverLimit

    package init(
        messagesPerSecond: Double? = 10, burst: Int = 20, bytesPerSecond: Int? = 256 * 1024,
        overLimit: OverLimit = .refuse
    ) {
        self.messagesPerSecond = messagesPerSecond
        self.burst = burst
        self.bytesPerSecond = bytesPerSecond
        self.overLimit = overLimit
    }

    package static let unlimited = RatePolicy(messagesPerSecond: nil, burst: 0, bytesPerSecond: nil)
}

/// A device belongs to the first group one of whose patterns matches its id.
package struct GroupPolicy: Sendable, Equatable {
    package var name: String
    /// Globs with `*` and `?`.
    package var devices: [String]
    package var rate: RatePolicy

    package init(name: String, devices: [String], rate: RatePolicy) {
        self.name = name
        self.devices = devices
        self.rate = rate
    }
}

/// The first rule that matches decides; without one the answer is no.
package struct AccessRule: Sendable, Equatable {
    package enum Verdict: String, Sendable, CaseIterable { case allow, deny }
    package enum Action: String, Sendable, CaseIterable { case publish, subscribe, all }

    package var verdict: Verdict
    package var action: Action
    /// A topic filter; `%d` is the device id.
    package var topic: String
    /// `nil`: every group.
    package var group: String?

    package init(verdict: Verdict, action: Action, topic: String, group: String? = nil) {
        self.verdict = verdict
        self.action = action
        self.topic = topic
        self.group = group
    }
}

/// Every limit of the broker; nothing in it grows beyond what stands here.
package struct BrokerConfiguration: Sendable, Equatable {
    /// QoS 1 and 2 messages that a 5.0 client is told it may have unacknowledged; one that has more at QoS 2 is ended.
    package var receiveMaximum: UInt16 = 32
    /// Outgoing QoS 1 and 2 messages in flight to one client; its own receive maximum may be lower.
    package var inflightMaximum: Int = 64
    /// The same in bytes, and one message more: what a client has not acknowledged must not look like a socket that is not read.
    package var inflightBytesMaximum: Int = 1024 * 1024
    /// Bytes, the fixed header included.
    package var maximumPacketSize: Int = 256 * 1024
    /// Seconds; what a 5.0 client gets that asks for more, or for none.
    package var keepAliveMaximum: UInt16 = 300
    /// Seconds.
    package var sessionExpiryMaximum: UInt32 = 7 * 86_400
    /// Inbound topic aliases a connection.
    package var topicAliasMaximum: UInt16 = 16
    package var queuedMessagesMaximum: Int = 1_000
    package var queuedBytesMaximum: Int = 1024 * 1024
    package var maximumTopicLevels: Int = 16
    package var maximumClientIDBytes: Int = 128
    /// Device handles a process; beyond, CONNECT is refused with 0x97.
    package var maximumDevices: Int = 100_000
    /// Devices whose refusals are counted one by one.
    package var refusalDevicesMaximum: Int = 10_000
    /// Sessions in all, and stored ones of one device; beyond, CONNECT is refused with 0x97.
    package var sessionsMaximum: Int = 100_000
    package var sessionsPerDeviceMaximum: Int = 16
    package var subscriptionsPerSessionMaximum: Int = 100
    /// Of all its filters; a stored session's are rows of the buffer's file.
    package var subscriptionBytesPerSessionMaximum: Int = 64 * 1024
    /// Bytes of retained messages that one SUBSCRIBE gets at QoS 0, where each counts as 256 at least; the rest is dropped
    /// and counted.
    package var retainedBytesPerSubscribe: Int = 4 * 1024 * 1024
    /// Seconds between two reports on `$SYS/broker/…`; `nil`: there are no such topics.
    package var systemTopicsInterval: Int? = 10
    package var retainedMessagesMaximum: Int = 10_000
    package var retainedBytesMaximum: Int = 16 * 1024 * 1024
    /// Messages of one connection that are held, because of their rate or because the writer has fallen behind, when its
    /// socket is paused; one more than the receive maximum, so that a client that keeps to it is not.
    package var heldMessagesMaximum: Int = 33
    /// The same in bytes, of one connection and of all.
    package var heldBytesMaximum: Int = 1024 * 1024
    package var allHeldBytesMaximum: Int = 16 * 1024 * 1024
    /// Messages in the open commit group, in bytes, beyond which others wait for the writer.
    package var openGroupBytesMaximum: Int = 8 * 1024 * 1024
    /// Session changes and effects in it likewise, in entries.
    package var openGroupEntriesMaximum: Int = 200_000
    /// What happens to a message that has to be stored while the storage is full.
    package var whenFull: OverLimit = .refuse

    /// Topic filters; empty: nothing is synced.
    package var uplinkFilters: [String] = []
    /// The first filter that matches gives a synced message its priority; without one it is standard.
    package var priorities: [PriorityRule] = []
    /// The first filter that matches a synced topic says what is done with its messages at the edge; at most 256.
    package var localRules: [LocalRuleFilter] = []
    package var groups: [GroupPolicy] = []
    package var defaultRate = RatePolicy()
    package var globalMessagesPerSecond: Double? = 120_000
    package var access: [AccessRule] = []
    /// Whether clients are told in words why something was refused, and that it was the access rules.
    package var disclosesReasons = true

    package init() {}
}

package struct LocalRuleFilter: Sendable, Equatable {
    package var filter: String
    /// Messages end as ledger lines; else those that can be aggregated are held.
    package var discards: Bool

    package init(filter: String, discards: Bool) {
        self.filter = filter
        self.discards = discards
    }
}

package struct PriorityRule: Sendable, Equatable {
    package var filter: String
    package var priority: MessagePriority

    package init(filter: String, priority: MessagePriority) {
        self.filter = filter
        self.priority = priority
    }
}

/// Who is at the other end, as the driver has found out.
package struct ClientIdentity: Sendable, Equatable {
    /// From the certificate; `nil` on a plaintext listener, where the client id stands for it.
    package var deviceID: String?
    /// On a plaintext listener of this machine: the group is "local".
    package var isLocal: Bool

    package init(deviceID: String?, isLocal: Bool) {
        self.deviceID = deviceID
        self.isLocal = isLocal
    }
}

package enum StorageState: Sendable, Equatable {
    case open
    /// What would have to be stored is handled by `BrokerConfiguration.whenFull`.
    case full
}
