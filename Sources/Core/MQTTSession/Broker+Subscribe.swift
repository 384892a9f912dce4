import MQTTWire
import NIOCore
import SyncModel

extension Broker {
    mutating func subscribe(
        _ packet: Subscribe, slot: Int, now: BrokerTime, into output: inout BrokerOutput
    ) {
        // MQTT-3.8.3-2 and -4, 3.8.2.1.2
        let isMalformed =
            packet.subscriptions.isEmpty || packet.subscriptionIdentifier == 0
            || packet.subscriptions.contains { $0.noLocal && $0.filter.utf8.starts(with: "$share/".utf8) }
        if isMalformed {
            refuse(id(of: slot), reason: .protocolError, now: now, into: &output)
            return
        }
        let session = slots[slot].session
        var reasons: [ReasonCode] = []
        var toRetain: [BytewiseString: (state: SubscriptionState, isNew: Bool)] = [:]
        var order: [BytewiseString] = []
        for (index, subscription) in packet.subscriptions.enumerated() {
            // A packet may name a filter again and again: its entries are bounded like the subscriptions of a session.
            let isWithinBound = index < configuration.subscriptionsPerSessionMaximum
            switch isWithinBound ? check(subscription, slot: slot) : .failure(Refusal(code: .quotaExceeded)) {
            case .failure(let refusal): reasons.append(slots[slot].version == .v5 ? refusal.code : .unspecifiedError)
            case .success(let filter):
                let state = SubscriptionState(
                    subscription: subscription, identifier: packet.subscriptionIdentifier, filter: filter)
                let key = BytewiseString(subscription.filter)
                let isNew = sessionTable[session]!.subscriptions[key] == nil
                add(state, session: session, access: slots[slot].access)
                if sessionTable[session]!.isStored {
                    output.group.append(
                        .subscriptionSaved(
                            sessionTable[session]!.id, subscription, identifier: packet.subscriptionIdentifier))
                }
                reasons.append(ReasonCode(rawValue: subscription.qos.rawValue))
                if toRetain[key] == nil { order.append(key) }
                toRetain[key] = (state, isNew || toRetain[key]?.isNew == true)
            }
        }
        let answer = Packet.suback(
            SubAck(packetID: packet.packetID, reasons: reasons, reasonString: reasonString(reasons, slot: slot)))
        if sessionTable[session]!.isStored {
            sendCommitted(answer, slot: slot, into: &output)
        } else {
            send(answer, slot: slot, into: &output)
        }
        var room = configuration.retainedBytesPerSubscribe
        for key in order {
            guard let (state, isNew) = toRetain[key] else { continue }
            sendRetained(state, isNew: isNew, session: session, room: &room, now: now, into: &output)
        }
    }

    private struct Refusal: Error { var code: ReasonCode }

    /// One for the whole SUBACK: what is wrong with the first filter that was refused.
    private func reasonString(_ reasons: [ReasonCode], slot: Int) -> String? {
        guard slots[slot].wantsProblemInformation, configuration.disclosesReasons,
            let first = reasons.firstIndex(where: \.isFailure)
        else {
            return nil
        }
        let text =
            switch reasons[first] {
            case .topicFilterInvalid: "is not valid, or has too many levels"
            case .notAuthorized: "reaches topics that the access rules do not allow"
            default: "is more than a session may have, or than there is room to store"
            }
        return "topic filter \(first + 1) \(text)"
    }

    private func check(_ subscription: Subscription, slot: Int) -> Result<SubscriptionFilter, Refusal> {
        guard let filter = SubscriptionFilter(subscription.filter, maximumLevels: configuration.maximumTopicLevels)
        else { return .failure(Refusal(code: .topicFilterInvalid)) }
        if slots[slot].access.verdict(onSubscribing: filter.filter) == .refused {
            return .failure(Refusal(code: configuration.disclosesReasons ? .notAuthorized : .unspecifiedError))
        }
        let session = slots[slot].session
        if sessionTable[session]!.subscriptions[BytewiseString(subscription.filter)] == nil,
            !hasRoomToSubscribe(subscription, session: session)
        {
            return .failure(Refusal(code: .quotaExceeded))
        }
        return .success(filter)
    }

    private func hasRoomToSubscribe(_ subscription: Subscription, session: Int) -> Bool {
        sessionTable[session]!.subscriptions.count < configuration.subscriptionsPerSessionMaximum
            && sessionTable[session]!.subscriptionBytes + subscription.filter.utf8.count
                <= configuration.subscriptionBytesPerSessionMaximum
            && (storage == .open || !sessionTable[session]!.isStored)
    }

    /// A filter as it was stored; an invalid one can only come from a damaged file and is left out.
    mutating func add(_ subscription: Subscription, identifier: UInt32?, session: Int) {
        guard let filter = SubscriptionFilter(subscription.filter, maximumLevels: .max) else { return }
        add(
            SubscriptionState(subscription: subscription, identifier: identifier, filter: filter), session: session,
            access: accessView(of: sessionTable[session]!.device))
    }

