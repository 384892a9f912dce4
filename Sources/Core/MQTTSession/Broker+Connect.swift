import MQTTWire
import NIOCore
import SyncModel

extension Broker {
    /// The first packet of a connection. A refusal is a CONNACK and a close.
    ///
    /// - Parameter assignedClientID: random, for a client that names none.
    package mutating func connect(
        _ packet: Connect, on connection: ConnectionID, identity: ClientIdentity, assignedClientID: String,
        now: BrokerTime, into output: inout BrokerOutput
    ) {
        let slot = Int(connection.slot)
        while slots.count <= slot { slots.append(.vacant) }
        if slots[slot].phase != .vacant {
            if slots[slot].generation == connection.generation {
                refuse(connection, reason: .protocolError, now: now, into: &output)
                return
            }
            end(slot: slot, publishWill: true, now: now, into: &output)
        }
        switch prepare(packet, identity: identity, assignedClientID: assignedClientID, now: now) {
        case .failure(let refusal):
            counters.connectionsRefused += 1
            var connack = ConnAck(reason: refusal.code)
            if configuration.disclosesReasons { connack.reasonString = refusal.text ?? refusal.reason.reasonString }
            output.actions.append(.send(connection, .connack(connack)))
            output.actions.append(.close(connection, refusal.reason))
        case .success(let client):
            accept(packet, client, on: connection, now: now, into: &output)
        }
    }

    private struct ConnectRefusal: Error {
        var code: ReasonCode
        var reason: CloseReason
        /// Where the close reason's own text does not say enough.
        var text: String?
    }

    private struct Client {
        var key: SessionKey
        var device: DeviceHandle
        var access: AccessView
        var will: StoredWill?
        var isAssigned: Bool
        /// Seconds.
        var expiry: UInt32
    }

    private mutating func prepare(
        _ packet: Connect, identity: ClientIdentity, assignedClientID: String, now: BrokerTime
    ) -> Result<Client, ConnectRefusal> {
        if isOverloaded { return .failure(ConnectRefusal(code: .serverBusy, reason: .serverBusy)) }
        if packet.authenticationMethod != nil {
            return .failure(ConnectRefusal(code: .badAuthenticationMethod, reason: .authenticationMethod))
        }
        let invalid = ConnectRefusal(code: .clientIdentifierNotValid, reason: .clientIdentifierInvalid)
        let isAssigned = packet.clientID.isEmpty
        // MQTT-3.1.3-8: 3.1.1 without a client id only with Clean Session.
        if isAssigned, packet.version == .v311, !packet.cleanStart { return .failure(invalid) }
        let clientID = isAssigned ? assignedClientID : packet.clientID
        guard clientID.utf8.count <= configuration.maximumClientIDBytes else { return .failure(invalid) }
        let deviceID = identity.deviceID ?? localDeviceID(clientID, isAssigned: isAssigned)
        guard Self.isValidDeviceID(deviceID) else {
            return .failure(invalid)
        }
        let quota = ConnectRefusal(code: .quotaExceeded, reason: .quotaExceeded)
        guard let device = deviceHandle(deviceID, isLocal: identity.isLocal, now: now) else { return .failure(quota) }
        // An id that a certificate has proven is not open to a plaintext client's word.
        if identity.isLocal, !devices[Int(device)].isLocal { return .failure(invalid) }

        let access = accessView(of: device)
        var will: StoredWill?
        if let wanted = packet.will {
            switch prepare(wanted, access: access) {
            case .success(let prepared): will = prepared
            case .failure(let refusal): return .failure(refusal)
            }
        }
        let key = SessionKey(deviceID: deviceID, clientID: clientID)
        let expiry = min(packet.sessionExpiryInterval, configuration.sessionExpiryMaximum)
        let known = sessionIndex[key]
        if known == nil, sessionIndex.count >= configuration.sessionsMaximum { return .failure(quota) }
        // A session that is stored already has its place, also where this connection starts it anew.
        if expiry > 0, !(known.map { sessionTable[$0]!.isStored } ?? false) {
            guard devices[Int(device)].storedSessions < configuration.sessionsPerDeviceMaximum, storage == .open else {
                return .failure(quota)
            }
        }
        return .success(
            Client(key: key, device: device, access: access, will: will, isAssigned: isAssigned, expiry: expiry))
    }

