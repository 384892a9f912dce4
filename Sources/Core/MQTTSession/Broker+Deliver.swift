import LocalWork
import MQTTWire
import NIOCore
import Sparkplug
import SyncModel

extension Broker {
    /// Takes an admitted message: into the frame, the retained messages and its subscribers' queues, all in one commit.
    mutating func accept(
        _ packet: Publish, uplink: UplinkClass?, matches: Matches, device: DeviceHandle, isWill: Bool,
        acknowledgement: CommitEffect?, now: BrokerTime, into output: inout BrokerOutput
    ) {
        if let uplink {
            output.group.frames.append(
                device: device, deviceID: devices[Int(device)].id, qos: packet.qos.rawValue, retain: packet.retain,
                duplicate: packet.duplicate, isWill: isWill, topic: packet.topic, payload: packet.payload,
                properties: packet.applicationProperties, clock: now.clock, priority: uplink.priority,
                handling: uplink.rule.map { handling(of: packet, by: $0) } ?? .direct)
            counters.synced &+= 1
        }
        if let acknowledgement { output.group.effects.append(acknowledgement) }
        if SparkplugTopic.isSparkplug(packet.topic) {
            sparkplug.observe(topic: packet.topic, payload: packet.payload, wallTime: now.clock.wallTime)
        }
        guard packet.retain || !matches.isEmpty else { return }
        let message = RoutedMessage(packet, now: now)
        let changesRetained = packet.retain && retain(message, qos: packet.qos, into: &output)
        let targets = targets(of: matches, message: message, qos: packet.qos, retain: packet.retain, into: &output)
        guard changesRetained || !targets.isEmpty else { return }
        let mustWait =
            changesRetained || uplink != nil || packet.qos != .atMostOnce || devices[Int(device)].pendingRoutes > 0
        if mustWait {
            devices[Int(device)].pendingRoutes += 1
            append(
                PendingRoute(message: message, targets: targets, device: device, changesRetained: changesRetained),
                into: &output)
        } else {
            for target in targets { deliver(message, to: target, now: now, into: &output) }
        }
    }

    /// What cannot be aggregated goes up as it is.
    private mutating func handling(of packet: Publish, by rule: UInt8) -> MessageHandling {
        if localRules[Int(rule)].discards { return .discarded(rule: rule) }
        if NumericPayload(packet.payload) != nil { return .held(rule: rule) }
        counters.unreadable &+= 1
        return .direct
    }

    mutating func append(_ route: PendingRoute, into output: inout BrokerOutput) {
        output.group.append(firstRoute + RouteID(routes.count), of: route.message)
        routes.append(route)
        if route.changesRetained { uncommittedRetained += 1 }
    }

    /// - Returns: whether anything changed.
    private mutating func retain(_ message: RoutedMessage, qos: QoS, into output: inout BrokerOutput) -> Bool {
        if message.payload.readableBytes == 0 {
            guard retained.remove(message.topic) else { return false }
            output.group.append(.retainedRemoved(topic: message.topic))
            return true
        }
        retained.set(message, qos: qos)
        output.group.append(.retained(message.stored(qos: qos, retain: true, identifiers: [])))
        return true
    }

    /// Who gets a message on the topic.
    func matches(_ topic: [BytewiseString], publisher: Int?) -> Matches {
        tree.match(topic, publisher: publisher) { access(of: $0).mayReceive(topic) }
    }

    func access(of session: Int) -> AccessView {
        openSlot(of: session).map { slots[$0].access } ?? accessView(of: sessionTable[session]!.device)
    }

    /// - Parameters:
    ///   - qos: of the message.
    ///   - retain: its flag, for subscriptions that want it as published.
    mutating func targets(
        of matches: Matches, message: RoutedMessage, qos: QoS, retain: Bool, into output: inout BrokerOutput
    ) -> [PendingRoute.Target] {
        var targets: [PendingRoute.Target] = []
        targets.reserveCapacity(matches.direct.count + matches.shares.count)
        for match in matches.direct {
            let target = reserve(
                message, session: match.session, qos: min(match.qos, qos), retain: retain && match.retainAsPublished,
                identifiers: match.identifiers, into: &output)
            if let target { targets.append(target) }
        }
        for share in matches.shares {
            guard let member = nextMember(of: share, for: message, qos: qos) else { continue }
            let target = reserve(
                message, session: member.session, qos: min(member.qos, qos),
                retain: retain && member.retainAsPublished,
                identifiers: member.identifier.map { [$0] } ?? [], into: &output)
            if let target { targets.append(target) }
        }
        return targets
    }

