import MQTTWire
import NIOCore
import SyncModel

extension Broker {
    /// A will is a message of its device like any other, but that nobody waits for its acknowledgement and no rate holds it:
    /// what was allowed at CONNECT is published, unless the rules have changed or there is no room for it.
    mutating func publish(
        _ will: StoredWill, device: DeviceHandle, session: Int, now: BrokerTime, into output: inout BrokerOutput
    ) {
        let levels = TopicPath.levels(of: will.publish.topic)
        guard accessView(of: device).mayPublish(levels) else {
            counters.refused[.will] += 1
            return
        }
        let isUplink = isUplink(levels)
        let matches = tree.match(levels, publisher: session)
        let needsStorage =
            isUplink || will.publish.retain || (will.publish.qos != .atMostOnce && reachesStored(matches))
        if needsStorage, storage == .full {
            counters.refused[.storageFull] += 1
            counters.refusedSilently += 1
            return
        }
        if will.publish.retain, !hasRoomToRetain(will.publish) {
            counters.refused[.retainedFull] += 1
            counters.refusedSilently += 1
            return
        }
        counters.willsPublished += 1
        accept(
            will.publish, isUplink: isUplink, matches: matches, device: device, isWill: true, acknowledgement: nil,
            now: now, into: &output)
    }

    mutating func publishDelayedWill(_ session: Int, now: BrokerTime, into output: inout BrokerOutput) {
        guard let will = sessionTable[session]!.delayedWill else { return }
        sessionTable[session]!.delayedWill = nil
        delayedWills -= 1
        publish(will, device: sessionTable[session]!.device, session: session, now: now, into: &output)
    }
}