    private func prepare(_ will: Will, access: AccessView) -> Result<StoredWill, ConnectRefusal> {
        let topic = ByteBuffer(string: will.topic)
        guard TopicName.flaw(in: topic, maximumLevels: configuration.maximumTopicLevels) == nil else {
            return .failure(ConnectRefusal(code: .topicNameInvalid, reason: .topicInvalid))
        }
        let levels = TopicPath.levels(of: topic)
        guard levels[0] != TopicPath.system, access.mayPublish(levels) else {
            return .failure(
                ConnectRefusal(
                    code: .notAuthorized, reason: .notAuthorized, text: "the access rules do not allow the will's topic"
                ))
        }
        guard !will.applicationProperties.declaresUTF8Payload || will.payload.isUTF8 else {
            return .failure(
                ConnectRefusal(
                    code: .payloadFormatInvalid, reason: .malformedPacket,
                    text: "the will's payload is declared as UTF-8 and is not"))
        }
        return .success(StoredWill(will))
    }

    func accessView(of device: DeviceHandle) -> AccessView {
        let state = devices[Int(device)]
        return AccessView(configuration.access, group: state.group, deviceID: state.id)
    }

    private mutating func accept(
        _ packet: Connect, _ client: Client, on connection: ConnectionID, now: BrokerTime,
        into output: inout BrokerOutput
    ) {
        let changesBefore = output.group.changes.count
        if let index = sessionIndex[client.key] {
            takeOver(index, cleanStart: packet.cleanStart, now: now, into: &output)
        }
        var isPresent = false
        if let index = sessionIndex[client.key] {
            // The sweep may not have come to a session whose time is over.
            let isOver = sessionTable[index]!.expiresAt.map { $0 <= now.monotonic } ?? false
            if packet.cleanStart || isOver {
                removeSession(index, now: now, into: &output)
            } else {
                isPresent = true
            }
        }
        let session: Int
        if let known = sessionIndex[client.key] {
            session = known
            resume(known, packet, client, now: now, into: &output)
        } else {
            session = addSession(packet, client, into: &output)
        }
        sessionTable[session]!.connection = connection
        if let will = client.will, sessionTable[session]!.isStored {
            output.group.append(.willSaved(sessionTable[session]!.id, will.will))
        }
        open(connection, packet, client, session: session, now: now)
        counters.connectionsAccepted += 1

        let connack = Packet.connack(connack(packet, client, isPresent: isPresent))
        let slot = Int(connection.slot)
        if output.group.changes.count > changesBefore {
            slots[slot].phase = .connecting
            sendCommitted(connack, slot: slot, into: &output)
        } else {
            slots[slot].phase = .open
            send(connack, slot: slot, into: &output)
        }
    }

    private mutating func open(
        _ connection: ConnectionID, _ packet: Connect, _ client: Client, session: Int, now: BrokerTime
    ) {
        var state = Connection(access: client.access)
        state.generation = connection.generation
        state.version = packet.version
        state.session = session
        state.device = client.device
        state.deviceID = client.key.deviceID
        state.keepAlive = Int64(keepAlive(of: packet)) * 1_500_000
        state.lastReceived = now.monotonic
        state.connectedAt = now.monotonic
        state.will = client.will
        state.window = min(Int(packet.receiveMaximum), configuration.inflightMaximum)
        state.maximumPacketSize = packet.maximumPacketSize.map(Int.init) ?? .max
        state.outgoingAliases = OutgoingAliases(
            maximum: Int(min(packet.topicAliasMaximum, configuration.topicAliasMaximum)))
        state.wantsProblemInformation = packet.requestProblemInformation
        slots[Int(connection.slot)] = state
        connectionCount += 1
    }

    /// Seconds; a 3.1.1 client cannot be told another value than its own.
    private func keepAlive(of packet: Connect) -> UInt16 {
        guard packet.version == .v5 else { return packet.keepAlive }
        return packet.keepAlive == 0
            ? configuration.keepAliveMaximum : min(packet.keepAlive, configuration.keepAliveMaximum)
    }