    /// How well a member of a shared subscription can take a message now; in ascending order.
    private enum Readiness: Int {
        /// It would be dropped: the queue is full, or QoS 0 and nobody is there who reads.
        case full
        /// It waits in the queue of a session that is away.
        case away
        /// It waits behind others that are not acknowledged, or for a socket that is full.
        case slow
        case ready
    }

    private func readiness(of member: Subscriber, for message: RoutedMessage, qos: QoS) -> Readiness? {
        if member.isGuarded, !access(of: member.session).mayReceive(TopicPath.levels(of: message.topic)) { return nil }
        let slot = openSlot(of: member.session)
        let isWritable = slot.map { slots[$0].isWritable } ?? false
        if min(member.qos, qos) == .atMostOnce { return isWritable ? .ready : .full }
        guard hasRoom(in: member.session, for: message) else { return .full }
        guard let slot else { return .away }
        return isWritable && sessionTable[member.session]!.outgoing.count < slots[slot].window ? .ready : .slow
    }

    /// Round robin over the members that can take the message at once; where there is none, over the best of the others,
    /// so that a message is dropped only when no member has room for it.
    private mutating func nextMember(of share: Int, for message: RoutedMessage, qos: QoS) -> Subscriber? {
        let count = tree.shares[share].members.count
        var best: (index: Int, readiness: Readiness)?
        for step in 0..<count {
            let index = (tree.shares[share].next + step) % count
            guard let readiness = readiness(of: tree.shares[share].members[index], for: message, qos: qos) else {
                continue
            }
            if readiness.rawValue > best?.readiness.rawValue ?? -1 { best = (index, readiness) }
            if readiness == .ready { break }
        }
        guard let best else { return nil }
        tree.shares[share].next = (best.index + 1) % count
        return tree.shares[share].members[best.index]
    }

    private func hasRoom(in session: Int, for message: RoutedMessage) -> Bool {
        sessionTable[session]!.outgoing.count < configuration.queuedMessagesMaximum
            && sessionTable[session]!.outgoing.bytes + message.size <= configuration.queuedBytesMaximum
    }

    /// A place in the subscriber's queue, stored with the message; `nil` when there is none.
    mutating func reserve(
        _ message: RoutedMessage, session: Int, qos: QoS, retain: Bool, identifiers: [UInt32],
        into output: inout BrokerOutput
    ) -> PendingRoute.Target? {
        var target = PendingRoute.Target(
            session: session, sessionID: sessionTable[session]!.id, qos: qos, retain: retain,
            identifiers: identifiers, order: 0, packetID: 0)
        guard qos != .atMostOnce else { return target }
        guard hasRoom(in: session, for: message) else {
            counters.dropped[.queueFull] += 1
            return nil
        }
        // A packet id means after a restart that the message was sent, so none is given for a socket that is full.
        let window = openSlot(of: session).map { slots[$0].isWritable ? slots[$0].window : 0 } ?? 0
        (target.order, target.packetID) = sessionTable[session]!.outgoing.reserve(message, window: window)
        if sessionTable[session]!.isStored {
            output.group.append(
                .queued(
                    target.sessionID, order: target.order,
                    message.stored(qos: qos, retain: retain, identifiers: identifiers), packetID: target.packetID))
        }
        return target
    }

    /// Hands a message to a subscriber, now or through its queue. The message's commit is done, where it needed one.
    mutating func deliver(
        _ message: RoutedMessage, to target: PendingRoute.Target, now: BrokerTime, into output: inout BrokerOutput
    ) {
        // The session may have ended since, and its place may be another's.
        guard sessionTable[target.session]?.id == target.sessionID else { return }
        if target.qos == .atMostOnce {
            deliverAtMostOnce(message, to: target, now: now, into: &output)
            return
        }
        sessionTable[target.session]!.outgoing.admit(
            OutgoingEntry(
                order: target.order, message: message, qos: target.qos, retain: target.retain,
                identifiers: target.identifiers, packetID: target.packetID))
        pump(target.session, now: now, into: &output)
    }