    private mutating func add(_ state: SubscriptionState, session: Int, access: AccessView) {
        let old = sessionTable[session]!.subscriptions.updateValue(
            state, forKey: BytewiseString(state.subscription.filter))
        if old == nil { sessionTable[session]!.subscriptionBytes += state.subscription.filter.utf8.count }
        let verdict = access.verdict(onSubscribing: state.filter.filter)
        // Stored under other rules: it brings nothing, and the next review removes it.
        guard verdict != .refused else { return }
        tree.insert(
            state.filter,
            Subscriber(
                session: session, qos: state.subscription.qos, noLocal: state.subscription.noLocal,
                retainAsPublished: state.subscription.retainAsPublished, identifier: state.identifier,
                isGuarded: verdict == .guarded))
    }

    /// MQTT-3.3.1-9 to -11; never to a shared subscription (4.8.2).
    private mutating func sendRetained(
        _ state: SubscriptionState, isNew: Bool, session: Int, room: inout Int, now: BrokerTime,
        into output: inout BrokerOutput
    ) {
        guard state.filter.share == nil, state.subscription.retainHandling != .doNotSend,
            isNew || state.subscription.retainHandling == .send
        else { return }
        // What is not durable yet, or follows a CONNACK or SUBACK that waits, comes with the open group.
        let mustWait =
            sessionTable[session]!.isStored || uncommittedRetained > 0 || openSlot(of: session) == nil
        let filter = state.filter.filter
        // The server's own topics stand in memory alone: nothing of theirs waits for a commit.
        let found = filter.isSystem ? system : retained
        let access = access(of: session)
        let isGuarded = access.verdict(onSubscribing: filter) == .guarded
        var entries: [RetainedStore.Entry] = []
        found.forEachMatch(of: filter, gatewayTime: now.gateway) { entry in
            guard room > 0 else {
                counters.dropped[.slowReader] += 1
                return false
            }
            let isKept = !isGuarded || access.mayReceive(entry.levels)
            // QoS 1 and 2 are bounded by the session's queue.
            let isSent = isKept && min(entry.qos, state.subscription.qos) == .atMostOnce
            room -= max(Self.retainedMatchCost, isSent ? entry.message.size : 0)
            if isKept { entries.append(entry) }
            return true
        }
        for entry in entries {
            let target = reserve(
                entry.message, session: session, qos: min(entry.qos, state.subscription.qos), retain: true,
                identifiers: state.identifier.map { [$0] } ?? [], into: &output)
            guard let target else { continue }
            if mustWait {
                append(
                    PendingRoute(message: entry.message, targets: [target], device: nil, changesRetained: false),
                    into: &output)
            } else {
                deliver(entry.message, to: target, now: now, into: &output)
            }
        }
    }

    /// Bytes that a retained message costs at least, so that a SUBSCRIBE of many filters ends.
    private static let retainedMatchCost = 256

    mutating func unsubscribe(_ packet: Unsubscribe, slot: Int, into output: inout BrokerOutput) {
        let session = slots[slot].session
        var reasons: [ReasonCode] = []
        for filter in packet.filters {
            let existed = remove(filter, session: session, into: &output)
            reasons.append(existed ? .success : .noSubscriptionExisted)
        }
        let answer = Packet.unsuback(UnsubAck(packetID: packet.packetID, reasons: reasons))
        if sessionTable[session]!.isStored {
            sendCommitted(answer, slot: slot, into: &output)
        } else {
            send(answer, slot: slot, into: &output)
        }
    }

    /// - Returns: whether there was one.
    private mutating func remove(_ filter: String, session: Int, into output: inout BrokerOutput) -> Bool {
        let key = BytewiseString(filter)
        guard let state = sessionTable[session]!.subscriptions.removeValue(forKey: key) else { return false }
        sessionTable[session]!.subscriptionBytes -= state.subscription.filter.utf8.count
        tree.remove(state.filter, session: session)
        if sessionTable[session]!.isStored {
            output.group.append(.subscriptionRemoved(sessionTable[session]!.id, filter: filter))
        }
        return true
    }

    /// Subscriptions that new access rules do not allow any more.
    mutating func reviewAccess(into output: inout BrokerOutput) {
        for index in sessionTable.indices where sessionTable[index] != nil { reviewAccess(of: index, into: &output) }
    }

    mutating func reviewAccess(of session: Int, into output: inout BrokerOutput) {
        let access = accessView(of: sessionTable[session]!.device)
        for state in sessionTable[session]!.subscriptions.values {
            if access.verdict(onSubscribing: state.filter.filter) == .refused {
                _ = remove(state.subscription.filter, session: session, into: &output)
            } else {
                add(state, session: session, access: access)
            }
        }
    }
}
