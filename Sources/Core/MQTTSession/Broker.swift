import DequeModule
import Flow
import MQTTWire
import NIOCore
import Sparkplug
import SyncModel

/// The whole server side of MQTT 3.1.1 and 5.0 as a value: packets and time go in, actions and commits come out.
///
/// It is driven from one event loop. What has to be durable goes into `BrokerOutput.group`; when the driver has committed
/// that group it hands its effects back through `committed`, in the order of the groups. A group either commits or the
/// process ends: there is no way back from what was put in.
///
/// A connection that the broker has closed, or whose driver reported it closed, is forgotten at once; whatever still names
/// it is ignored.
package struct Broker: Sendable {
    package internal(set) var configuration: BrokerConfiguration
    package internal(set) var counters = BrokerCounters()
    /// What Sparkplug's nodes say of themselves, in messages that were taken and in wills.
    package internal(set) var sparkplug = SparkplugMonitor()
    /// Set by the driver.
    package var storage = StorageState.open

    var slots: [Connection] = []
    var connectionCount = 0
    /// Set by the driver: its event loop is late, and whoever wants to connect is refused.
    package var isOverloaded = false
    /// Connections with held messages, each in one of the two; some may be stale.
    var holding: [ConnectionID] = []
    var waitingForRoom: Deque<ConnectionID> = []
    /// Of all held messages, with what each costs beside its bytes.
    package internal(set) var heldBytes = 0

    var devices: [DeviceState] = []
    var deviceHandles: [BytewiseString: DeviceHandle] = [:]
    /// Of devices that were forgotten; a frame that is open may still name them by their handles.
    var forgottenDevices: [DeviceHandle] = []
    /// Of forgotten devices that no frame names.
    var freeDevices: [DeviceHandle] = []
    /// Microseconds on the monotonic clock: no search for devices to forget before.
    var nextDeviceSearch: Int64 = .min
    var globalBucket: RateBucket

    var sessionTable: [Session?] = []
    var freeSessions: [Int] = []
    var sessionIndex: [SessionKey: Int] = [:]
    var nextSessionID: SessionID
    var delayedWills = 0
    /// No delayed will is due before; microseconds on the monotonic clock.
    var nextWill: Int64 = .max
    var nextSessionSweep: Int64 = .min
    var nextRetainedSweep: Int64 = .min
    /// Stored sessions that were connected when the daemon ended; the first tick states when they were lost.
    var lostAtRestart: [Int] = []
    /// Subscriptions are checked against new access rules at the next tick.
    var mustReviewAccess = false

    var tree = SubscriptionTree()
    var retained = RetainedStore()
    /// The server's own topics.
    var system = RetainedStore()
    let startedAt: Int64
    var tallies: RefusalTallies
    /// Microseconds on the monotonic clock.
    var nextTally: Int64
    /// The same.
    var lastSample: Int64
    /// Of all devices together.
    package internal(set) var meter = RateMeter()
    var offeredBytes: UInt64 = 0
    /// Devices that were over their limits within a minute of the last sample, and such as send far more than usual.
    package internal(set) var limitedDevices = 0
    package internal(set) var unusualDevices = 0
    var nextSystemReport: Int64 = .min
    /// Changes of retained messages whose commit is awaited.
    var uncommittedRetained = 0
    var uplinkFilters: [FilterPattern] = []
    var priorities: [(filter: FilterPattern, priority: MessagePriority)] = []
    /// In their places in the configuration, by which drafts name them.
    var localRules: [(filter: FilterPattern?, discards: Bool)] = []

    var routes: Deque<PendingRoute> = []
    var firstRoute: RouteID = 1

    package init(configuration: BrokerConfiguration, restoring state: RestoredState, now: BrokerTime) {
        self.configuration = configuration
        startedAt = now.monotonic
        tallies = RefusalTallies(
            maximumDevices: configuration.refusalDevicesMaximum, restoring: state.refusals)
        nextTally = now.monotonic + Self.tallyInterval
        lastSample = now.monotonic
        globalBucket = RateBucket(
            rate: configuration.globalMessagesPerSecond, capacity: configuration.globalMessagesPerSecond ?? 1,
            now: now.monotonic)
        // Wall time, so that the ids of removed sessions do not come back after a restart.
        nextSessionID = max((state.sessions.map(\.record.id).max() ?? 0) + 1, now.clock.wallTime)
        compileFilters()
        for session in state.sessions { restore(session, now: now) }
        // The rules may have changed since: what they do not allow any more is in no tree, and the first tick removes it.
        mustReviewAccess = !state.sessions.isEmpty
        for message in state.retained {
            let routed = RoutedMessage(
                topic: message.topic, payload: message.payload, applicationProperties: message.applicationProperties,
                expiresAt: message.expiresAt)
            retained.set(routed, qos: message.qos)
        }
    }

    /// A packet from the client. PUBLISH may come through here or straight through `publish`.
    package mutating func receive(
        _ packet: Packet, on connection: ConnectionID, now: BrokerTime, into output: inout BrokerOutput
    ) {
        guard let slot = slot(of: connection), !slots[slot].isLeaving else { return }
        slots[slot].lastReceived = now.monotonic
        let (entries, bytes) = (output.group.entryCount, output.group.byteCount)
        defer {
            boundWhatIsNotHeld(
                connection, entries: output.group.entryCount - entries, bytes: output.group.byteCount - bytes,
                into: &output)
        }
        switch packet {
        case .publish(let publish): self.publish(publish, on: connection, now: now, into: &output)
        case .puback(let ack): receivedAck(ack, of: .atLeastOnce, slot: slot, now: now, into: &output)
        case .pubrec(let ack): receivedRec(ack, slot: slot, now: now, into: &output)
        case .pubrel(let ack): receivedRel(ack, slot: slot, into: &output)
        case .pubcomp(let ack): receivedAck(ack, of: .exactlyOnce, slot: slot, now: now, into: &output)
        case .subscribe(let subscribe): self.subscribe(subscribe, slot: slot, now: now, into: &output)
        case .unsubscribe(let unsubscribe): self.unsubscribe(unsubscribe, slot: slot, into: &output)
        case .pingreq: send(.pingresp, slot: slot, into: &output)
        case .disconnect(let disconnect): receivedDisconnect(disconnect, slot: slot, now: now, into: &output)
        case .connect, .connack, .suback, .unsuback, .pingresp, .auth:
            // A second CONNECT (MQTT-3.1.0-2), what only a server sends, and AUTH where no method was agreed.
            refuse(connection, reason: .protocolError, now: now, into: &output)
        }
    }

    /// Ends a connection from this side: 5.0 gets DISCONNECT with the reason's code, where there is one. Its will is published.
    package mutating func refuse(
        _ connection: ConnectionID, reason: CloseReason, now: BrokerTime, into output: inout BrokerOutput
    ) {
        guard let slot = slot(of: connection) else { return }
        // MQTT-3.14.0-1: no DISCONNECT before CONNACK.
        if slots[slot].version == .v5, slots[slot].phase == .open, reason.code != nil {
            output.actions.append(.send(connection, disconnect(reason)))
        }
        output.actions.append(.close(connection, reason))
        end(slot: slot, publishWill: true, now: now, into: &output)
    }

    func disconnect(_ reason: CloseReason) -> Packet {
        .disconnect(
            Disconnect(
                reason: reason.code ?? .unspecifiedError,
                reasonString: configuration.disclosesReasons ? reason.reasonString : nil))
    }

    /// The socket is gone. Nothing happens where the broker itself had closed it.
    package mutating func connectionClosed(
        _ connection: ConnectionID, reason: CloseReason, now: BrokerTime, into output: inout BrokerOutput
    ) {
        guard let slot = slot(of: connection) else { return }
        end(slot: slot, publishWill: true, now: now, into: &output)
    }

    /// The socket's buffer is full, or has room again. While it is full, QoS 0 to this client is dropped and counted, and
    /// what has a higher QoS waits in its bounded queue.
    package mutating func writabilityChanged(
        _ connection: ConnectionID, isWritable: Bool, now: BrokerTime, into output: inout BrokerOutput
    ) {
        guard let slot = slot(of: connection) else { return }
        slots[slot].isWritable = isWritable
        if isWritable { pump(slots[slot].session, now: now, into: &output) }
    }

    /// Ends every connection with 0x8B. Wills without a delay are published; those with one are stored, and due after the
    /// restart unless their client is back. What this puts into the open group is to be committed before the process ends.
    package mutating func shutdown(now: BrokerTime, into output: inout BrokerOutput) {
        for slot in slots.indices where slots[slot].phase != .vacant {
            refuse(id(of: slot), reason: .serverShuttingDown, now: now, into: &output)
        }
        storeTallies(into: &output)
    }

    private mutating func compileFilters() {
        uplinkFilters = configuration.uplinkFilters.compactMap { FilterPattern($0) }
        priorities = configuration.priorities.compactMap { rule in
            FilterPattern(rule.filter).map { (filter: $0, priority: rule.priority) }
        }
        localRules = configuration.localRules.prefix(256).map { (FilterPattern($0.filter), $0.discards) }
    }

    /// Sessions, queues and connections stay; rates and access change at once, subscriptions that are no longer allowed go at
    /// the next tick. What was announced in CONNACK stays as it was for those connected.
    package mutating func reconfigure(_ configuration: BrokerConfiguration, now: BrokerTime) {
        self.configuration = configuration
        compileFilters()
        globalBucket.change(
            rate: configuration.globalMessagesPerSecond, capacity: configuration.globalMessagesPerSecond ?? 1,
            now: now.monotonic)
        for index in devices.indices { devices[index].apply(configuration, now: now.monotonic) }
        for slot in slots.indices where slots[slot].phase != .vacant {
            slots[slot].access = accessView(of: slots[slot].device)
            slots[slot].topics.removeAll(keepingCapacity: true)
            slots[slot].heldUntil = nil
        }
        mustReviewAccess = true
    }

    package var connections: [ConnectionSnapshot] {
        slots.indices.filter { slots[$0].phase != .vacant }.map { slot in
            ConnectionSnapshot(
                connection: id(of: slot), deviceID: slots[slot].deviceID,
                clientID: sessionTable[slots[slot].session]?.key.clientID ?? "",
                connectedAt: slots[slot].connectedAt, isPaused: slots[slot].isPaused,
                heldMessages: slots[slot].held.count)
        }
    }

    package var sessions: [SessionSnapshot] {
        sessionTable.compactMap { session in
            guard let session else { return nil }
            return SessionSnapshot(
                deviceID: session.key.deviceID, clientID: session.key.clientID, connection: session.connection,
                isStored: session.isStored, subscriptions: session.subscriptions.count,
                queuedMessages: session.outgoing.count, queuedBytes: session.outgoing.bytes)
        }
    }

    package var retainedCount: Int { retained.count }
}

