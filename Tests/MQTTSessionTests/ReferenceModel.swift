import MQTTWire

/// MQTT sessions once more, as simply as they can be told: arrays, no index, every filter tried on every topic. It says what
/// each session is owed; in which order, when and how often something is sent is the broker's business.
struct ReferenceModel {
    struct Filter: Equatable {
        var filter: String
        var qos: QoS
        var noLocal = false
        var retainAsPublished = false
        var identifier: UInt32?

        var share: String? {
            filter.hasPrefix("$share/") ? String(filter.split(separator: "/", maxSplits: 2)[1]) : nil
        }
        /// Without the share's name.
        var pattern: String {
            share == nil ? filter : String(filter.split(separator: "/", maxSplits: 2)[2])
        }
    }

    struct PendingWill {
        var message: Message
        /// Seconds.
        var delay: Int64
        var expiry: Int64?
        /// Microseconds; `nil` while its connection stands.
        var due: Int64?
    }

    struct Session {
        let clientID: String
        /// Never used twice, not even after a crash.
        let instance: Int
        let isStored: Bool
        /// Seconds; `nil` never.
        var expiry: Int64?
        var slot: UInt32?
        /// Microseconds.
        var disconnectedAt: Int64?
        var expiresAt: Int64?
        var filters: [Filter] = []
        var will: PendingWill?
        /// QoS 2 ids between PUBLISH and PUBREL.
        var received: Set<UInt16> = []
    }

    struct Message {
        var topic: String
        var payload: String
        var qos: QoS
        var retain: Bool
        var expiresAt: Int64?
        /// For the order of one client's messages.
        var sender: String?
    }

    /// One copy of a message on its way to a session, or to one member of a shared subscription.
    struct Owed {
        struct Form: Hashable {
            var instance: Int
            var qos: QoS
            var retain: Bool
            var identifiers: [UInt32]
        }

        let number: Int
        let message: Message
        /// More than one: whoever of them it is, in the form that is theirs.
        let forms: [Form]
        let isRetainedCopy: Bool
    }

    private(set) var sessions: [Session] = []
    private(set) var retained: [Message] = []
    private(set) var owed: [Owed] = []

    // MARK: Topics

    /// 4.7, word for word.
    static func matches(_ pattern: String, _ topic: String) -> Bool {
        let pattern = pattern.split(separator: "/", omittingEmptySubsequences: false)
        let topic = topic.split(separator: "/", omittingEmptySubsequences: false)
        if topic[0].hasPrefix("$"), pattern[0] == "#" || pattern[0] == "+" { return false }
        return matches(pattern[...], topic[...])
    }

    private static func matches(_ pattern: ArraySlice<Substring>, _ topic: ArraySlice<Substring>) -> Bool {
        guard let first = pattern.first else { return topic.isEmpty }
        if first == "#" { return true }
        guard let level = topic.first, first == "+" || first == level else { return false }
        return matches(pattern.dropFirst(), topic.dropFirst())
    }

    // MARK: Messages

    /// - Parameter number: gives each copy a number that is never used again.
    mutating func route(_ message: Message, from sender: Int?, now: Int64, number: () -> Int) {
        if message.retain {
            retained.removeAll { $0.topic == message.topic }
            if !message.payload.isEmpty { retained.append(message) }
        }
        for session in sessions {
            let filters = session.filters.filter {
                $0.share == nil && Self.matches($0.pattern, message.topic)
                    && !($0.noLocal && session.instance == sender)
            }
            guard let qos = filters.map(\.qos).max() else { continue }
            let form = Owed.Form(
                instance: session.instance, qos: min(qos, message.qos),
                retain: message.retain && filters.contains(where: \.retainAsPublished),
                identifiers: filters.compactMap(\.identifier).sorted())
            owed.append(Owed(number: number(), message: message, forms: [form], isRetainedCopy: false))
        }
        for share in Set(sessions.flatMap(\.filters).filter { $0.share != nil }.map(\.filter)).sorted() {
            var forms: [Owed.Form] = []
            for session in sessions {
                guard let filter = session.filters.first(where: { $0.filter == share }),
                    Self.matches(filter.pattern, message.topic)
                else { continue }
                forms.append(
                    Owed.Form(
                        instance: session.instance, qos: min(filter.qos, message.qos),
                        retain: message.retain && filter.retainAsPublished,
                        identifiers: filter.identifier.map { [$0] } ?? []))
            }
            if !forms.isEmpty {
                owed.append(Owed(number: number(), message: message, forms: forms, isRetainedCopy: false))
            }
        }
    }

    /// - Returns: whether it is a new message and no repeat of a QoS 2 one.
    mutating func take(_ id: UInt16, qos: QoS, from clientID: String) -> Bool {
        guard qos == .exactlyOnce, let index = index(clientID) else { return true }
        return sessions[index].received.insert(id).inserted
    }

    mutating func release(_ id: UInt16, of clientID: String) {
        if let index = index(clientID) { sessions[index].received.remove(id) }
    }

    // MARK: Subscriptions

