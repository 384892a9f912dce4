import MQTTWire
import NIOCore
import SyncModel

extension Broker {
    /// Bytes of messages, to all clients together, after which a commit's effects pause for their actions to be performed.
    private static let deliveryBurst = 256 * 1024

    /// The group of these effects is committed and fsynced. What it leads to (a window that opens, say) may put new changes
    /// into the open group.
    ///
    /// - Returns: where to go on after the actions are performed. A group may hold more deliveries to one client than may
    ///   wait for its socket, and only when some are written is it known whether it takes more.
    package mutating func committed(
        _ effects: [CommitEffect], from start: Int, now: BrokerTime, into output: inout BrokerOutput
    ) -> Int {
        for index in start..<effects.count {
            if output.deliveredBytes >= Self.deliveryBurst { return index }
            switch effects[index] {
            case .puback(let connection, let packetID):
                acknowledge(.puback, packetID, connection, into: &output)
            case .pubrec(let connection, let packetID):
                acknowledge(.pubrec, packetID, connection, into: &output)
            case .pubcomp(let connection, let packetID):
                guard let slot = slot(of: connection) else { continue }
                slots[slot].pendingEffects -= 1
                output.actions.append(.acknowledge(connection, .pubcomp, packetID: packetID))
            case .send(let connection, let packet):
                sendAfterCommit(packet, connection, now: now, into: &output)
            case .deliver(let connection, let delivery):
                guard let slot = slot(of: connection) else { continue }
                slots[slot].pendingEffects -= 1
                emit(delivery, slot: slot, into: &output)
            case .route(let route): self.route(route, now: now, into: &output)
            }
        }
        return effects.count
    }

    /// The same in one go.
    package mutating func committed(
        _ effects: [CommitEffect], now: BrokerTime, into output: inout BrokerOutput
    ) {
        var next = 0
        while next < effects.count {
            output.deliveredBytes = 0
            next = committed(effects, from: next, now: now, into: &output)
        }
    }

    private mutating func acknowledge(
        _ kind: AcknowledgementKind, _ packetID: UInt16, _ connection: ConnectionID, into output: inout BrokerOutput
    ) {
        guard let slot = slot(of: connection) else { return }
        slots[slot].pendingEffects -= 1
        if kind == .pubrec {
            slots[slot].unanswered -= 1
            slots[slot].unreleased += 1
        }
        output.actions.append(.acknowledge(connection, kind, packetID: packetID))
    }

    private mutating func sendAfterCommit(
        _ packet: Packet, _ connection: ConnectionID, now: BrokerTime, into output: inout BrokerOutput
    ) {
        guard let slot = slot(of: connection) else { return }
        slots[slot].pendingEffects -= 1
        output.actions.append(.send(connection, packet))
        switch packet {
        case .connack:
            slots[slot].phase = .open
            pump(slots[slot].session, now: now, into: &output)
        case .disconnect:
            output.actions.append(.close(connection, .receiveMaximumExceeded))
            end(slot: slot, publishWill: true, now: now, into: &output)
        default: break
        }
    }

    private mutating func route(_ id: RouteID, now: BrokerTime, into output: inout BrokerOutput) {
        precondition(id == firstRoute, "groups are committed in their order, and each once")
        let route = routes.removeFirst()
        firstRoute += 1
        if route.changesRetained { uncommittedRetained -= 1 }
        if let device = route.device { devices[Int(device)].pendingRoutes -= 1 }
        for target in route.targets { deliver(route.message, to: target, now: now, into: &output) }
    }

    // MARK: The client as a receiver

    /// PUBACK of a QoS 1 message, or PUBCOMP of a QoS 2 one. An unknown id is passed over: it may be a late answer.
    mutating func receivedAck(
        _ ack: Acknowledgement, of qos: QoS, slot: Int, now: BrokerTime, into output: inout BrokerOutput
    ) {
        let session = slots[slot].session
        guard let index = sessionTable[session]!.outgoing.inflightIndex(of: ack.packetID) else { return }
        let entry = sessionTable[session]!.outgoing.inflight[index]
        guard entry.qos == qos, qos == .atLeastOnce || entry.stage == .released else { return }
        sessionTable[session]!.outgoing.removeInflight(at: index)
        stateDequeued(entry, session: session, into: &output)
        pump(session, now: now, into: &output)
    }

    /// PUBREL follows when it is durable that it is owed; a failure ends the message (4.3.3).
    mutating func receivedRec(
        _ ack: Acknowledgement, slot: Int, now: BrokerTime, into output: inout BrokerOutput
    ) {
        let session = slots[slot].session
        guard let index = sessionTable[session]!.outgoing.inflightIndex(of: ack.packetID),
            sessionTable[session]!.outgoing.inflight[index].qos == .exactlyOnce
        else {
            if !ack.reason.isFailure {
                let answer = Acknowledgement(packetID: ack.packetID, reason: .packetIdentifierNotFound)
                send(
                    .pubrel(slots[slot].version == .v5 ? answer : Acknowledgement(packetID: ack.packetID)), slot: slot,
                    into: &output)
            }
            return
        }
        let entry = sessionTable[session]!.outgoing.inflight[index]
        if ack.reason.isFailure {
            sessionTable[session]!.outgoing.removeInflight(at: index)
            stateDequeued(entry, session: session, into: &output)
            pump(session, now: now, into: &output)
            return
        }
        let release = Packet.pubrel(Acknowledgement(packetID: ack.packetID))
        guard sessionTable[session]!.isStored else {
            sessionTable[session]!.outgoing.release(at: index)
            send(release, slot: slot, into: &output)
            return
        }
        if entry.stage != .released {
            sessionTable[session]!.outgoing.release(at: index)
            output.group.append(
                .stageChanged(
                    sessionTable[session]!.id, order: entry.order, .released, packetID: entry.packetID))
        }
        sendCommitted(release, slot: slot, into: &output)
    }

    // MARK: The client as a sender

    /// PUBREL of a QoS 2 message. The answer waits for the commit of the id's deletion, also where another connection began
    /// it: a client that has its PUBCOMP gives the id to another message, which a restart must not take for the old one.
    mutating func receivedRel(_ ack: Acknowledgement, slot: Int, into output: inout BrokerOutput) {
        let session = slots[slot].session
        let wasKnown = sessionTable[session]!.received.remove(ack.packetID)
        if wasKnown { slots[slot].unreleased = max(0, slots[slot].unreleased - 1) }
        guard sessionTable[session]!.isStored else {
            let reason: ReasonCode = wasKnown || slots[slot].version == .v311 ? .success : .packetIdentifierNotFound
            send(.pubcomp(Acknowledgement(packetID: ack.packetID, reason: reason)), slot: slot, into: &output)
            return
        }
        if wasKnown {
            output.group.append(.packetIDReleased(sessionTable[session]!.id, ack.packetID))
        } else if slots[slot].version == .v5 {
            let answer = Acknowledgement(packetID: ack.packetID, reason: .packetIdentifierNotFound)
            sendCommitted(.pubcomp(answer), slot: slot, into: &output)
            return
        }
        output.group.effects.append(.pubcomp(id(of: slot), packetID: ack.packetID))
        slots[slot].pendingEffects += 1
    }
}
