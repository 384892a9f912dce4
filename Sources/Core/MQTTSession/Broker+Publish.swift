import MQTTWire
import NIOCore
import SyncModel

/// What became of a message that was offered.
enum Offer {
    /// Taken, refused or dropped.
    case done
    /// It has to be held.
    case wait(HeldReason)
    /// Its connection is closed.
    case closed
}

extension Broker {
    /// A 3.1.1 client cannot be told that a message is refused: it is not acknowledged, which lasts until the client
    /// connects anew and sends it again. After this time, or more such messages than its burst, the connection is closed,
    /// so that the message does not hang. Microseconds.
    static let ignoredMessagesTime: Int64 = 10_000_000

    /// The hot path: a message on a synced topic without subscribers goes into the frame and leaves its acknowledgement
    /// in the group, without an allocation but the arrays' growth.
    package mutating func publish(
        _ packet: Publish, on connection: ConnectionID, now: BrokerTime, into output: inout BrokerOutput
    ) {
        guard let slot = slot(of: connection), !slots[slot].isLeaving else { return }
        slots[slot].lastReceived = now.monotonic
        counters.received[Int(packet.qos.rawValue)] &+= 1
        let size = UInt64(
            packet.topic.readableBytes + packet.payload.readableBytes + packet.applicationProperties.readableBytes)
        offeredBytes &+= size
        devices[Int(slots[slot].device)].offeredMessages &+= 1
        devices[Int(slots[slot].device)].offeredBytes &+= size
        var packet = packet
        if let reason = check(&packet, slot: slot) {
            refuse(connection, reason: reason, now: now, into: &output)
            return
        }
        guard slots[slot].held.isEmpty else {
            hold(packet, slot: slot, now: now, into: &output)
            return
        }
        if case .wait(let reason) = offer(packet, slot: slot, now: now, into: &output) {
            enqueue(reason, slot: slot)
            hold(packet, slot: slot, now: now, into: &output)
        }
    }

    /// The rules of the protocol, and the topic behind an alias.
    private mutating func check(_ packet: inout Publish, slot: Int) -> CloseReason? {
        if packet.qos != .atMostOnce, packet.packetID == 0 { return .protocolError }
        guard slots[slot].version == .v5 else { return nil }
        // MQTT-3.3.4-6
        guard packet.subscriptionIdentifiers.isEmpty else { return .protocolError }
        if packet.topicAlias == 0 {
            if packet.topic.readableBytes == 0 { return .protocolError }
        } else if let reason = resolveAlias(&packet, slot: slot) {
            return reason
        }
        return nil
    }

    private mutating func resolveAlias(_ packet: inout Publish, slot: Int) -> CloseReason? {
        guard packet.topicAlias <= configuration.topicAliasMaximum else { return .topicAliasInvalid }
        let index = Int(packet.topicAlias) - 1
        if packet.topic.readableBytes > 0 {
            while slots[slot].aliases.count <= index { slots[slot].aliases.append(nil) }
            slots[slot].aliases[index] = packet.topic.compacted
            return nil
        }
        guard index < slots[slot].aliases.count, let topic = slots[slot].aliases[index] else {
            return .topicAliasInvalid
        }
        packet.topic = topic
        return nil
    }

    private func isRepeat(_ packet: Publish, slot: Int) -> Bool {
        packet.qos == .exactlyOnce && sessionTable[slots[slot].session]!.received.contains(packet.packetID)
    }

    mutating func offer(
        _ packet: Publish, slot: Int, now: BrokerTime, into output: inout BrokerOutput
    ) -> Offer {
        if packet.qos != .atMostOnce, isSaturated(output.group) { return .wait(.room) }
        if isRepeat(packet, slot: slot) {
            // Not before the commit of the first one, which is in this group or in an earlier one.
            counters.repeated += 1
            slots[slot].unreleased = max(0, slots[slot].unreleased - 1)
            slots[slot].unanswered += 1
            output.group.effects.append(.pubrec(id(of: slot), packetID: packet.packetID))
            slots[slot].pendingEffects += 1
            return .done
        }
        if slots[slot].isLeaving { return .done }
        if packet.qos == .exactlyOnce, slots[slot].version == .v5, exceedsReceiveMaximum(slot) {
            return endBeyondReceiveMaximum(slot, now: now, into: &output)
        }
        let topic = topicIndex(packet.topic, slot: slot)
        guard slots[slot].topics[topic].isValid else {
            refuse(id(of: slot), reason: .topicInvalid, now: now, into: &output)
            return .closed
        }
        guard slots[slot].topics[topic].isAllowed else {
            return deny(packet, .notAuthorized, slot: slot, now: now, into: &output)
        }
        guard packet.isInDeclaredFormat else {
            return deny(packet, .payloadFormat, slot: slot, now: now, into: &output)
        }
        let uplink = slots[slot].topics[topic].uplink
        let matches = slots[slot].topics[topic].matches
        if packet.qos == .atMostOnce,
            uplink != nil || packet.retain || devices[Int(slots[slot].device)].pendingRoutes > 0,
            isSaturated(output.group)
        {
            return .wait(.room)
        }
        let needsStorage =
            uplink != nil || packet.retain
            || (packet.qos == .exactlyOnce && sessionTable[slots[slot].session]!.isStored)
            || (packet.qos != .atMostOnce && reachesStored(matches))
        switch admit(packet, device: slots[slot].device, needsStorage: needsStorage, now: now) {
        case .admitted:
            take(packet, uplink: uplink, matches: matches, slot: slot, now: now, into: &output)
            return .done
        case .over(_, .slow, let readyAt): return .wait(.time(readyAt))
        case .over(let reason, .refuse, _):
            return deny(packet, reason, slot: slot, now: now, into: &output)
        }
    }

