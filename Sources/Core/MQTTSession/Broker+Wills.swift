import MQTTWire
import NIOCore
import SyncModel

extension Broker {
    /// A will is a message of its device like any other, but that nobody waits for its acknowledgement and no rate holds it:
    /// what was allowed at CONNECT is published, unless the rules have changed or there is no room for it.
    mutating func publish(
        _ will: StoredWill, device: DeviceHandle, session: Int, now: BrokerTime, into output: inout BrokerOutput
    ) {
        let message = will.publish
        let levels = TopicPath.levels(of: message.topic)
        guard accessView(of: device).mayPublish(levels) else {
            countRefusal(.will, of: device, now: now)
            return
        }
        let uplink = uplink(levels)
        let matches = self.matches(levels, publisher: session)
        let needsStorage =
            uplink != nil || message.retain || (message.qos != .atMostOnce && reachesStored(matches))
        if needsStorage, storage == .full {
            countRefusal(.storageFull, of: device, now: now)
            counters.refusedSilently += 1
            return
        }
        if message.retain, !hasRoomToRetain(message) {
            countRefusal(.retainedFull, of: device, now: now)
            counters.refusedSilently += 1
            return
        }
        counters.willsPublished += 1
        accept(
            message, uplink: uplink, matches: matches, device: device, isWill: true, acknowledgement: nil,
            now: now, into: &output)
    }

    mutating func publishDueWills(now: BrokerTime, into output: inout BrokerOutput) {
        nextWill = .max
        guard delayedWills > 0 else { return }
        for index in sessionTable.indices {
            guard let due = sessionTable[index]?.willDueAt, due < .max else { continue }
            if due <= now.monotonic {
                publishDelayedWill(index, now: now, into: &output)
            } else {
                nextWill = min(nextWill, due)
            }
        }
    }

    mutating func publishDelayedWill(_ session: Int, now: BrokerTime, into output: inout BrokerOutput) {
        guard let will = takeDelayedWill(session, into: &output) else { return }
        publish(will, device: sessionTable[session]!.device, session: session, now: now, into: &output)
    }

    /// Takes away the will that waits for its delay, if there is one.
    @discardableResult
    mutating func takeDelayedWill(_ session: Int, into output: inout BrokerOutput) -> StoredWill? {
        guard let will = sessionTable[session]!.delayedWill else { return nil }
        sessionTable[session]!.delayedWill = nil
        sessionTable[session]!.willDueAt = .max
        delayedWills -= 1
        stateWillRemoved(session, into: &output)
        return will
    }

    /// A will that waits for its delay, or for the first tick after a restart that its connection did not outlive.
    mutating func delay(_ will: StoredWill, of session: Int, until due: Int64) {
        sessionTable[session]!.delayedWill = will
        sessionTable[session]!.willDueAt = due
        nextWill = min(nextWill, due)
        delayedWills += 1
    }

    func stateWillRemoved(_ session: Int, into output: inout BrokerOutput) {
        if sessionTable[session]!.isStored {
            output.group.append(.willRemoved(sessionTable[session]!.id))
        }
    }
}
