import MQTTSession
import MQTTWire
import NIOCore
import SyncModel

/// Durable session state: each change is one statement, in the transaction of its group.
final class SessionTables {
    private let connection: SQLiteConnection
    private let saveSession: SQLiteStatement
    private let removals: [SQLiteStatement]
    private let disconnect: SQLiteStatement
    private let saveSubscription: SQLiteStatement
    private let removeSubscription: SQLiteStatement
    private let enqueue: SQLiteStatement
    private let stage: SQLiteStatement
    private let dequeue: SQLiteStatement
    private let receive: SQLiteStatement
    private let release: SQLiteStatement
    private let retain: SQLiteStatement
    private let removeRetained: SQLiteStatement
    private let saveWill: SQLiteStatement
    private let removeWill: SQLiteStatement
    private let refusals: RefusalTable

    init(_ connection: SQLiteConnection) throws(SQLiteError) {
        self.connection = connection
        // Without its disconnection: a session that is saved is connected, and one restored as connected lives longer.
        saveSession = try connection.prepare(
            "INSERT OR REPLACE INTO session (id, device, client, version, expiry, local) VALUES (?, ?, ?, ?, ?, ?)")
        removals = [
            try connection.prepare("DELETE FROM session WHERE id = ?"),
            try connection.prepare("DELETE FROM subscription WHERE session = ?"),
            try connection.prepare("DELETE FROM queue WHERE session = ?"),
            try connection.prepare("DELETE FROM packet_id WHERE session = ?"),
            try connection.prepare("DELETE FROM will WHERE session = ?"),
        ]
        disconnect = try connection.prepare("UPDATE session SET disconnected_at = ? WHERE id = ?")
        saveSubscription = try connection.prepare("INSERT OR REPLACE INTO subscription VALUES (?, ?, ?, ?, ?, ?, ?)")
        removeSubscription = try connection.prepare("DELETE FROM subscription WHERE session = ? AND filter = ?")
        enqueue = try connection.prepare(
            """
            INSERT OR REPLACE INTO queue (session, position, stage, packet_id, qos, retain, expires_at, identifiers,
                topic, payload, properties) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)
        stage = try connection.prepare(
            "UPDATE queue SET stage = ?, packet_id = ? WHERE session = ? AND position = ?")
        dequeue = try connection.prepare("DELETE FROM queue WHERE session = ? AND position = ?")
        receive = try connection.prepare("INSERT OR IGNORE INTO packet_id VALUES (?, ?)")
        release = try connection.prepare("DELETE FROM packet_id WHERE session = ? AND id = ?")
        retain = try connection.prepare(
            """
            INSERT OR REPLACE INTO retained (qos, retain, expires_at, identifiers, topic, payload, properties)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            """)
        removeRetained = try connection.prepare("DELETE FROM retained WHERE topic = ?")
        saveWill = try connection.prepare("INSERT OR REPLACE INTO will VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
        removeWill = try connection.prepare("DELETE FROM will WHERE session = ?")
        refusals = try RefusalTable(connection)
    }

    func finalize() {
        for statement in removals + [
            saveSession, disconnect, saveSubscription, removeSubscription, enqueue, stage, dequeue, receive, release,
            retain, removeRetained, saveWill, removeWill,
        ] {
            statement.finalize()
        }
        refusals.finalize()
    }

    // MARK: Changes

    func apply(_ change: DurableChange) throws(SQLiteError) {
        switch change {
        case .sessionSaved(let record): try save(record)
        case .sessionRemoved(let id):
            for statement in removals {
                statement.bind(1, id)
                try statement.run()
            }
        case .sessionDisconnected(let id, let at):
            disconnect.bind(1, at)
            disconnect.bind(2, id)
            try disconnect.run()
        case .subscriptionSaved(let id, let subscription, let identifier):
            try save(subscription, identifier: identifier, of: id)
        case .subscriptionRemoved(let id, let filter):
            removeSubscription.bind(1, id)
            removeSubscription.bind(2, filter)
            try removeSubscription.run()
        case .retained(let message):
            bind(message, to: retain, from: 1)
            try retain.run()
        case .retainedRemoved(let topic):
            removeRetained.bind(1, topic)
            try removeRetained.run()
        case .willSaved(let id, let will): try save(will, of: id)
        case .willRemoved(let id): try run(removeWill, id)
        case .refusalsCounted(let record): try refusals.save(record)
        case .refusalsForgotten(let device): try refusals.forget(device)
        case .queued, .stageChanged, .dequeued, .packetIDReceived, .packetIDReleased:
            try applyToQueue(change)
        }
    }

    private func applyToQueue(_ change: DurableChange) throws(SQLiteError) {
        switch change {
        case .queued(let id, let order, let message, let packetID):
            enqueue.bind(1, id)
            enqueue.bind(2, order)
            enqueue.bind(3, Int64((packetID == 0 ? OutgoingStage.queued : .sent).rawValue))
            enqueue.bind(4, Int64(packetID))
            bind(message, to: enqueue, from: 5)
            try enqueue.run()
        case .stageChanged(let id, let order, let stage, let packetID):
            try run(self.stage, Int64(stage.rawValue), Int64(packetID), id, order)
        case .dequeued(let id, let order): try run(dequeue, id, order)
        case .packetIDReceived(let id, let packetID): try run(receive, id, Int64(packetID))
        case .packetIDReleased(let id, let packetID): try run(release, id, Int64(packetID))
        default: preconditionFailure("apply(_:) hands over changes of queues and packet ids alone")
        }
    }

    private func run(_ statement: SQLiteStatement, _ values: Int64...) throws(SQLiteError) {
        for (index, value) in values.enumerated() { statement.bind(Int32(index + 1), value) }
        try statement.run()
    }

    private func save(_ record: SessionRecord) throws(SQLiteError) {
        saveSession.bind(1, record.id)
        saveSession.bind(2, record.key.deviceID)
        saveSession.bind(3, record.key.clientID)
        saveSession.bind(4, Int64(record.version.rawValue))
        saveSession.bind(5, Int64(record.expiryInterval))
        saveSession.bind(6, record.isLocal ? 1 : 0)
        try saveSession.run()
    }

    private func save(_ will: Will, of id: SessionID) throws(SQLiteError) {
        saveWill.bind(1, id)
        saveWill.bind(2, Int64(will.qos.rawValue))
        saveWill.bind(3, will.retain ? 1 : 0)
        saveWill.bind(4, Int64(will.delayInterval))
        saveWill.bind(5, will.messageExpiry.map(Int64.init))
        saveWill.bind(6, will.topic)
        saveWill.bind(7, will.payload)
        saveWill.bind(8, will.applicationProperties)
        try saveWill.run()
    }

    private func save(_ subscription: Subscription, identifier: UInt32?, of id: SessionID) throws(SQLiteError) {
        saveSubscription.bind(1, id)
        saveSubscription.bind(2, subscription.filter)
        saveSubscription.bind(3, Int64(subscription.qos.rawValue))
        saveSubscription.bind(4, subscription.noLocal ? 1 : 0)
        saveSubscription.bind(5, subscription.retainAsPublished ? 1 : 0)
        saveSubscription.bind(6, Int64(subscription.retainHandling.rawValue))
        saveSubscription.bind(7, identifier.map(Int64.init))
        try saveSubscription.run()
    }

    /// Seven columns: qos, retain, expires_at, identifiers, topic, payload, properties.
    private func bind(_ message: StoredPublish, to statement: SQLiteStatement, from index: Int32) {
        var identifiers = ByteBuffer()
        for identifier in message.subscriptionIdentifiers { identifiers.writeInteger(identifier) }
        statement.bind(index, Int64(message.qos.rawValue))
        statement.bind(index + 1, message.retain ? 1 : 0)
        statement.bind(index + 2, message.expiresAt)
        statement.bind(index + 3, identifiers)
        statement.bind(index + 4, message.topic)
        statement.bind(index + 5, message.payload)
        statement.bind(index + 6, message.applicationProperties)
    }

    // MARK: Restoring

    /// All that is stored, after what belongs to no session is removed.
    func restore() throws(SQLiteError) -> RestoredState {
        try connection.execute(
            """
            BEGIN IMMEDIATE;
            DELETE FROM subscription WHERE session NOT IN (SELECT id FROM session);
            DELETE FROM queue WHERE session NOT IN (SELECT id FROM session);
            DELETE FROM packet_id WHERE session NOT IN (SELECT id FROM session);
            DELETE FROM will WHERE session NOT IN (SELECT id FROM session);
            COMMIT;
            """)
        var sessions: [RestoredSession] = []
        var places: [SessionID: Int] = [:]
        try rows("SELECT id, device, client, version, expiry, disconnected_at, local FROM session ORDER BY id") {
            row throws(SQLiteError) in
            guard let version = ProtocolVersion(rawValue: UInt8(truncatingIfNeeded: row.integer(3))) else {
                throw unknown("protocol version", row.integer(3))
            }
            let record = SessionRecord(
                id: row.integer(0), key: SessionKey(deviceID: row.text(1), clientID: row.text(2)), version: version,
                expiryInterval: UInt32(truncatingIfNeeded: row.integer(4)), isLocal: row.integer(6) != 0)
            places[record.id] = sessions.count
            sessions.append(RestoredSession(record: record, disconnectedAt: row.optionalInteger(5)))
        }
        try restoreSubscriptions(into: &sessions, places)
        try restoreQueues(into: &sessions, places)
        try rows("SELECT session, id FROM packet_id ORDER BY session, id") { row throws(SQLiteError) in
            guard let place = places[row.integer(0)] else { return }
            sessions[place].receivedPacketIDs.append(UInt16(truncatingIfNeeded: row.integer(1)))
        }
        try restoreWills(into: &sessions, places)
        var retained: [StoredPublish] = []
        try rows(
            "SELECT qos, retain, expires_at, identifiers, topic, payload, properties FROM retained ORDER BY topic"
        ) { row throws(SQLiteError) in
            retained.append(try message(row, from: 0))
        }
        return RestoredState(sessions: sessions, retained: retained, refusals: try refusals.restore())
    }

    private func restoreSubscriptions(
        into sessions: inout [RestoredSession], _ places: [SessionID: Int]
    ) throws(SQLiteError) {
        try rows("SELECT * FROM subscription ORDER BY session, filter") { row throws(SQLiteError) in
            guard let place = places[row.integer(0)] else { return }
            guard let handling = RetainHandling(rawValue: UInt8(truncatingIfNeeded: row.integer(5))) else {
                throw unknown("retain handling", row.integer(5))
            }
            let subscription = Subscription(
                filter: row.text(1), qos: try qos(row.integer(2)), noLocal: row.integer(3) == 1,
                retainAsPublished: row.integer(4) == 1, retainHandling: handling)
            sessions[place].subscriptions.append(
                RestoredSubscription(
                    subscription: subscription,
                    identifier: row.optionalInteger(6).map { UInt32(truncatingIfNeeded: $0) }))
        }
    }

    private func restoreQueues(
        into sessions: inout [RestoredSession], _ places: [SessionID: Int]
    ) throws(SQLiteError) {
        try rows(
            """
            SELECT session, position, stage, packet_id, qos, retain, expires_at, identifiers, topic, payload, properties
            FROM queue ORDER BY session, position
            """
        ) { row throws(SQLiteError) in
            guard let place = places[row.integer(0)] else { return }
            guard let stage = OutgoingStage(rawValue: UInt8(truncatingIfNeeded: row.integer(2))) else {
                throw unknown("delivery stage", row.integer(2))
            }
            sessions[place].queue.append(
                QueuedRecord(
                    order: row.integer(1), message: try message(row, from: 4), stage: stage,
                    packetID: UInt16(truncatingIfNeeded: row.integer(3))))
        }
    }

    private func restoreWills(
        into sessions: inout [RestoredSession], _ places: [SessionID: Int]
    ) throws(SQLiteError) {
        try rows("SELECT session, qos, retain, delay, message_expiry, topic, payload, properties FROM will") {
            row throws(SQLiteError) in
            guard let place = places[row.integer(0)] else { return }
            sessions[place].will = Will(
                topic: row.text(5), payload: row.blob(6), qos: try qos(row.integer(1)), retain: row.integer(2) == 1,
                delayInterval: UInt32(truncatingIfNeeded: row.integer(3)),
                messageExpiry: row.optionalInteger(4).map { UInt32(truncatingIfNeeded: $0) },
                applicationProperties: row.blob(7))
        }
    }

    private func message(_ row: SQLiteStatement, from column: Int32) throws(SQLiteError) -> StoredPublish {
        var identifiers: [UInt32] = []
        var blob = row.blob(column + 3)
        while let identifier = blob.readInteger(as: UInt32.self) { identifiers.append(identifier) }
        return StoredPublish(
            topic: row.blob(column + 4), payload: row.blob(column + 5), applicationProperties: row.blob(column + 6),
            qos: try qos(row.integer(column)), retain: row.integer(column + 1) == 1,
            expiresAt: row.optionalInteger(column + 2), subscriptionIdentifiers: identifiers)
    }

    private func qos(_ value: Int64) throws(SQLiteError) -> QoS {
        guard let qos = QoS(rawValue: UInt8(truncatingIfNeeded: value)) else { throw unknown("QoS", value) }
        return qos
    }

    private func rows(
        _ sql: String, _ body: (SQLiteStatement) throws(SQLiteError) -> Void
    ) throws(SQLiteError) {
        let statement = try connection.prepare(sql)
        defer { statement.finalize() }
        while try statement.step() { try body(statement) }
    }

    private func unknown(_ what: String, _ value: Int64) -> SQLiteError {
        SQLiteError(code: SQLiteError.corrupt, message: "unknown \(what) \(value)", operation: "restore")
    }
}
