import Flow
import SyncModel

/// What a device does, for those who look at it from outside.
package struct DeviceSnapshot: Sendable, Equatable {
    package struct Client: Sendable, Equatable {
        package var id: String
        /// Microseconds on the monotonic clock.
        package var connectedAt: Int64
        package var isPaused: Bool
        package var heldMessages: Int
    }

    package var id: String
    package var group: String?
    /// Its open connections.
    package var clients: [Client]
    package var lastTenSeconds: RateMeter.Rate
    package var lastMinute: RateMeter.Rate
    /// Messages a second in the minutes in which it sends; 0 before the first.
    package var usualRate: Double
    /// It sends far more than usual.
    package var isUnusual: Bool
    package var overLimit: OverLimit
    /// It was over its limits within the last minute.
    package var isLimited: Bool
    package var refused: CaseCounts<RefusalReason>
}

/// Rates of devices, and their refusals.
extension Broker {
    /// Microseconds for which a device that was over its limits counts as limited.
    static let limitedTime: Int64 = 60_000_000
    /// Microseconds from one storing of the refusals to the next.
    static let tallyInterval: Int64 = 60_000_000

    mutating func countRefusal(_ reason: RefusalReason, of device: DeviceHandle, now: BrokerTime) {
        counters.refused[reason] += 1
        tallies.count(reason, of: devices[Int(device)].id, at: now.monotonic)
    }

    /// The tick's part.
    mutating func meter(now: BrokerTime, into output: inout BrokerOutput) {
        if now.monotonic >= nextTally {
            nextTally = now.monotonic + Self.tallyInterval
            storeTallies(into: &output)
        }
        let elapsed = now.monotonic - lastSample
        guard elapsed >= RateMeter.interval else { return }
        lastSample = now.monotonic
        meter.sample(messages: counters.received.reduce(0, &+), bytes: offeredBytes, elapsed: elapsed)
        (limitedDevices, unusualDevices) = (0, 0)
        for index in devices.indices {
            devices[index].meter.sample(
                messages: devices[index].offeredMessages, bytes: devices[index].offeredBytes, elapsed: elapsed)
            if devices[index].isLimited(at: now.monotonic) { limitedDevices += 1 }
            if devices[index].meter.usual.isExceeded { unusualDevices += 1 }
        }
    }

    mutating func storeTallies(into output: inout BrokerOutput) {
        for change in tallies.takeChanges() { output.group.append(change) }
    }

    /// Devices that are connected, limited or unusual, in no order.
    package func deviceSnapshots(now: BrokerTime) -> [DeviceSnapshot] {
        var clients: [DeviceHandle: [DeviceSnapshot.Client]] = [:]
        for slot in slots.indices where slots[slot].phase != .vacant {
            clients[slots[slot].device, default: []].append(
                DeviceSnapshot.Client(
                    id: sessionTable[slots[slot].session]?.key.clientID ?? "", connectedAt: slots[slot].connectedAt,
                    isPaused: slots[slot].isPaused, heldMessages: slots[slot].held.count))
        }
        return deviceHandles.values.compactMap { handle in
            let device = devices[Int(handle)]
            let isLimited = device.isLimited(at: now.monotonic)
            guard clients[handle] != nil || isLimited || device.meter.usual.isExceeded else { return nil }
            return DeviceSnapshot(
                id: device.id, group: device.group, clients: clients[handle] ?? [],
                lastTenSeconds: device.meter.lastTenSeconds, lastMinute: device.meter.lastMinute,
                usualRate: device.meter.usual.average, isUnusual: device.meter.usual.isExceeded,
                overLimit: device.overLimit, isLimited: isLimited, refused: tallies[device.id])
        }
    }
}

extension DeviceSnapshot {
    package var needsAttention: Bool { isLimited || isUnusual }
}

extension DeviceState {
    func isLimited(at now: Int64) -> Bool { lastOver.map { now - $0 < Broker.limitedTime } ?? false }
}