    /// MQTT-3.3.4-7 counts a QoS 2 message until its PUBCOMP. Here it counts until its PUBREL: some clients free its place
    /// when they send that, and to be stricter breaks them. QoS 1 does not count: how long it is unacknowledged is this
    /// side's doing, and a client that sends a long queue at once after it has connected is slowed by TCP, not ended.
    private func exceedsReceiveMaximum(_ slot: Int) -> Bool {
        slots[slot].unanswered + slots[slot].unreleased >= Int(configuration.receiveMaximum)
    }

    /// DISCONNECT follows the PUBRECs that are due: the client learns which messages were taken, and has got on when it is
    /// back. Else one that sends a long queue at once would come again and again with the same.
    private mutating func endBeyondReceiveMaximum(
        _ slot: Int, now: BrokerTime, into output: inout BrokerOutput
    ) -> Offer {
        guard slots[slot].unanswered > 0 else {
            refuse(id(of: slot), reason: .receiveMaximumExceeded, now: now, into: &output)
            return .closed
        }
        slots[slot].isLeaving = true
        sendCommitted(disconnect(.receiveMaximumExceeded), slot: slot, into: &output)
        return .done
    }

    /// A QoS 0 message that was held when its connection ended, in debt to its rate.
    ///
    /// - Returns: whether it was taken.
    mutating func takeLast(_ packet: Publish, slot: Int, now: BrokerTime, into output: inout BrokerOutput) -> Bool {
        let topic = slots[slot].topics[topicIndex(packet.topic, slot: slot)]
        guard topic.isValid, topic.isAllowed, packet.isInDeclaredFormat else { return false }
        let verdict = admit(
            packet, device: slots[slot].device, needsStorage: topic.uplink != nil || packet.retain, mayOwe: true,
            now: now)
        guard verdict == .admitted else { return false }
        take(packet, uplink: topic.uplink, matches: topic.matches, slot: slot, now: now, into: &output)
        return true
    }

    private mutating func take(
        _ packet: Publish, uplink: UplinkClass?, matches: Matches, slot: Int, now: BrokerTime,
        into output: inout BrokerOutput
    ) {
        var acknowledgement: CommitEffect?
        switch packet.qos {
        case .atMostOnce: break
        case .atLeastOnce: acknowledgement = .puback(id(of: slot), packetID: packet.packetID)
        case .exactlyOnce:
            acknowledgement = .pubrec(id(of: slot), packetID: packet.packetID)
            let session = slots[slot].session
            sessionTable[session]!.received.insert(packet.packetID)
            slots[slot].unanswered += 1
            if sessionTable[session]!.isStored {
                output.group.append(.packetIDReceived(sessionTable[session]!.id, packet.packetID))
            }
        }
        if acknowledgement != nil { slots[slot].pendingEffects += 1 }
        accept(
            packet, uplink: uplink, matches: matches, device: slots[slot].device, isWill: false,
            acknowledgement: acknowledgement, now: now, into: &output)
    }

    /// Storage, bounds and rates; takes the tokens when all of them agree.
    private mutating func admit(
        _ packet: Publish, device: DeviceHandle, needsStorage: Bool, mayOwe: Bool = false, now: BrokerTime
    ) -> AdmissionVerdict {
        if needsStorage, storage == .full { return .over(.storageFull, configuration.whenFull, readyAt: nil) }
        if packet.retain, !hasRoomToRetain(packet) { return .over(.retainedFull, .refuse, readyAt: nil) }
        let device = Int(device)
        let size = Double(
            packet.topic.readableBytes + packet.payload.readableBytes + packet.applicationProperties.readableBytes)
        let time = now.monotonic
        let isWithinRate =
            devices[device].messages.has(1, now: time) && devices[device].bytes.has(size, now: time)
            || mayOwe && devices[device].messages.mayOwe(1, now: time) && devices[device].bytes.mayOwe(size, now: time)
        guard isWithinRate else {
            devices[device].lastOver = time
            let ready = max(
                devices[device].messages.readyAt(1, now: time), devices[device].bytes.readyAt(size, now: time))
            return .over(.rate, devices[device].overLimit, readyAt: ready)
        }
        guard globalBucket.has(1, now: time) else {
            return .over(.globalRate, devices[device].overLimit, readyAt: globalBucket.readyAt(1, now: time))
        }
        devices[device].messages.take(1)
        devices[device].bytes.take(size)
        globalBucket.take(1)
        return .admitted
    }