    mutating func subscribe(
        _ clientID: String, _ filter: Filter, handling: RetainHandling, now: Int64, number: () -> Int
    ) {
        guard let index = index(clientID) else { return }
        let isNew = !sessions[index].filters.contains { $0.filter == filter.filter }
        sessions[index].filters.removeAll { $0.filter == filter.filter }
        sessions[index].filters.append(filter)
        guard filter.share == nil, handling == .send || (handling == .sendIfNew && isNew) else { return }
        for message in retained where Self.matches(filter.pattern, message.topic) && (message.expiresAt ?? .max) > now {
            let form = Owed.Form(
                instance: sessions[index].instance, qos: min(filter.qos, message.qos), retain: true,
                identifiers: filter.identifier.map { [$0] } ?? [])
            owed.append(Owed(number: number(), message: message, forms: [form], isRetainedCopy: true))
        }
    }

    mutating func unsubscribe(_ clientID: String, _ filter: String) {
        if let index = index(clientID) { sessions[index].filters.removeAll { $0.filter == filter } }
    }

    // MARK: Connections

    func session(_ clientID: String) -> Session? { index(clientID).map { sessions[$0] } }

    private func index(_ clientID: String) -> Int? { sessions.firstIndex { $0.clientID == clientID } }

    /// - Returns: whether a session was there to go on with.
    mutating func connect(
        _ clientID: String, slot: UInt32, cleanStart: Bool, expiry: Int64?, will: PendingWill?, now: Int64,
        number: () -> Int
    ) -> Bool {
        if let old = session(clientID), old.slot != nil {
            // 3.1.3.2.2: a delayed will is not sent when the new connection goes on with the session.
            if !cleanStart, old.expiry != 0, old.will?.delay ?? 0 > 0 { sessions[index(clientID)!].will = nil }
            end(clientID, publishesWill: true, now: now, number: number)
        }
        if let old = session(clientID), cleanStart || (old.expiresAt ?? .max) <= now {
            remove(old.instance, now: now, number: number)
        }
        if let index = index(clientID) {
            sessions[index].slot = slot
            sessions[index].expiry = expiry
            sessions[index].expiresAt = nil
            sessions[index].disconnectedAt = nil
            sessions[index].will = will
            return true
        }
        sessions.append(
            Session(
                clientID: clientID, instance: number(), isStored: expiry != 0, expiry: expiry, slot: slot, will: will))
        return false
    }

    /// DISCONNECT with another expiry.
    mutating func setExpiry(_ clientID: String, _ expiry: Int64) {
        if let index = index(clientID) { sessions[index].expiry = expiry }
    }

    mutating func end(_ clientID: String, publishesWill: Bool, now: Int64, number: () -> Int) {
        guard let index = index(clientID) else { return }
        let instance = sessions[index].instance
        sessions[index].slot = nil
        sessions[index].disconnectedAt = now
        sessions[index].expiresAt = sessions[index].expiry.map { now + $0 * 1_000_000 }
        if let will = sessions[index].will {
            if publishesWill, will.delay > 0, sessions[index].expiry != 0 {
                sessions[index].will?.due = now + will.delay * 1_000_000
            } else {
                sessions[index].will = nil
                if publishesWill { publish(will, of: instance, now: now, number: number) }
            }
        }
        if sessions[index].expiry == 0 { remove(instance, now: now, number: number) }
    }

    private mutating func publish(_ will: PendingWill, of instance: Int, now: Int64, number: () -> Int) {
        var message = will.message
        message.expiresAt = will.expiry.map { now + $0 * 1_000_000 }
        route(message, from: instance, now: now, number: number)
    }

    private mutating func remove(_ instance: Int, now: Int64, number: () -> Int) {
        publishDelayedWill(of: instance, now: now, number: number)
        sessions.removeAll { $0.instance == instance }
    }

    private mutating func publishDelayedWill(of instance: Int, now: Int64, number: () -> Int) {
        guard let index = sessions.firstIndex(where: { $0.instance == instance }), let will = sessions[index].will
        else { return }
        sessions[index].will = nil
        publish(will, of: instance, now: now, number: number)
    }

    /// Wills that are due and sessions whose time is over.
    mutating func tick(now: Int64, number: () -> Int) {
        for index in sessions.indices where sessions[index].slot == nil && sessions[index].disconnectedAt == nil {
            sessions[index].disconnectedAt = now
        }
        let over = sessions.filter { ($0.expiresAt ?? .max) <= now }.map(\.instance)
        let due = sessions.filter { ($0.will?.due ?? .max) <= now }.map(\.instance)
        // All wills first: which of those that end at this moment still gets another's is not said.
        for instance in due + over { publishDelayedWill(of: instance, now: now, number: number) }
        sessions.removeAll { over.contains($0.instance) }
    }

    /// The daemon starts again with what is on its disk.
    mutating func restart(now: Int64) {
        sessions.removeAll { !$0.isStored }
        for index in sessions.indices {
            let passed = sessions[index].disconnectedAt.map { now - $0 } ?? 0
            sessions[index].slot = nil
            sessions[index].expiresAt = sessions[index].expiry.map { now + max(0, $0 * 1_000_000 - passed) }
            if let will = sessions[index].will {
                sessions[index].will?.due = now + max(0, will.delay * 1_000_000 - passed)
            }
        }
    }
}
