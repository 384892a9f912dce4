import DequeModule
import MQTTWire
import NIOCore
import SyncModel

/// What the first of a connection's held messages waits for.
enum HeldReason {
    /// Until then; microseconds on the monotonic clock. `nil`: no time can be told, it is tried at every tick.
    case time(Int64?)
    /// The open group is at its bound: until the writer has taken it.
    case room
}

/// Messages that are not taken yet: over a rate under `slow`, or because the writer has fallen behind. They wait in order, in
/// a window bounded in number and bytes; only beyond it is the socket not read. Until then pings are answered.
extension Broker {
    /// What a driver may still hand in after `pauseReading`, as a multiple of the window: what it had read by then.
    static let heldOverrun = 64
    /// What a held message costs beside its bytes.
    private static let heldOverhead = 256

    /// The open group is at its bound: what would go into it waits.
    func isSaturated(_ group: CommitGroup) -> Bool {
        group.byteCount > configuration.openGroupBytesMaximum
            || group.entryCount > configuration.openGroupEntriesMaximum
    }

    /// The open group is worth its writes, and waiting for more would soon make clients wait.
    package func isLarge(_ group: CommitGroup) -> Bool {
        group.byteCount > configuration.openGroupBytesMaximum / 2
            || group.entryCount > configuration.openGroupEntriesMaximum / 2
    }

    mutating func enqueue(_ reason: HeldReason, slot: Int) {
        switch reason {
        case .time(let until):
            slots[slot].heldUntil = until
            slots[slot].waitsForRoom = false
            holding.append(id(of: slot))
        case .room:
            slots[slot].heldUntil = nil
            slots[slot].waitsForRoom = true
            listForRoom(slot)
        }
    }

    private mutating func listForRoom(_ slot: Int) {
        guard !slots[slot].isListedForRoom else { return }
        slots[slot].isListedForRoom = true
        waitingForRoom.append(id(of: slot))
    }

    mutating func hold(_ packet: Publish, slot: Int, now: BrokerTime, into output: inout BrokerOutput) {
        let connection = id(of: slot)
        guard slots[slot].held.count < configuration.heldMessagesMaximum * Self.heldOverrun else {
            countRefusal(.heldFull, of: slots[slot].device, now: now)
            if packet.qos == .atMostOnce { counters.refusedSilently += 1 }
            refuse(connection, reason: .rateTooHigh, now: now, into: &output)
            return
        }
        // It may wait for long, and must not keep the buffer that it was read in.
        var packet = packet
        packet.topic = packet.topic.compacted
        packet.payload = packet.payload.compacted
        packet.applicationProperties = packet.applicationProperties.compacted
        slots[slot].held.append(packet)
        slots[slot].heldBytes += Self.weight(packet)
        heldBytes += Self.weight(packet)
        counters.held += 1
        let isBeyond =
            slots[slot].held.count >= configuration.heldMessagesMaximum
            || slots[slot].heldBytes > configuration.heldBytesMaximum || heldBytes > configuration.allHeldBytesMaximum
        if isBeyond, !slots[slot].isPaused {
            slots[slot].isPaused = true
            output.actions.append(.pauseReading(connection))
        }
    }

    /// SUBSCRIBE, PUBREL and the like do not wait in the window, since they are small and mostly end something. A client that
    /// puts more of them into a group at its bound than a window of exchanges would is not read until there is room, so
    /// that nobody else suffers; one that keeps to its receive maximum never comes that far.
    mutating func boundWhatIsNotHeld(
        _ connection: ConnectionID, entries: Int, bytes: Int, into output: inout BrokerOutput
    ) {
        guard entries > 0, let slot = slot(of: connection) else { return }
        guard isSaturated(output.group) else {
            slots[slot].entriesBeyondBound = 0
            slots[slot].bytesBeyondBound = 0
            return
        }
        slots[slot].entriesBeyondBound += entries
        slots[slot].bytesBeyondBound += bytes
        // An exchange has two: a change and its effect.
        let isBeyond =
            slots[slot].entriesBeyondBound >= 2 * configuration.heldMessagesMaximum
            || slots[slot].bytesBeyondBound > configuration.heldBytesMaximum
        guard isBeyond, !slots[slot].isPaused else { return }
        slots[slot].isPaused = true
        output.actions.append(.pauseReading(connection))
        // Who holds messages is woken for them.
        if slots[slot].held.isEmpty { listForRoom(slot) }
    }