    private func connack(_ packet: Connect, _ client: Client, isPresent: Bool) -> ConnAck {
        var connack = ConnAck(sessionPresent: isPresent, reason: .success)
        guard packet.version == .v5 else { return connack }
        if client.expiry != packet.sessionExpiryInterval { connack.sessionExpiryInterval = client.expiry }
        connack.receiveMaximum = configuration.receiveMaximum
        connack.maximumPacketSize = UInt32(clamping: configuration.maximumPacketSize)
        if client.isAssigned { connack.assignedClientID = client.key.clientID }
        connack.topicAliasMaximum = configuration.topicAliasMaximum
        connack.retainAvailable = true
        connack.wildcardSubscriptionAvailable = true
        connack.subscriptionIdentifiersAvailable = true
        connack.sharedSubscriptionAvailable = true
        let keepAlive = keepAlive(of: packet)
        if keepAlive != packet.keepAlive { connack.serverKeepAlive = keepAlive }
        return connack
    }

    /// MQTT-3.1.4-3. A will with a delay is dropped when the new connection goes on with the session (3.1.3.2.2).
    private mutating func takeOver(
        _ session: Int, cleanStart: Bool, now: BrokerTime, into output: inout BrokerOutput
    ) {
        guard let connection = sessionTable[session]!.connection, let slot = slot(of: connection) else { return }
        let goesOn = !cleanStart && sessionTable[session]!.expiryInterval > 0
        if goesOn, let will = slots[slot].will, will.delay > 0 {
            slots[slot].will = nil
            stateWillRemoved(session, into: &output)
        }
        refuse(connection, reason: .sessionTakenOver, now: now, into: &output)
    }

    private mutating func addSession(_ packet: Connect, _ client: Client, into output: inout BrokerOutput) -> Int {
        let session = Session(
            id: nextSessionID, key: client.key, version: packet.version, expiryInterval: client.expiry,
            device: client.device, isStored: client.expiry > 0, isLocal: devices[Int(client.device)].isLocal)
        nextSessionID += 1
        if session.isStored {
            devices[Int(client.device)].storedSessions += 1
            output.group.append(.sessionSaved(session.record))
        }
        return insert(session)
    }

    private mutating func insert(_ session: Session) -> Int {
        let index: Int
        if let free = freeSessions.popLast() {
            sessionTable[free] = session
            index = free
        } else {
            sessionTable.append(session)
            index = sessionTable.count - 1
        }
        sessionIndex[session.key] = index
        devices[Int(session.device)].sessions += 1
        return index
    }

    /// A session that outlived its connection is always a stored one.
    private mutating func resume(
        _ index: Int, _ packet: Connect, _ client: Client, now: BrokerTime, into output: inout BrokerOutput
    ) {
        let before = sessionTable[index]!.record
        sessionTable[index]!.version = packet.version
        sessionTable[index]!.isLocal = devices[Int(client.device)].isLocal
        sessionTable[index]!.expiryInterval = client.expiry
        sessionTable[index]!.expiresAt = nil
        sessionTable[index]!.outgoing.rewind()
        // 3.1.3.2.2: the client is back before the delay is over. After a restart it may be back before the tick that publishes
        // a will which was due.
        if sessionTable[index]!.willDueAt <= now.monotonic {
            publishDelayedWill(index, now: now, into: &output)
        } else {
            takeDelayedWill(index, into: &output)
        }
        if sessionTable[index]!.isLocal != before.isLocal { reviewAccess(of: index, into: &output) }
        let record = sessionTable[index]!.record
        if record != before { output.group.append(.sessionSaved(record)) }
        output.group.append(.sessionDisconnected(record.id, at: nil))
    }

    /// The connection is no more; its session ends with it or begins to expire.
    mutating func end(slot: Int, publishWill: Bool, now: BrokerTime, into output: inout BrokerOutput) {
        takeLastMessages(slot: slot, now: now, into: &output)
        let will = slots[slot].will
        let index = slots[slot].session
        let device = slots[slot].device
        let generation = slots[slot].generation
        slots[slot] = .vacant
        slots[slot].generation = generation
        connectionCount -= 1

        sessionTable[index]!.connection = nil
        let expiry = sessionTable[index]!.expiryInterval
        if let will {
            if publishWill, will.delay > 0, expiry > 0 {
                delay(will, of: index, until: now.monotonic + will.delay)
            } else {
                stateWillRemoved(index, into: &output)
                if publishWill { publish(will, device: device, session: index, now: now, into: &output) }
            }
        }
        if expiry == 0 {
            removeSession(index, now: now, into: &output)
        } else {
            sessionTable[index]!.expiresAt =
                expiry == .max ? nil : now.monotonic + Int64(expiry) * 1_000_000
            output.group.append(
                .sessionDisconnected(sessionTable[index]!.id, at: now.gateway))
        }
    }

