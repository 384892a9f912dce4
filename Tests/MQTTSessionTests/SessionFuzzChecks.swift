import MQTTWire
import NIOCore

@testable import MQTTSession

/// What holds after every event, whatever came before.
extension SessionFuzz {
    func checkState() throws(Violation) {
        try checkConnections()
        try checkSessions()
        try checkRoutes()
        if writing == nil, output.group.isEmpty { try compareWithStore() }
    }

    private var effects: [CommitEffect] { (writing?.effects ?? []) + output.group.effects }

    private func checkConnections() throws(Violation) {
        var waiting: [ConnectionID: Int] = [:]
        var answers: [ConnectionID: Int] = [:]
        for effect in effects {
            switch effect {
            case .pubrec(let c, _):
                waiting[c, default: 0] += 1
                answers[c, default: 0] += 1
            case .puback(let c, _), .pubcomp(let c, _), .send(let c, _), .deliver(let c, _):
                waiting[c, default: 0] += 1
            case .route: break
            }
        }
        var count = 0
        for slot in broker.slots.indices where broker.slots[slot].phase != .vacant {
            let connection = broker.slots[slot]
            let id = broker.id(of: slot)
            count += 1
            try Violation.unless(clients[id] != nil, "slot \(slot) is of a connection that is closed")
            try Violation.unless(
                connection.pendingEffects == waiting[id, default: 0],
                "slot \(slot) counts \(connection.pendingEffects) effects, there are \(waiting[id, default: 0])")
            let unanswered = answers[id, default: 0]
            try Violation.unless(
                connection.unanswered == unanswered,
                "slot \(slot) counts \(connection.unanswered) unanswered, there are \(unanswered)")
            try Violation.unless(connection.unreleased >= 0, "slot \(slot): \(connection.unreleased) unreleased")
            try Violation.unless(
                connection.held.count <= Self.heldMaximum * Broker.heldOverrun, "slot \(slot) holds too many")
            try Violation.unless(
                broker.sessionTable[connection.session]?.connection == id, "slot \(slot) is not its session's")
            try Violation.unless(connection.outgoingAliases.maximum <= 2, "slot \(slot): aliases")
        }
        try Violation.unless(
            count == broker.connectionCount, "\(broker.connectionCount) connections, there are \(count)")
    }

    private func checkSessions() throws(Violation) {
        var stored: [Int: Int] = [:]
        var subscriptions = 0
        var wills = 0
        var count = 0
        for index in broker.sessionTable.indices {
            guard let session = broker.sessionTable[index] else { continue }
            count += 1
            subscriptions += session.subscriptions.count
            if session.delayedWill != nil { wills += 1 }
            if session.isStored { stored[Int(session.device), default: 0] += 1 }
            let reserved = broker.routes.reduce(0) { sum, route in
                sum + route.targets.count { $0.sessionID == session.id && $0.order != 0 }
            }
            let queue = session.outgoing
            try Violation.unless(
                queue.count == queue.inflight.count + queue.waiting.count + reserved,
                "session \(index): count \(queue.count), \(queue.inflight.count) in flight, \(queue.waiting.count) waiting, \(reserved) reserved"
            )
            try Violation.unless(queue.sent <= queue.inflight.count, "session \(index): sent more than is in flight")
            try Violation.unless(queue.bytes >= 0, "session \(index): \(queue.bytes) bytes")
            try Violation.unless(
                queue.count <= Self.queuedMaximum && queue.bytes <= Self.queuedBytesMaximum,
                "session \(index): the queue exceeds its bound")
            try Violation.unless(
                session.subscriptions.count <= Self.subscriptionsMaximum, "session \(index): too many subscriptions")
            try Violation.unless(
                session.connection != nil || session.isStored, "session \(index) outlives its connection")
        }
        try Violation.unless(
            count == broker.sessionIndex.count && count <= Self.sessionsMaximum, "\(count) sessions")
        try Violation.unless(broker.tree.count == subscriptions, "\(broker.tree.count) in the tree, \(subscriptions)")
        try Violation.unless(broker.delayedWills == wills, "\(broker.delayedWills) delayed wills, there are \(wills)")
        for index in broker.devices.indices {
            try Violation.unless(broker.devices[index].storedSessions == stored[index, default: 0], "device \(index)")
        }
    }

    private func checkRoutes() throws(Violation) {
        var next = broker.firstRoute
        for case .route(let id) in effects {
            try Violation.unless(id == next, "route \(id) where \(next) is due")
            next += 1
        }
        try Violation.unless(
            next == broker.firstRoute + RouteID(broker.routes.count), "\(broker.routes.count) routes, but other effects"
        )
        for index in broker.devices.indices {
            let pending = broker.routes.count { $0.device.map(Int.init) == index }
            try Violation.unless(broker.devices[index].pendingRoutes == pending, "device \(index): routes")
        }
        let changes = broker.routes.count { $0.changesRetained }
        try Violation.unless(broker.uncommittedRetained == changes, "uncommitted retained")
        try Violation.unless(
            broker.retained.byteCount >= 0 && broker.retainedCount <= Self.retainedMaximum, "retained messages")
    }

    /// Nothing waits for a commit: memory and disk say the same.
    private func compareWithStore() throws(Violation) {
        try Violation.unless(broker.retainedCount == store.retained.count, "retained in memory and on the disk")
        let stored = broker.sessionTable.compactMap { $0 }.filter(\.isStored)
        try Violation.unless(stored.count == store.sessions.count, "\(stored.count) stored, \(store.sessions.count)")
        for session in stored {
            guard let record = store.sessions[session.id] else {
                throw Violation(description: "session \(session.key) is not on the disk")
            }
            try Violation.unless(record.record == session.record, "\(record.record) on the disk, \(session.record)")
            let subscriptions = session.subscriptions.values
            let isSame =
                subscriptions.count == record.subscriptions.count
                && record.subscriptions.allSatisfy { entry in
                    subscriptions.contains {
                        $0.subscription == entry.subscription && $0.identifier == entry.identifier
                    }
                }
            try Violation.unless(isSame, "\(session.key): subscriptions")
            let ids = record.receivedPacketIDs
            try Violation.unless(
                session.received.count == ids.count && ids.allSatisfy(session.received.contains),
                "\(session.key): received ids")
            let entries = session.outgoing.inflight + session.outgoing.waiting
            try Violation.unless(
                entries.map(\.order).sorted() == record.queue.map(\.order)
                    && entries.allSatisfy { entry in
                        record.queue.contains {
                            $0.order == entry.order && $0.packetID == entry.packetID && $0.stage == entry.stage
                        }
                    }, "\(session.key): the queue")
            let will = session.delayedWill ?? session.connection.flatMap { broker.slots[Int($0.slot)].will }
            try Violation.unless((will == nil) == (record.will == nil), "\(session.key): the will")
            if broker.lostAtRestart.isEmpty {
                try Violation.unless(
                    (session.connection == nil) == (record.disconnectedAt != nil), "\(session.key): its end")
            }
        }
    }
}
