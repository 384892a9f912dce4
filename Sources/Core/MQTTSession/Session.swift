import DequeModule
import MQTTWire
import NIOCore
import SyncModel

struct SubscriptionState: Sendable {
    var subscription: Subscription
    var identifier: UInt32?
    let filter: SubscriptionFilter
}

/// A will, from CONNECT to the moment when it is published or dropped. That of a stored session is stored with it.
struct StoredWill: Sendable {
    let will: Will

    /// What is kept does not keep the buffer that it was read in.
    init(_ will: Will) {
        var will = will
        will.payload = will.payload.compacted
        will.applicationProperties = will.applicationProperties.compacted
        self.will = will
    }

    /// Microseconds.
    var delay: Int64 { Int64(will.delayInterval) * 1_000_000 }

    /// As a message of the client.
    var publish: Publish {
        Publish(
            topic: ByteBuffer(string: will.topic), payload: will.payload, qos: will.qos, retain: will.retain,
            messageExpiry: will.messageExpiry, applicationProperties: will.applicationProperties)
    }
}

struct Session: Sendable {
    var id: SessionID
    var key: SessionKey
    var version: ProtocolVersion
    /// Seconds.
    var expiryInterval: UInt32
    var device: DeviceHandle
    /// There are rows of it in the buffer; it outlives its connection.
    var isStored: Bool
    /// As its record says.
    var isLocal: Bool
    var connection: ConnectionID?
    /// Microseconds on the monotonic clock; `nil` while connected, or never.
    var expiresAt: Int64?
    var subscriptions: [BytewiseString: SubscriptionState] = [:]
    /// Of their filters.
    var subscriptionBytes = 0
    /// QoS 2 PUBLISH received, PUBREL not yet.
    var received = PacketIDSet()
    var outgoing = OutgoingQueue()
    var delayedWill: StoredWill?
    /// Microseconds on the monotonic clock.
    var willDueAt: Int64 = .max

    var record: SessionRecord {
        SessionRecord(id: id, key: key, version: version, expiryInterval: expiryInterval, isLocal: isLocal)
    }
}

/// A QoS 1 or 2 message on its way to a subscriber.
struct OutgoingEntry: Sendable {
    let order: Int64
    let message: RoutedMessage
    let qos: QoS
    let retain: Bool
    let identifiers: [UInt32]
    var stage: OutgoingStage = .queued
    /// 0: none yet.
    var packetID: UInt16
    /// It may have reached the subscriber before: DUP.
    var wasSent = false
    /// It may have been sent before a crash; not certain enough to keep it beyond its expiry.
    var mayBeRepeat = false

    var unansweredBytes: Int { stage == .released ? 0 : message.size }
}

/// The QoS 1 and 2 messages of one session, in order. `count` and `bytes` include those whose commit is still awaited.
struct OutgoingQueue: Sendable {
    /// They have a packet id. The first `sent` of them were sent on this connection and are not acknowledged.
    private(set) var inflight: [OutgoingEntry] = []
    private(set) var sent = 0
    /// Of those; a QoS 2 message counts until its PUBREC.
    private(set) var sentBytes = 0
    /// They have no packet id.
    private(set) var waiting: Deque<OutgoingEntry> = []
    private(set) var count = 0
    private(set) var bytes = 0
    /// Places given at arrival to messages whose commit is awaited, with and without a packet id.
    private var reservedInflight = 0
    private var reservedWaiting = 0
    private var nextOrder: Int64 = 1
    private var nextPacketID: UInt16 = 0
    private var usedIDs = PacketIDSet()

    /// A place in the queue for a message that goes into the open commit group.
    ///
    /// - Parameter window: how many may be in flight; 0 when the subscriber is away. Where there is room, the message gets
    ///   its packet id at once, so that the id is committed with it and no second commit stands before the first send.
    mutating func reserve(_ message: RoutedMessage, window: Int) -> (order: Int64, packetID: UInt16) {
        let order = nextOrder
        nextOrder += 1
        count += 1
        bytes += message.size
        let isOpen = waiting.isEmpty && reservedWaiting == 0 && inflight.count + reservedInflight < window
        if isOpen {
            reservedInflight += 1
            return (order, newPacketID())
        }
        reservedWaiting += 1
        return (order, 0)
    }

    /// The message's commit is done.
    mutating func admit(_ entry: OutgoingEntry) {
        if entry.packetID != 0 {
            reservedInflight -= 1
            var entry = entry
            entry.stage = .sent
            inflight.append(entry)
        } else {
            reservedWaiting -= 1
            waiting.append(entry)
        }
    }

    /// - Parameter mayBeSent: the session was connected when the daemon ended, so that a QoS 1 message may have left before
    ///   its packet id was durable: whatever was not acknowledged may be a repeat (MQTT-3.3.1-1).
    mutating func restore(_ record: QueuedRecord, mayBeSent: Bool) {
        let message = RoutedMessage(
            topic: record.message.topic, payload: record.message.payload,
            applicationProperties: record.message.applicationProperties, expiresAt: record.message.expiresAt)
        var entry = OutgoingEntry(
            order: record.order, message: message, qos: record.message.qos, retain: record.message.retain,
            identifiers: record.message.subscriptionIdentifiers, packetID: record.packetID)
        nextOrder = max(nextOrder, record.order + 1)
        count += 1
        bytes += message.size
        guard record.packetID != 0 else {
            entry.mayBeRepeat = mayBeSent && record.message.qos == .atLeastOnce
            waiting.append(entry)
            return
        }
        entry.stage = record.stage == .released ? .released : .sent
        entry.wasSent = true
        usedIDs.insert(record.packetID)
        nextPacketID = max(nextPacketID, record.packetID)
        inflight.append(entry)
    }

    /// A new connection: everything in flight is sent again, in order (MQTT-4.4.0-1).
    mutating func rewind() {
        sent = 0
        sentBytes = 0
    }

    /// The next entry in flight that was not sent on this connection.
    var unsent: OutgoingEntry? { sent < inflight.count ? inflight[sent] : nil }

    mutating func markSent() {
        inflight[sent].wasSent = true
        sentBytes += inflight[sent].unansweredBytes
        sent += 1
    }

    /// Takes the first waiting entry and gives it a packet id; it is the next unsent one.
    mutating func promote() -> OutgoingEntry? {
        guard var entry = waiting.popFirst() else { return nil }
        entry.packetID = newPacketID()
        entry.stage = .sent
        inflight.append(entry)
        return entry
    }

    func inflightIndex(of packetID: UInt16) -> Int? { inflight.firstIndex { $0.packetID == packetID } }

    mutating func release(at index: Int) {
        if index < sent { sentBytes -= inflight[index].unansweredBytes }
        inflight[index].stage = .released
    }

    @discardableResult
    mutating func removeInflight(at index: Int) -> OutgoingEntry {
        let entry = inflight.remove(at: index)
        if index < sent {
            sent -= 1
            sentBytes -= entry.unansweredBytes
        }
        usedIDs.remove(entry.packetID)
        settle(entry)
        return entry
    }

    mutating func removeFirstWaiting() {
        if let entry = waiting.popFirst() { settle(entry) }
    }

    private mutating func settle(_ entry: OutgoingEntry) {
        count -= 1
        bytes -= entry.message.size
    }

    /// There is always a free one: `usedIDs` holds no more than the window.
    private mutating func newPacketID() -> UInt16 {
        repeat {
            nextPacketID = nextPacketID == .max ? 1 : nextPacketID + 1
        } while !usedIDs.insert(nextPacketID)
        return nextPacketID
    }
}