    func hasRoomToRetain(_ packet: Publish) -> Bool {
        retained.hasRoom(
            for: packet, messages: configuration.retainedMessagesMaximum, bytes: configuration.retainedBytesMaximum)
    }

    func reachesStored(_ matches: Matches) -> Bool {
        matches.direct.contains { $0.qos != .atMostOnce && sessionTable[$0.session]!.isStored }
            || matches.shares.contains { index in
                tree.shares[index].members.contains { $0.qos != .atMostOnce && sessionTable[$0.session]!.isStored }
            }
    }

    private mutating func deny(
        _ packet: Publish, _ reason: RefusalReason, slot: Int, now: BrokerTime, into output: inout BrokerOutput
    ) -> Offer {
        countRefusal(reason, of: slots[slot].device, now: now)
        if packet.qos == .atMostOnce {
            counters.refusedSilently += 1
            return .done
        }
        if slots[slot].version == .v5 {
            negate(packet, reason, slot: slot, into: &output)
            return .done
        }
        if reason == .notAuthorized {
            // MQTT 3.1.1, 3.3.5-2: acknowledge or close; an acknowledgement would be a promise.
            refuse(id(of: slot), reason: .notAuthorized, now: now, into: &output)
            return .closed
        }
        if slots[slot].ignored == 0 { slots[slot].ignoredSince = now.monotonic }
        slots[slot].ignored += 1
        slots[slot].ignoredReason = reason == .rate || reason == .globalRate ? .rateTooHigh : .quotaExceeded
        guard slots[slot].ignored > max(devices[Int(slots[slot].device)].burst, 1) else { return .done }
        refuse(id(of: slot), reason: slots[slot].ignoredReason, now: now, into: &output)
        return .closed
    }

    /// A negative acknowledgement, in its turn: acknowledgements keep the order of the messages (MQTT-4.6.0-2).
    private mutating func negate(
        _ packet: Publish, _ reason: RefusalReason, slot: Int, into output: inout BrokerOutput
    ) {
        let ack = Acknowledgement(
            packetID: packet.packetID, reason: reason.code,
            reasonString: slots[slot].wantsProblemInformation && configuration.disclosesReasons
                ? reason.reasonString : nil)
        let answer: Packet = packet.qos == .atLeastOnce ? .puback(ack) : .pubrec(ack)
        if slots[slot].pendingEffects > 0 {
            sendCommitted(answer, slot: slot, into: &output)
        } else {
            send(answer, slot: slot, into: &output)
        }
    }

    /// The entry of a topic in the connection's cache, up to date.
    private mutating func topicIndex(_ topic: ByteBuffer, slot: Int) -> Int {
        if let index = slots[slot].topics.firstIndex(where: { $0.topic == topic }) {
            if slots[slot].topics[index].version != tree.version, slots[slot].topics[index].isValid {
                slots[slot].topics[index].matches = matches(
                    TopicPath.levels(of: topic), publisher: slots[slot].session)
                slots[slot].topics[index].version = tree.version
            }
            return index
        }
        let entry = lookUp(topic, slot: slot)
        if slots[slot].topics.count < TopicEntry.cachedPerConnection {
            slots[slot].topics.append(entry)
            return slots[slot].topics.count - 1
        }
        let index = slots[slot].nextTopic
        slots[slot].nextTopic = (index + 1) % TopicEntry.cachedPerConnection
        slots[slot].topics[index] = entry
        return index
    }

    private func lookUp(_ topic: ByteBuffer, slot: Int) -> TopicEntry {
        var entry = TopicEntry(
            topic: topic.compacted, isValid: false, isAllowed: false, uplink: nil, version: tree.version,
            matches: Matches())
        guard TopicName.flaw(in: topic, maximumLevels: configuration.maximumTopicLevels) == nil else { return entry }
        let levels = TopicPath.levels(of: topic)
        entry.isValid = true
        entry.isAllowed = levels[0] != TopicPath.system && slots[slot].access.mayPublish(levels)
        entry.uplink = uplink(levels)
        entry.matches = matches(levels, publisher: slots[slot].session)
        return entry
    }

    /// What the buffer does with what is synced; `nil` where the topic is not.
    func uplink(_ topic: [BytewiseString]) -> UplinkClass? {
        guard !TopicPath.isReserved(topic[0]), uplinkFilters.contains(where: { $0.matches(topic) }) else { return nil }
        return UplinkClass(
            priority: priorities.first { $0.filter.matches(topic) }?.priority ?? .standard,
            rule: localRules.firstIndex { $0.filter?.matches(topic) == true }.map(UInt8.init))
    }
}

extension Publish {
    /// A payload that is declared as UTF-8 is (3.3.2.3.2 leaves it to the receiver to check).
    fileprivate var isInDeclaredFormat: Bool {
        applicationProperties.readableBytes == 0 || !applicationProperties.declaresUTF8Payload || payload.isUTF8
    }
}