    /// QoS 0 reaches who is there and can read; for nobody else is it kept.
    private mutating func deliverAtMostOnce(
        _ message: RoutedMessage, to target: PendingRoute.Target, now: BrokerTime, into output: inout BrokerOutput
    ) {
        guard let slot = openSlot(of: target.session) else { return }
        let delivery = Delivery(
            message: message, qos: .atMostOnce, packetID: 0, retain: target.retain, duplicate: false,
            subscriptionIdentifiers: target.identifiers)
        if !slots[slot].isWritable {
            counters.dropped[.slowReader] += 1
        } else if message.isExpired(at: now.gateway) {
            counters.dropped[.expired] += 1
        } else if !fits(delivery, slot: slot) {
            counters.dropped[.tooLarge] += 1
        } else {
            counters.delivered[0] &+= 1
            emit(delivery, slot: slot, into: &output)
        }
    }

    /// Hands a message that fits to the driver, its topic by an alias where the client takes them.
    mutating func emit(_ delivery: Delivery, slot: Int, into output: inout BrokerOutput) {
        var delivery = delivery
        delivery.topic = slots[slot].outgoingAliases.naming(of: delivery.message.topic)
        if case .nameWithAlias = delivery.topic {
            if delivery.packetSize(slots[slot].version) <= slots[slot].maximumPacketSize {
                slots[slot].outgoingAliases.remember(delivery.message.topic)
            } else {
                delivery.topic = .name
            }
        }
        output.deliveredBytes += delivery.message.size
        output.actions.append(.deliver(id(of: slot), delivery))
    }

    /// Within the client's maximum packet size (MQTT-3.1.2-24), by an alias that it knows or without one.
    private func fits(_ delivery: Delivery, slot: Int) -> Bool {
        let maximum = slots[slot].maximumPacketSize
        guard maximum < .max else { return true }
        var delivery = delivery
        if case .alias(let alias) = slots[slot].outgoingAliases.naming(of: delivery.message.topic) {
            delivery.topic = .alias(alias)
        }
        return delivery.packetSize(slots[slot].version) <= maximum
    }

    func openSlot(of session: Int) -> Int? {
        guard let connection = sessionTable[session]!.connection, let slot = slot(of: connection),
            slots[slot].phase == .open
        else { return nil }
        return slot
    }

    /// Sends what the subscriber's window has room for: first what is in flight and was not sent on this connection, then
    /// what waits.
    mutating func pump(_ session: Int, now: BrokerTime, into output: inout BrokerOutput) {
        guard let slot = openSlot(of: session), slots[slot].isWritable else { return }
        while sessionTable[session]!.outgoing.sent < slots[slot].window,
            sessionTable[session]!.outgoing.sentBytes < configuration.inflightBytesMaximum
        {
            if let entry = sessionTable[session]!.outgoing.unsent {
                sendInflight(entry, session: session, slot: slot, now: now, into: &output)
            } else if let entry = sessionTable[session]!.outgoing.waiting.first {
                sendWaiting(entry, session: session, slot: slot, now: now, into: &output)
            } else {
                return
            }
        }
    }

    private mutating func sendInflight(
        _ entry: OutgoingEntry, session: Int, slot: Int, now: BrokerTime, into output: inout BrokerOutput
    ) {
        if entry.stage == .released {
            sessionTable[session]!.outgoing.markSent()
            send(.pubrel(Acknowledgement(packetID: entry.packetID)), slot: slot, into: &output)
            return
        }
        if let reason = obstacle(entry, slot: slot, now: now) {
            counters.dropped[reason] += 1
            sessionTable[session]!.outgoing.removeInflight(at: sessionTable[session]!.outgoing.sent)
            stateDequeued(entry, session: session, into: &output)
            return
        }
        sessionTable[session]!.outgoing.markSent()
        counters.delivered[Int(entry.qos.rawValue)] &+= 1
        emit(Delivery(entry, duplicate: entry.wasSent), slot: slot, into: &output)
    }

