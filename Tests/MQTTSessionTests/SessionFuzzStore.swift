import MQTTWire
import NIOCore

@testable import MQTTSession

/// What must hold and does not.
struct Violation: Error, CustomStringConvertible {
    let description: String

    static func unless(_ condition: Bool, _ what: @autoclosure () -> String) throws(Violation) {
        if !condition { throw Violation(description: what()) }
    }
}

/// Durable state as the buffer keeps it, for any script: a change that does not fit to what is there is a violation.
struct FuzzStore {
    private(set) var sessions: [SessionID: RestoredSession] = [:]
    private(set) var retained: [ByteBuffer: StoredPublish] = [:]
    /// Of this life of the process: an effect that still names a session must not find another under its id.
    private var usedIDs: Set<SessionID> = []
    private var refusals: [String: RefusalRecord] = [:]

    private var state: RestoredState {
        RestoredState(
            sessions: sessions.values.sorted { $0.record.id < $1.record.id },
            retained: retained.values.sorted {
                $0.topic.readableBytesView.lexicographicallyPrecedes($1.topic.readableBytesView)
            }, refusals: refusals.values.sorted { $0.device < $1.device })
    }

    /// What a new process finds.
    mutating func restart() -> RestoredState {
        usedIDs = []
        return state
    }

    mutating func apply(_ changes: [DurableChange]) throws(Violation) {
        for change in changes { try apply(change) }
    }

    private mutating func apply(_ change: DurableChange) throws(Violation) {
        switch change {
        case .sessionSaved(let record): try save(record)
        case .sessionRemoved(let id): try Violation.unless(sessions.removeValue(forKey: id) != nil, "\(change)")
        case .retained(let message): retained[message.topic] = message
        case .retainedRemoved(let topic):
            try Violation.unless(retained.removeValue(forKey: topic) != nil, "\(change): there is none")
        case .refusalsCounted(let record): refusals[record.device] = record
        case .refusalsForgotten(let device): refusals[device] = nil
        case .sessionDisconnected(let id, _), .subscriptionSaved(let id, _, _), .subscriptionRemoved(let id, _),
            .queued(let id, _, _, _), .stageChanged(let id, _, _, _), .dequeued(let id, _),
            .packetIDReceived(let id, _), .packetIDReleased(let id, _), .willSaved(let id, _), .willRemoved(let id):
            guard var session = sessions[id] else { throw Violation(description: "\(change): no such session") }
            sessions[id] = nil
            try Self.apply(change, to: &session)
            sessions[id] = session
        }
    }

    private mutating func save(_ record: SessionRecord) throws(Violation) {
        if sessions[record.id] == nil {
            try Violation.unless(usedIDs.insert(record.id).inserted, "\(record): its id was another's")
            let others = sessions.values.filter { $0.record.key == record.key }
            try Violation.unless(others.isEmpty, "\(record): its key is another's")
            sessions[record.id] = RestoredSession(record: record)
        }
        sessions[record.id]?.record = record
    }

    private static func apply(_ change: DurableChange, to session: inout RestoredSession) throws(Violation) {
        switch change {
        case .sessionDisconnected(_, let at): session.disconnectedAt = at
        case .subscriptionSaved(_, let subscription, let identifier):
            session.subscriptions.removeAll { $0.subscription.filter == subscription.filter }
            session.subscriptions.append(RestoredSubscription(subscription: subscription, identifier: identifier))
        case .subscriptionRemoved(_, let filter):
            let before = session.subscriptions.count
            session.subscriptions.removeAll { $0.subscription.filter == filter }
            try Violation.unless(session.subscriptions.count == before - 1, "\(change)")
        case .packetIDReceived(_, let id):
            try Violation.unless(!session.receivedPacketIDs.contains(id), "\(change): it is there")
            session.receivedPacketIDs.append(id)
        case .packetIDReleased(_, let id):
            try Violation.unless(session.receivedPacketIDs.contains(id), "\(change): it is not there")
            session.receivedPacketIDs.removeAll { $0 == id }
        case .willSaved(_, let will): session.will = will
        case .willRemoved:
            try Violation.unless(session.will != nil, "\(change): there is none")
            session.will = nil
        default: try applyToQueue(change, &session)
        }
    }

    private static func applyToQueue(_ change: DurableChange, _ session: inout RestoredSession) throws(Violation) {
        switch change {
        case .queued(_, let order, let message, let packetID):
            try Violation.unless(order > session.queue.last?.order ?? 0, "\(change): out of order")
            try Violation.unless(
                packetID == 0 || !session.queue.contains { $0.packetID == packetID }, "\(change): the id is in use")
            session.queue.append(
                QueuedRecord(order: order, message: message, stage: packetID == 0 ? .queued : .sent, packetID: packetID)
            )
        case .stageChanged(_, let order, let stage, let packetID):
            guard let index = session.queue.firstIndex(where: { $0.order == order }) else {
                throw Violation(description: "\(change): not in the queue")
            }
            try Violation.unless(session.queue[index].stage.rawValue < stage.rawValue, "\(change): backwards")
            try Violation.unless(
                !session.queue.contains { $0.packetID == packetID && $0.order != order }, "\(change): the id is in use")
            session.queue[index].stage = stage
            session.queue[index].packetID = packetID
        case .dequeued(_, let order):
            let before = session.queue.count
            session.queue.removeAll { $0.order == order }
            try Violation.unless(session.queue.count == before - 1, "\(change): not in the queue")
        default: throw Violation(description: "\(change) is not known here")
        }
    }
}
