import DequeModule
import MQTTWire
import NIOCore
import SyncModel

/// One slot of the connection table. A slot is used again under another generation.
struct Connection: Sendable {
    enum Phase: Sendable {
        /// No connection in this slot. Can transition to `connecting` and `open`.
        case vacant
        /// CONNACK waits for its commit; nothing else may be sent before it. Can transition to `open` and `vacant`.
        case connecting
        /// Can transition to `vacant`.
        case open
    }

    var generation: UInt32 = 0
    var phase = Phase.vacant
    var version = ProtocolVersion.v311
    var session = 0
    var device: DeviceHandle = 0
    var deviceID = ""
    var access: AccessView
    /// Microseconds without a packet after which the connection ends: one and a half times the keep-alive; 0: never.
    var keepAlive: Int64 = 0
    /// Microseconds on the monotonic clock.
    var lastReceived: Int64 = 0
    var connectedAt: Int64 = 0
    var will: StoredWill?
    /// How many QoS 1 and 2 messages may be in flight to the client.
    var window = 0
    /// Bytes of a packet to the client.
    var maximumPacketSize = Int.max
    var isWritable = true
    /// Effects of this connection that wait for a commit.
    var pendingEffects = 0
    /// QoS 2 messages that were taken and whose PUBREC waits for the commit.
    var unanswered = 0
    /// It has broken a rule, and DISCONNECT waits behind its acknowledgements: nothing more is taken from it.
    var isLeaving = false
    /// QoS 2 exchanges of this connection between PUBREC and PUBREL; never too many, but perhaps too few where the client
    /// repeats itself or ends exchanges of an earlier connection.
    var unreleased = 0
    /// The client's topics by alias - 1.
    var aliases: [ByteBuffer?] = []
    var outgoingAliases = OutgoingAliases(maximum: 0)
    /// 5.0: reason strings may go into any packet (MQTT-3.1.2-29).
    var wantsProblemInformation = true
    var topics: [TopicEntry] = []
    var nextTopic = 0
    /// Messages that are not taken yet.
    var held: Deque<Publish> = []
    var heldBytes = 0
    /// Microseconds on the monotonic clock; `nil`: unknown, tried at every tick.
    var heldUntil: Int64?
    /// The first of them waits for the writer.
    var waitsForRoom = false
    /// It stands in the broker's list of those who wait for room, where each stands once.
    var isListedForRoom = false
    var isPaused = false
    /// What packets other than PUBLISH have put into the open group since it is at its bound.
    var entriesBeyondBound = 0
    /// The same in bytes.
    var bytesBeyondBound = 0
    /// 3.1.1: messages that were neither taken nor acknowledged, and when the first of them came.
    var ignored = 0
    var ignoredSince: Int64 = 0
    var ignoredReason = CloseReason.rateTooHigh

    static let vacant = Connection(access: AccessView([], group: nil, deviceID: ""))

    init(access: AccessView) { self.access = access }
}

/// What is known of a topic that a connection has published to lately, so that the hot path compares bytes only.
struct TopicEntry: Sendable {
    static let cachedPerConnection = 8

    var topic: ByteBuffer
    var isValid: Bool
    var isAllowed: Bool
    /// `nil`: not synced.
    var uplink: UplinkClass?
    /// Of the subscription tree at the time of `matches`.
    var version: UInt64
    var matches: Matches
}

/// What the buffer does with the messages of a synced topic.
struct UplinkClass: Sendable, Equatable {
    var priority: MessagePriority
    /// Of `Broker.localRules`; `nil`: none.
    var rule: UInt8?
}

/// A message whose commit is awaited before its subscribers get it.
struct PendingRoute: Sendable {
    struct Target: Sendable {
        var session: Int
        var sessionID: SessionID
        var qos: QoS
        var retain: Bool
        var identifiers: [UInt32]
        /// Both 0 at QoS 0.
        var order: Int64
        var packetID: UInt16
    }

    var message: RoutedMessage
    var targets: [Target]
    /// Whose `pendingRoutes` counts it.
    var device: DeviceHandle?
    /// A change of the retained messages becomes durable with it.
    var changesRetained: Bool
}
