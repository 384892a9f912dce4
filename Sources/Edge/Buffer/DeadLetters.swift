import NIOCore
import SyncModel

/// A message that the cloud does not take, as it was kept.
package struct DeadLetter: Sendable, Equatable {
    package var epoch: Epoch
    package var device: String
    package var sequence: UInt64
    /// Dense per (epoch, device).
    package var number: UInt64
    package var topic: ByteBuffer
    package var payload: ByteBuffer
    /// MQTT 5.0 properties as on the wire.
    package var properties: ByteBuffer
    /// HTTP status and words of the cloud.
    package var status: Int
    package var reason: String
    /// When it was buried, microseconds since 1970 by the gateway's clock.
    package var time: Int64
}

extension Schema {
    /// `buried` names messages of frames that are not answered yet, by frame and position: they are never sent again.
    /// `dead_letter` keeps them for people, and is bounded; its ids count all that there ever were.
    static let deadLetters = """
        CREATE TABLE dead_letter (
            id INTEGER PRIMARY KEY AUTOINCREMENT, bytes INTEGER NOT NULL, time INTEGER NOT NULL, epoch BLOB NOT NULL,
            device TEXT NOT NULL, sequence INTEGER NOT NULL, number INTEGER NOT NULL, status INTEGER NOT NULL,
            reason TEXT NOT NULL, topic BLOB NOT NULL, properties BLOB NOT NULL, payload BLOB NOT NULL);
        CREATE TABLE buried (
            frame INTEGER NOT NULL, record INTEGER NOT NULL, PRIMARY KEY (frame, record)) WITHOUT ROWID;
        """
}

extension BufferStore {
    enum Burial {
        case done
        /// Its frame was dropped meanwhile, with a ledger line.
        case gone
        case notInCut
    }

    /// The message becomes a dead letter and a ledger line, and is out of its frame, in one transaction.
    func bury(_ suspect: BatchSplit.Suspect, in cut: Cut, time: Int64) throws(SQLiteError) -> Burial {
        let (frame, index) = (suspect.piece.frame, suspect.piece.records.lowerBound)
        guard let open = openCuts[cut.lane], open.cut == cut, cut.firstFrame <= frame, frame <= cut.lastFrame else {
            return .notInCut
        }
        if try buried(from: frame, through: frame)[frame]?.contains(index) == true { return .done }
        guard let row = try frames(from: frame, through: frame, maximumBytes: 1).frames.first else { return .gone }
        guard let parts = FrameParts(header: row.header, records: row.records), index < parts.count
        else { return .notInCut }
        let message = parts.message(at: index)
        let letter = DeadLetter(
            epoch: message.epoch, device: message.device, sequence: message.sequence, number: message.number,
            topic: message.topic, payload: message.payload, properties: message.properties, status: suspect.status,
            reason: suspect.reason, time: time)
        try transaction { () throws(SQLiteError) in
            try connection.execute("INSERT INTO buried VALUES (\(frame), \(index))")
            try insert(letter)
            guard let epoch = try connection.integer("SELECT epoch FROM frame WHERE id = \(frame)") else {
                throw inconsistency("frame \(frame) is missing")
            }
            let run = DeviceRun(
                device: letter.device, sequences: letter.sequence...letter.sequence,
                numbers: letter.number...letter.number)
            try LedgerRow(run, epoch: epoch, reason: .malformed).insert(with: statements.insertLedger)
            try trimDeadLetters()
        }
        shared.announce()
        try countDeadLetters()
        return .done
    }

    private func insert(_ letter: DeadLetter) throws(SQLiteError) {
        let insert = try connection.prepare(
            """
            INSERT INTO dead_letter (bytes, time, epoch, device, sequence, number, status, reason, topic, properties,
                payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)
        defer { insert.finalize() }
        let blobs = [letter.topic, letter.properties, letter.payload]
        insert.bind(1, Int64(blobs.reduce(letter.reason.utf8.count) { $0 + $1.readableBytes }))
        insert.bind(2, letter.time)
        insert.bind(3, letter.epoch.blob)
        insert.bind(4, letter.device)
        insert.bind(5, Int64(letter.sequence))
        insert.bind(6, Int64(letter.number))
        insert.bind(7, Int64(letter.status))
        insert.bind(8, letter.reason)
        for (index, blob) in blobs.enumerated() { insert.bind(Int32(9 + index), blob) }
        try insert.run()
    }

    /// The oldest go first; the newest stays however large it is.
    private func trimDeadLetters() throws(SQLiteError) {
        let bounds = configuration.deadLetters
        while try connection.integer(
            """
            SELECT 1 FROM (SELECT count(*) AS count, sum(bytes) AS bytes FROM dead_letter)
            WHERE count > 1 AND (count > \(bounds.count) OR bytes > \(bounds.bytes))
            """) != nil
        {
            try connection.execute("DELETE FROM dead_letter WHERE id = (SELECT min(id) FROM dead_letter)")
        }
    }

    /// Positions of buried messages, by frame.
    func buried(from first: Int64, through last: Int64) throws(SQLiteError) -> [Int64: Set<Int>] {
        let statement = statements.buried
        defer { statement.reset() }
        statement.bind(1, first)
        statement.bind(2, last)
        var found: [Int64: Set<Int>] = [:]
        while try statement.step() { found[statement.integer(0), default: []].insert(Int(statement.integer(1))) }
        return found
    }

    /// Oldest first, of so many bytes together unless the first alone is larger; none at the end.
    ///
    /// - Returns: the letters, and the id of the last.
    func deadLetters(
        after id: Int64, maximumBytes: Int
    ) throws(SQLiteError) -> (letters: [DeadLetter], last: Int64) {
        let statement = try connection.prepare(
            """
            SELECT id, time, epoch, device, sequence, number, status, reason, topic, properties, payload, bytes
            FROM dead_letter WHERE id > ? ORDER BY id
            """)
        defer { statement.finalize() }
        statement.bind(1, id)
        var letters: [DeadLetter] = []
        var (last, bytes) = (id, 0)
        while bytes < maximumBytes, try statement.step() {
            guard let epoch = Epoch(blob: statement.blob(2)) else {
                throw inconsistency("an epoch is not 16 bytes long")
            }
            last = statement.integer(0)
            bytes += Int(statement.integer(11))
            letters.append(
                DeadLetter(
                    epoch: epoch, device: statement.text(3), sequence: UInt64(bitPattern: statement.integer(4)),
                    number: UInt64(bitPattern: statement.integer(5)), topic: statement.blob(8),
                    payload: statement.blob(10), properties: statement.blob(9), status: Int(statement.integer(6)),
                    reason: statement.text(7), time: statement.integer(1)))
        }
        return (letters, last)
    }
}