    private mutating func sendWaiting(
        _ first: OutgoingEntry, session: Int, slot: Int, now: BrokerTime, into output: inout BrokerOutput
    ) {
        if let reason = obstacle(first, slot: slot, now: now) {
            counters.dropped[reason] += 1
            sessionTable[session]!.outgoing.removeFirstWaiting()
            stateDequeued(first, session: session, into: &output)
            return
        }
        guard let entry = sessionTable[session]!.outgoing.promote() else { return }
        sessionTable[session]!.outgoing.markSent()
        counters.delivered[Int(entry.qos.rawValue)] &+= 1
        if sessionTable[session]!.isStored {
            output.group.append(
                .stageChanged(sessionTable[session]!.id, order: entry.order, .sent, packetID: entry.packetID))
            // QoS 2: were the id lost in a crash after the send, the subscriber would take the next sending for a new message.
            if entry.qos == .exactlyOnce {
                output.group.effects.append(.deliver(id(of: slot), Delivery(entry, duplicate: false)))
                slots[slot].pendingEffects += 1
                return
            }
        }
        emit(Delivery(entry, duplicate: entry.mayBeRepeat), slot: slot, into: &output)
    }

    /// Why the message is not sent: it has expired before its first sending, or the client would not take it (MQTT-3.1.2-25).
    private func obstacle(_ entry: OutgoingEntry, slot: Int, now: BrokerTime) -> DropReason? {
        if !entry.wasSent, entry.message.isExpired(at: now.gateway) { return .expired }
        return fits(Delivery(entry, duplicate: false), slot: slot) ? nil : .tooLarge
    }

    mutating func stateDequeued(_ entry: OutgoingEntry, session: Int, into output: inout BrokerOutput) {
        if sessionTable[session]!.isStored {
            output.group.append(.dequeued(sessionTable[session]!.id, order: entry.order))
        }
    }
}

extension RoutedMessage {
    /// What may be kept for long does not keep the buffer it was read in.
    convenience init(_ packet: Publish, now: BrokerTime) {
        let isKept = packet.retain || packet.qos != .atMostOnce
        self.init(
            topic: isKept ? packet.topic.compacted : packet.topic,
            payload: isKept ? packet.payload.compacted : packet.payload,
            applicationProperties: isKept ? packet.applicationProperties.compacted : packet.applicationProperties,
            expiresAt: packet.messageExpiry.map { now.gateway + Int64($0) * 1_000_000 })
    }

    func stored(qos: QoS, retain: Bool, identifiers: [UInt32]) -> StoredPublish {
        StoredPublish(
            topic: topic, payload: payload, applicationProperties: applicationProperties, qos: qos, retain: retain,
            expiresAt: expiresAt, subscriptionIdentifiers: identifiers)
    }
}

extension Delivery {
    init(_ entry: OutgoingEntry, duplicate: Bool) {
        self.init(
            message: entry.message, qos: entry.qos, packetID: entry.packetID, retain: entry.retain,
            duplicate: duplicate, subscriptionIdentifiers: entry.identifiers)
    }

    /// Bytes of the whole PUBLISH.
    func packetSize(_ version: ProtocolVersion) -> Int {
        var length = 2 + message.topic.readableBytes + message.payload.readableBytes
        if qos != .atMostOnce { length += 2 }
        if version == .v5 {
            if case .alias = topic { length -= message.topic.readableBytes }
            var properties = message.applicationProperties.readableBytes + (topic == .name ? 0 : 3)
            if message.expiresAt != nil { properties += 5 }
            for identifier in subscriptionIdentifiers { properties += 1 + Self.variableLength(Int(identifier)) }
            length += properties + Self.variableLength(properties)
        }
        return 1 + Self.variableLength(length) + length
    }

    /// Bytes of a variable byte integer (1.5.5).
    private static func variableLength(_ value: Int) -> Int {
        value < 1 << 7 ? 1 : value < 1 << 14 ? 2 : value < 1 << 21 ? 3 : 4
    }
}
