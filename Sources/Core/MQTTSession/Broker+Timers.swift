import MQTTWire
import NIOCore
import SyncModel

extension Broker {
    /// Microseconds between two looks at what expires in seconds.
    private static let sweepInterval: Int64 = 1_000_000
    private static let retainedSweepInterval: Int64 = 10_000_000

    /// Everything that time alone brings about. To be called about every 250 ms, and at `nextDeadline`.
    package mutating func tick(now: BrokerTime, into output: inout BrokerOutput) {
        if !lostAtRestart.isEmpty { stateLostAtRestart(now: now, into: &output) }
        if mustReviewAccess {
            mustReviewAccess = false
            reviewAccess(into: &output)
        }
        freeForgottenDevices(output.group)
        endSilent(now: now, into: &output)
        releaseHeld(now: now, into: &output)
        if now.monotonic >= nextWill { publishDueWills(now: now, into: &output) }
        if now.monotonic >= nextSessionSweep {
            nextSessionSweep = now.monotonic + Self.sweepInterval
            expireSessions(now: now, into: &output)
        }
        if now.monotonic >= nextRetainedSweep {
            nextRetainedSweep = now.monotonic + Self.retainedSweepInterval
            expireRetained(now: now, into: &output)
        }
        meter(now: now, into: &output)
        if let interval = configuration.systemTopicsInterval, now.monotonic >= nextSystemReport {
            nextSystemReport = now.monotonic + Int64(interval) * 1_000_000
            publishSystemTopics(now: now, into: &output)
        }
    }

    /// When the earliest held message may be admitted; microseconds on the monotonic clock.
    package var nextDeadline: Int64? {
        var earliest: Int64?
        for connection in holding {
            guard let slot = slot(of: connection), !slots[slot].held.isEmpty, let until = slots[slot].heldUntil else {
                continue
            }
            earliest = min(earliest ?? until, until)
        }
        return earliest
    }

    /// The driver reads no socket now, because the writer has fallen behind: what the clients have sent is not known, so no
    /// keep-alive runs. Called at each tick while it lasts.
    package mutating func inputIsHeld(now: BrokerTime) {
        for slot in slots.indices where slots[slot].phase != .vacant { slots[slot].lastReceived = now.monotonic }
    }

    /// MQTT-3.1.2-22, with the clock stopped while this side does not read; and 3.1.1 clients with messages that were ignored.
    private mutating func endSilent(now: BrokerTime, into output: inout BrokerOutput) {
        for slot in slots.indices where slots[slot].phase != .vacant {
            if slots[slot].keepAlive > 0, !slots[slot].isPaused,
                now.monotonic - slots[slot].lastReceived > slots[slot].keepAlive
            {
                refuse(id(of: slot), reason: .keepAliveTimeout, now: now, into: &output)
            } else if slots[slot].ignored > 0,
                now.monotonic - slots[slot].ignoredSince >= Self.ignoredMessagesTime
            {
                refuse(id(of: slot), reason: slots[slot].ignoredReason, now: now, into: &output)
            }
        }
    }

    /// Their expiry counts from this start; stated once, so that restarts in a row do not prolong it.
    private mutating func stateLostAtRestart(now: BrokerTime, into output: inout BrokerOutput) {
        for index in lostAtRestart {
            guard let session = sessionTable[index], session.connection == nil else { continue }
            output.group.append(.sessionDisconnected(session.id, at: now.gateway))
        }
        lostAtRestart = []
    }

    private mutating func expireSessions(now: BrokerTime, into output: inout BrokerOutput) {
        for index in sessionTable.indices {
            guard let expiresAt = sessionTable[index]?.expiresAt, expiresAt <= now.monotonic else { continue }
            counters.sessionsExpired += 1
            removeSession(index, now: now, into: &output)
        }
    }

    private mutating func expireRetained(now: BrokerTime, into output: inout BrokerOutput) {
        for topic in retained.expired(at: now.gateway) where retained.remove(topic) {
            output.group.append(.retainedRemoved(topic: topic))
        }
    }
}