    /// A session that is not connected ends: its delayed will is due (MQTT-3.1.3.2.2), everything of it goes.
    mutating func removeSession(_ index: Int, now: BrokerTime, into output: inout BrokerOutput) {
        if sessionTable[index]!.delayedWill != nil { publishDelayedWill(index, now: now, into: &output) }
        let session = sessionTable[index]!
        for state in session.subscriptions.values { tree.remove(state.filter, session: index) }
        if session.isStored {
            output.group.append(.sessionRemoved(session.id))
            devices[Int(session.device)].storedSessions -= 1
        }
        devices[Int(session.device)].sessions -= 1
        counters.dropped[.sessionEnded] += UInt64(session.outgoing.count)
        sessionIndex[session.key] = nil
        sessionTable[index] = nil
        freeSessions.append(index)
    }

    mutating func receivedDisconnect(
        _ packet: Disconnect, slot: Int, now: BrokerTime, into output: inout BrokerOutput
    ) {
        let connection = id(of: slot)
        let index = slots[slot].session
        if slots[slot].version == .v5, let wanted = packet.sessionExpiryInterval {
            let expiry = min(wanted, configuration.sessionExpiryMaximum)
            // 3.14.2.2.2: a session that was to end with its connection cannot be made to stay.
            if sessionTable[index]!.expiryInterval == 0, expiry > 0 {
                refuse(connection, reason: .protocolError, now: now, into: &output)
                return
            }
            if expiry != sessionTable[index]!.expiryInterval {
                sessionTable[index]!.expiryInterval = expiry
                if expiry > 0 { output.group.append(.sessionSaved(sessionTable[index]!.record)) }
            }
        }
        output.actions.append(.close(connection, .clientDisconnected))
        // MQTT-3.1.2-10: only a normal DISCONNECT discards the will.
        end(slot: slot, publishWill: packet.reason != .success, now: now, into: &output)
    }

    /// A session found in the buffer at start.
    mutating func restore(_ stored: RestoredSession, now: BrokerTime) {
        let key = BytewiseString(stored.record.key.deviceID)
        // What was stored is taken even beyond the bounds of a configuration that has shrunk since.
        let device = deviceHandles[key] ?? addDevice(key, isLocal: stored.record.isLocal, now: now)
        var session = Session(
            id: stored.record.id, key: stored.record.key, version: stored.record.version,
            expiryInterval: stored.record.expiryInterval, device: device, isStored: true,
            isLocal: stored.record.isLocal)
        for id in stored.receivedPacketIDs { session.received.insert(id) }
        for record in stored.queue {
            session.outgoing.restore(record, mayBeSent: stored.disconnectedAt == nil)
        }
        let lifetime = Int64(stored.record.expiryInterval) * 1_000_000
        // A file from which the last stamps are missing must not prolong it beyond a full lifetime.
        let passed = stored.disconnectedAt.map { max(0, now.gateway - $0) } ?? 0
        session.expiresAt = stored.record.expiryInterval == .max ? nil : now.monotonic + max(0, lifetime - passed)
        let index = insert(session)
        devices[Int(device)].storedSessions += 1
        if let will = stored.will.map(StoredWill.init) {
            delay(will, of: index, until: now.monotonic + max(0, will.delay - passed))
        }
        if stored.disconnectedAt == nil { lostAtRestart.append(index) }
        for restored in stored.subscriptions {
            add(restored.subscription, identifier: restored.identifier, session: index)
        }
    }
}

extension ByteBuffer {
    /// A copy of the readable bytes alone, so that what is kept does not keep the buffer it was read in.
    var compacted: ByteBuffer {
        guard readableBytes > 0 else { return ByteBuffer() }
        var copy = ByteBuffer()
        copy.reserveCapacity(readableBytes)
        copy.writeImmutableBuffer(self)
        return copy
    }
}
