import DequeModule
import MQTTWire
import NIOCore
import SyncModel

/// A network connection, unique for the life of the process: a slot that is used again, and a generation that is not.
package struct ConnectionID: Hashable, Sendable {
    package let slot: UInt32
    package let generation: UInt32

    package init(slot: UInt32, generation: UInt32) {
        self.slot = slot
        self.generation = generation
    }
}

/// Everything that belongs into one commit, and what may happen only after it.
///
/// The broker appends on the event loop while the previous group is being committed; the writer takes the whole group.
package struct CommitGroup: Sendable {
    /// Messages under the promise.
    package var frames = FrameBuilder()
    /// Session, subscription, queue, retained and packet-id changes, applied in order in the same transaction.
    package private(set) var changes: [DurableChange] = []
    /// Acknowledgements and deliveries, in order, that wait for the commit.
    package var effects: [CommitEffect] = []
    /// Of messages that wait here for their commit before they are routed.
    package private(set) var routedBytes = 0
    /// Of filters, wills and answers: what clients make as long as they like.
    package private(set) var stateBytes = 0

    package init() {}

    /// What it holds of all that clients sent.
    package var byteCount: Int { frames.byteCount + routedBytes + stateBytes }

    /// Changes and effects.
    package var entryCount: Int { changes.count + effects.count }

    package var isEmpty: Bool { frames.isEmpty && changes.isEmpty && effects.isEmpty }

    mutating func append(_ change: DurableChange) {
        stateBytes += change.stateBytes
        changes.append(change)
    }

    mutating func append(_ answer: Packet, to connection: ConnectionID) {
        if case .suback(let suback) = answer { stateBytes += suback.reasons.count }
        if case .unsuback(let unsuback) = answer { stateBytes += unsuback.reasons.count }
        effects.append(.send(connection, answer))
    }

    mutating func append(_ route: RouteID, of message: RoutedMessage) {
        routedBytes += message.size
        effects.append(.route(route))
    }

    /// For the writer: everything but the frames; what is left is as new.
    package mutating func takeState() -> (changes: [DurableChange], effects: [CommitEffect]) {
        defer {
            changes = []
            effects = []
            routedBytes = 0
            stateBytes = 0
        }
        return (changes, effects)
    }
}

extension DurableChange {
    /// What it keeps in memory beside the messages, which are counted where they are routed.
    fileprivate var stateBytes: Int {
        switch self {
        case .subscriptionSaved(_, let subscription, _): subscription.filter.utf8.count
        case .subscriptionRemoved(_, let filter): filter.utf8.count
        case .willSaved(_, let will):
            will.topic.utf8.count + will.payload.readableBytes + will.applicationProperties.readableBytes
        case .refusalsCounted(let record): record.device.utf8.count
        default: 0
        }
    }
}

/// What may be done only when the group it belongs to is committed and fsynced.
package enum CommitEffect: Sendable {
    case puback(ConnectionID, packetID: UInt16)
    case pubrec(ConnectionID, packetID: UInt16)
    case pubcomp(ConnectionID, packetID: UInt16)
    /// Any other packet that states something durable (CONNACK, SUBACK, UNSUBACK, an outgoing PUBREL).
    indirect case send(ConnectionID, Packet)
    /// An outgoing QoS 2 PUBLISH whose packet id has to be durable before it is sent.
    indirect case deliver(ConnectionID, Delivery)
    /// Hand a committed message to the local subscribers: an index into the broker's pending routes.
    case route(RouteID)
}

package typealias RouteID = UInt64

/// What the driver has to do now, in order.
package enum BrokerAction: Sendable {
    /// Encode for the connection's version and write; the driver flushes once per connection and cycle.
    indirect case send(ConnectionID, Packet)
    /// PUBACK, PUBREC or PUBCOMP with success, four bytes in both versions.
    case acknowledge(ConnectionID, AcknowledgementKind, packetID: UInt16)
    /// An outgoing PUBLISH to one subscriber. `message` is shared by all of them, so the driver may keep an encoding a
    /// version and QoS.
    case deliver(ConnectionID, Delivery)
    /// Flush what was written, then close.
    case close(ConnectionID, CloseReason)
    /// Stop, or go on, reading from the socket (`overLimit: slow`, a full window).
    case pauseReading(ConnectionID)
    case resumeReading(ConnectionID)
}

package enum AcknowledgementKind: UInt8, Sendable {
    case puback = 0x40
    case pubrec = 0x50
    case pubcomp = 0x70
}

package struct Delivery: Sendable {
    package var message: RoutedMessage
    package var qos: QoS
    package var packetID: UInt16
    package var retain: Bool
    package var duplicate: Bool
    package var subscriptionIdentifiers: [UInt32]
    /// Set when it is sent: aliases belong to the connection.
    package var topic = TopicNaming.name

    package init(
        message: RoutedMessage, qos: QoS, packetID: UInt16, retain: Bool, duplicate: Bool,
        subscriptionIdentifiers: [UInt32]
    ) {
        self.message = message
        self.qos = qos
        self.packetID = packetID
        self.retain = retain
        self.duplicate = duplicate
        self.subscriptionIdentifiers = subscriptionIdentifiers
    }
}

/// A message to be routed, shared by all its receivers.
package final class RoutedMessage: Sendable {
    package let topic: ByteBuffer
    package let payload: ByteBuffer
    package let applicationProperties: ByteBuffer
    /// Microseconds of the gateway's own time; `nil` never.
    package let expiresAt: Int64?

    package init(topic: ByteBuffer, payload: ByteBuffer, applicationProperties: ByteBuffer, expiresAt: Int64?) {
        self.topic = topic
        self.payload = payload
        self.applicationProperties = applicationProperties
        self.expiresAt = expiresAt
    }
}

/// Why the server ended a connection; each is a metric label and a log value.
package enum CloseReason: String, Sendable, CaseIterable {
    case clientDisconnected
    case networkClosed
    case networkError
    case notTLS
    case handshakeTimeout
    case connectTimeout
    case keepAliveTimeout
    case malformedPacket
    case packetTooLarge
    case protocolError
    case unsupportedProtocolVersion
    case clientIdentifierInvalid
    case authenticationMethod
    case wrongRole
    case certificateExpired
    case certificateRevoked
    case certificateUnknown
    case notAuthorized
    case sessionTakenOver
    case topicInvalid
    case topicAliasInvalid
    case receiveMaximumExceeded
    case quotaExceeded
    case rateTooHigh
    case tooManyConnections
    case slowReader
    case serverBusy
    case serverShuttingDown
}

/// Where the broker writes its decisions; the driver empties `actions` after each call and keeps `group` open until the
/// writer is free.
package struct BrokerOutput: Sendable {
    package var group = CommitGroup()
    package var actions: [BrokerAction] = []
    /// Of the messages in `actions`; the driver sets it to 0 when it takes them.
    package var deliveredBytes = 0

    package init() {}
}

/// The time of an event, read once per event-loop cycle.
package struct BrokerTime: Sendable, Equatable {
    /// Microseconds on the monotonic clock.
    package var monotonic: Int64
    /// Microseconds of the gateway's own time, for expiry that must outlive a restart.
    package var gateway: Int64
    /// For the messages' stamps.
    package var clock: FrameClock

    package init(monotonic: Int64, gateway: Int64, clock: FrameClock) {
        self.monotonic = monotonic
        self.gateway = gateway
        self.clock = clock
    }
}