    /// The driver has given the open group to the writer: those that waited for room go on, in turn, as far as it reaches.
    package mutating func groupTaken(now: BrokerTime, into output: inout BrokerOutput) {
        freeForgottenDevices(output.group)
        var count = waitingForRoom.count
        while count > 0, !isSaturated(output.group), let connection = waitingForRoom.popFirst() {
            count -= 1
            guard let slot = slot(of: connection) else { continue }
            slots[slot].isListedForRoom = false
            guard slots[slot].held.isEmpty ? slots[slot].isPaused : slots[slot].waitsForRoom else { continue }
            releaseHeld(slot: slot, now: now, into: &output)
        }
    }

    /// The tick's part: those whose time has come.
    mutating func releaseHeld(now: BrokerTime, into output: inout BrokerOutput) {
        if !waitingForRoom.isEmpty { groupTaken(now: now, into: &output) }
        guard !holding.isEmpty else { return }
        let waiting = holding
        holding.removeAll(keepingCapacity: true)
        for connection in waiting {
            guard let slot = slot(of: connection), !slots[slot].held.isEmpty else { continue }
            if slots[slot].heldUntil.map({ $0 <= now.monotonic }) ?? true {
                releaseHeld(slot: slot, now: now, into: &output)
            } else {
                holding.append(connection)
            }
        }
    }

    /// Offers held messages again, in order, until one has to wait on.
    private mutating func releaseHeld(slot: Int, now: BrokerTime, into output: inout BrokerOutput) {
        release: while let packet = slots[slot].held.first {
            switch offer(packet, slot: slot, now: now, into: &output) {
            case .done:
                slots[slot].held.removeFirst()
                slots[slot].heldBytes -= Self.weight(packet)
                heldBytes -= Self.weight(packet)
            case .closed: return
            case .wait(let reason):
                enqueue(reason, slot: slot)
                break release
            }
        }
        if slots[slot].isPaused, mayReadOn(slot) {
            slots[slot].isPaused = false
            slots[slot].entriesBeyondBound = 0
            slots[slot].bytesBeyondBound = 0
            slots[slot].lastReceived = now.monotonic
            output.actions.append(.resumeReading(id(of: slot)))
        }
    }

    /// What a client leaves behind: QoS 0 that was received and held is taken now, in debt to its rate, since nobody will
    /// send it again. What has a higher QoS was not acknowledged: the client still has it.
    mutating func takeLastMessages(slot: Int, now: BrokerTime, into output: inout BrokerOutput) {
        guard !slots[slot].held.isEmpty else { return }
        heldBytes -= slots[slot].heldBytes
        slots[slot].heldBytes = 0
        var left: Deque<Publish> = []
        swap(&left, &slots[slot].held)
        for packet in left where packet.qos == .atMostOnce {
            guard !takeLast(packet, slot: slot, now: now, into: &output) else { continue }
            countRefusal(slots[slot].waitsForRoom ? .heldFull : .rate, of: slots[slot].device, now: now)
            counters.refusedSilently += 1
        }
    }

    private func mayReadOn(_ slot: Int) -> Bool {
        slots[slot].held.isEmpty
            || (slots[slot].held.count < (configuration.heldMessagesMaximum + 1) / 2
                && slots[slot].heldBytes <= configuration.heldBytesMaximum / 2
                && heldBytes <= configuration.allHeldBytesMaximum / 2)
    }

    private static func weight(_ packet: Publish) -> Int {
        packet.topic.readableBytes + packet.payload.readableBytes + packet.applicationProperties.readableBytes
            + heldOverhead
    }
}
