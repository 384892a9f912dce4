import MQTTWire
import NIOCore
import SyncModel

/// A session is keyed by device id and client id together, so that no device can take over another's session.
package struct SessionKey: Hashable, Sendable {
    package var deviceID: String
    package var clientID: String

    package init(deviceID: String, clientID: String) {
        self.deviceID = deviceID
        self.clientID = clientID
    }

    /// By bytes: `String` holds canonically equivalent text for equal, and a client id is no text to be normalised.
    package static func == (a: SessionKey, b: SessionKey) -> Bool {
        a.deviceID.utf8.elementsEqual(b.deviceID.utf8) && a.clientID.utf8.elementsEqual(b.clientID.utf8)
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combineBytes(of: deviceID)
        hasher.combineBytes(of: clientID)
    }
}

/// A number that the broker gives a session: used once in the life of a process, and by one session while it is stored.
package typealias SessionID = Int64

/// A session that outlives its connection, as it is stored.
package struct SessionRecord: Sendable, Equatable {
    package var id: SessionID
    package var key: SessionKey
    package var version: ProtocolVersion
    /// Seconds; 0xFFFF_FFFF never.
    package var expiryInterval: UInt32
    /// No certificate has proved the device id: it is a client id of a plaintext listener.
    package var isLocal: Bool

    package init(
        id: SessionID, key: SessionKey, version: ProtocolVersion, expiryInterval: UInt32, isLocal: Bool = false
    ) {
        self.isLocal = isLocal
        self.id = id
        self.key = key
        self.version = version
        self.expiryInterval = expiryInterval
    }
}

/// A message on its way to a durable session (QoS 1 or 2), or retained.
package struct StoredPublish: Sendable, Equatable {
    package var topic: ByteBuffer
    package var payload: ByteBuffer
    package var applicationProperties: ByteBuffer
    package var qos: QoS
    package var retain: Bool
    /// Microseconds of the gateway's own time at which it expires; `nil` never.
    package var expiresAt: Int64?
    package var subscriptionIdentifiers: [UInt32]

    package init(
        topic: ByteBuffer, payload: ByteBuffer, applicationProperties: ByteBuffer = ByteBuffer(), qos: QoS,
        retain: Bool = false, expiresAt: Int64? = nil, subscriptionIdentifiers: [UInt32] = []
    ) {
        self.topic = topic
        self.payload = payload
        self.applicationProperties = applicationProperties
        self.qos = qos
        self.retain = retain
        self.expiresAt = expiresAt
        self.subscriptionIdentifiers = subscriptionIdentifiers
    }
}

/// How far an outgoing QoS 1 or 2 message has come.
package enum OutgoingStage: UInt8, Sendable {
    /// No packet id yet.
    case queued = 0
    /// Has a packet id and may have been sent.
    case sent = 1
    /// QoS 2: PUBREC has come, PUBREL is owed.
    case released = 2
}

/// One change of durable session state. Changes are applied in order, in the transaction of the messages of their group.
package enum DurableChange: Sendable, Equatable {
    /// Insert or replace by id.
    case sessionSaved(SessionRecord)
    /// With its subscriptions, its queue, its packet ids and its will.
    case sessionRemoved(SessionID)
    /// The connection ended; microseconds of the gateway's own time. Expiry counts from here. `nil`: connected again.
    case sessionDisconnected(SessionID, at: Int64?)
    /// Insert or replace by (session, filter).
    case subscriptionSaved(SessionID, Subscription, identifier: UInt32?)
    case subscriptionRemoved(SessionID, filter: String)
    /// `order` ascends per session. `packetID` 0: none yet.
    case queued(SessionID, order: Int64, StoredPublish, packetID: UInt16)
    case stageChanged(SessionID, order: Int64, OutgoingStage, packetID: UInt16)
    case dequeued(SessionID, order: Int64)
    /// A QoS 2 PUBLISH was received; until PUBREL a repeat of the id is no new message.
    case packetIDReceived(SessionID, UInt16)
    case packetIDReleased(SessionID, UInt16)
    /// Insert or replace by session: it is owed when the connection ends, also when that is by a power cut.
    case willSaved(SessionID, Will)
    case willRemoved(SessionID)
    case retained(StoredPublish)
    case retainedRemoved(topic: ByteBuffer)
    /// Insert or replace by device.
    case refusalsCounted(RefusalRecord)
    case refusalsForgotten(device: String)
}

package struct QueuedRecord: Sendable, Equatable {
    package var order: Int64
    package var message: StoredPublish
    package var stage: OutgoingStage
    package var packetID: UInt16

    package init(order: Int64, message: StoredPublish, stage: OutgoingStage, packetID: UInt16) {
        self.order = order
        self.message = message
        self.stage = stage
        self.packetID = packetID
    }
}

package struct RestoredSubscription: Sendable, Equatable {
    package var subscription: Subscription
    package var identifier: UInt32?

    package init(subscription: Subscription, identifier: UInt32?) {
        self.subscription = subscription
        self.identifier = identifier
    }
}

/// A session as found in the buffer at start.
package struct RestoredSession: Sendable, Equatable {
    package var record: SessionRecord
    /// Microseconds of the gateway's own time; `nil` when the daemon ended while it was connected.
    package var disconnectedAt: Int64?
    package var subscriptions: [RestoredSubscription] = []
    /// Ascending by order.
    package var queue: [QueuedRecord] = []
    package var receivedPacketIDs: [UInt16] = []
    /// Not published yet.
    package var will: Will?

    package init(record: SessionRecord, disconnectedAt: Int64? = nil) {
        self.record = record
        self.disconnectedAt = disconnectedAt
    }
}

/// All durable session state, as the buffer gives it to the broker at start.
package struct RestoredState: Sendable, Equatable {
    package var sessions: [RestoredSession] = []
    package var retained: [StoredPublish] = []
    package var refusals: [RefusalRecord] = []

    package init(
        sessions: [RestoredSession] = [], retained: [StoredPublish] = [], refusals: [RefusalRecord] = []
    ) {
        self.sessions = sessions
        self.retained = retained
        self.refusals = refusals
    }
}
