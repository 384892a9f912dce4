import SyncModel

extension Schema {
    /// `held` has frames whose messages wait for the end of a window. Each has its id and its place in the totals as all
    /// frames have, but no row in `frame`: to the uplink it is a frame that is gone. Its columns are those of `frame`, so that
    /// the salvage finds it; `rank` is `heldRank` larger.
    ///
    /// `held_mark` says what is held, and for which rule: a row of `held` without a mark is nothing. `queue` is ten times the
    /// row of the rule and the messages' priority; 0 for what is done with and waits to be deleted. `asleep_time` is what the
    /// frame's clock has and its bytes do not.
    ///
    /// `held_end` is the position of the newest frame that was never in `frame`. `local_series` has the aggregates that were
    /// sent last, where a dead band compares with them.
    static let localWork = """
        CREATE TABLE local_rule (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
        CREATE TABLE held (
            id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, first_sequence INTEGER NOT NULL, count INTEGER NOT NULL,
            bytes INTEGER NOT NULL, total_messages INTEGER NOT NULL, total_bytes INTEGER NOT NULL,
            wall_time INTEGER NOT NULL, header BLOB NOT NULL, records BLOB NOT NULL, rank INTEGER NOT NULL,
            checksum INTEGER NOT NULL);
        CREATE TABLE held_mark (
            queue INTEGER NOT NULL, id INTEGER NOT NULL, gateway_time INTEGER NOT NULL, epoch INTEGER NOT NULL,
            first_sequence INTEGER NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL,
            asleep_time INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;
        CREATE TABLE held_end (
            id INTEGER PRIMARY KEY CHECK (id = 1), frame INTEGER NOT NULL, messages INTEGER NOT NULL,
            bytes INTEGER NOT NULL);
        CREATE TABLE local_series (
            rule INTEGER NOT NULL, device TEXT NOT NULL, topic BLOB NOT NULL, sent BLOB NOT NULL, epoch BLOB NOT NULL,
            sequence INTEGER NOT NULL, gateway_time INTEGER NOT NULL, PRIMARY KEY (rule, device, topic)) WITHOUT ROWID;
        ALTER TABLE ledger ADD COLUMN aggregate_epoch BLOB;
        ALTER TABLE ledger ADD COLUMN first_aggregate INTEGER;
        ALTER TABLE ledger ADD COLUMN last_aggregate INTEGER;
        """

    /// Added to the rank of frames in `held`, so that the salvage tells them from others wherever it finds them.
    static let heldRank: Int64 = 100
}

/// The statements of local work, prepared once.
struct LocalStatements {
    let insertHeld: SQLiteStatement
    let insertMark: SQLiteStatement
    let saveEnd: SQLiteStatement
    let window: SQLiteStatement
    let oldest: SQLiteStatement
    let heldFrame: SQLiteStatement
    let deleteHeld: SQLiteStatement
    let deleteMark: SQLiteStatement
    let spend: SQLiteStatement
    let spent: SQLiteStatement
    let deleteSpent: SQLiteStatement
    let lastSent: SQLiteStatement
    let saveSent: SQLiteStatement

    init(_ connection: SQLiteConnection) throws(SQLiteError) {
        insertHeld = try connection.prepare(
            """
            INSERT INTO held (id, epoch, first_sequence, count, bytes, total_messages, total_bytes, wall_time, header,
                records, rank, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)
        insertMark = try connection.prepare("INSERT INTO held_mark VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
        saveEnd = try connection.prepare("INSERT OR REPLACE INTO held_end VALUES (1, ?, ?, ?)")
        window = try connection.prepare(
            """
            SELECT m.id, m.gateway_time, m.epoch, m.count, m.bytes, h.header, h.records, h.total_messages, h.checksum,
                m.asleep_time
            FROM held_mark m LEFT JOIN held h ON h.id = m.id WHERE m.queue = ? AND m.id > ? ORDER BY m.id
            """)
        oldest = try connection.prepare(
            "SELECT id, gateway_time FROM held_mark WHERE queue = ? ORDER BY id LIMIT 1")
        heldFrame = try connection.prepare(
            "SELECT epoch, count, bytes, header, records, total_messages, checksum FROM held WHERE id = ?")
        deleteHeld = try connection.prepare("DELETE FROM held WHERE id = ?")
        deleteMark = try connection.prepare("DELETE FROM held_mark WHERE queue = ? AND id = ?")
        spend = try connection.prepare("UPDATE held_mark SET queue = 0 WHERE queue = ? AND id <= ?")
        spent = try connection.prepare("SELECT id, bytes FROM held_mark WHERE queue = 0 ORDER BY id LIMIT ?")
        deleteSpent = try connection.prepare("DELETE FROM held_mark WHERE queue = 0 AND id <= ?")
        lastSent = try connection.prepare(
            """
            SELECT sent, epoch, sequence, gateway_time FROM local_series WHERE rule = ? AND device = ? AND topic = ?
            """)
        saveSent = try connection.prepare("INSERT OR REPLACE INTO local_series VALUES (?, ?, ?, ?, ?, ?, ?)")
    }

    func finalize() {
        for statement in [
            insertHeld, insertMark, saveEnd, window, oldest, heldFrame, deleteHeld, deleteMark, spend, spent,
            deleteSpent,
            lastSent, saveSent,
        ] {
            statement.finalize()
        }
    }
}