extension Broker {
    func slot(of connection: ConnectionID) -> Int? {
        let slot = Int(connection.slot)
        guard slot < slots.count, slots[slot].generation == connection.generation, slots[slot].phase != .vacant else {
            return nil
        }
        return slot
    }

    func id(of slot: Int) -> ConnectionID {
        ConnectionID(slot: UInt32(slot), generation: slots[slot].generation)
    }

    /// Sends now, or in its turn where CONNACK still waits for its commit.
    mutating func send(_ packet: Packet, slot: Int, into output: inout BrokerOutput) {
        if slots[slot].phase == .connecting {
            sendCommitted(packet, slot: slot, into: &output)
        } else {
            output.actions.append(.send(id(of: slot), packet))
        }
    }

    /// Sends when the open group is committed.
    mutating func sendCommitted(_ packet: Packet, slot: Int, into output: inout BrokerOutput) {
        output.group.append(packet, to: id(of: slot))
        slots[slot].pendingEffects += 1
    }
}

extension CloseReason {
    /// For DISCONNECT; `nil` where the client cannot or need not be told.
    var code: ReasonCode? {
        switch self {
        case .clientDisconnected, .networkClosed, .networkError, .notTLS, .handshakeTimeout: nil
        case .connectTimeout: .maximumConnectTime
        case .keepAliveTimeout: .keepAliveTimeout
        case .malformedPacket: .malformedPacket
        case .packetTooLarge: .packetTooLarge
        case .protocolError: .protocolError
        case .unsupportedProtocolVersion: .unsupportedProtocolVersion
        case .clientIdentifierInvalid: .clientIdentifierNotValid
        case .authenticationMethod: .badAuthenticationMethod
        case .wrongRole, .certificateExpired, .certificateRevoked, .certificateUnknown, .notAuthorized: .notAuthorized
        case .sessionTakenOver: .sessionTakenOver
        case .topicInvalid: .topicNameInvalid
        case .topicAliasInvalid: .topicAliasInvalid
        case .receiveMaximumExceeded: .receiveMaximumExceeded
        case .quotaExceeded, .slowReader: .quotaExceeded
        case .rateTooHigh: .messageRateTooHigh
        case .tooManyConnections, .serverBusy: .serverBusy
        case .serverShuttingDown: .serverShuttingDown
        }
    }
}
