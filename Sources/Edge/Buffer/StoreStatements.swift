/// The statements of frames, cuts and epochs, prepared once.
struct StoreStatements {
    let begin: SQLiteStatement
    let commit: SQLiteStatement
    let rollback: SQLiteStatement
    let insertFrame: SQLiteStatement
    let saveEpoch: SQLiteStatement
    let saveStamp: SQLiteStatement
    let firstPosition: SQLiteStatement
    let lastPosition: SQLiteStatement
    let answeredRows: SQLiteStatement
    let deleteFrames: SQLiteStatement
    let frames: SQLiteStatement
    let insertCut: SQLiteStatement
    let deleteCut: SQLiteStatement
    let saveAnswer: SQLiteStatement
    let saveLastCut: SQLiteStatement
    let forgetRuns: SQLiteStatement
    let saveRun: SQLiteStatement
    let saveLiveStart: SQLiteStatement
    let accounts: SQLiteStatement
    let reportAccounts: SQLiteStatement
    let unreportedEpoch: SQLiteStatement
    let buried: SQLiteStatement
    let forgetBuried: SQLiteStatement
    let ledger: SQLiteStatement
    let lastLedger: SQLiteStatement
    let saveReported: SQLiteStatement
    let deleteLedger: SQLiteStatement
    let epochs: SQLiteStatement
    let sequences: SQLiteStatement
    let oldestStandard: SQLiteStatement
    let oldestOfRank: SQLiteStatement
    let wholeFrame: SQLiteStatement
    let insertLedger: SQLiteStatement
    let extendLedger: SQLiteStatement
    let ledgerSpan: SQLiteStatement
    let saveDrops: SQLiteStatement
    let present: SQLiteStatement
    let readNumber: SQLiteStatement
    let saveNumber: SQLiteStatement
    let pages: SQLiteStatement
    let freePages: SQLiteStatement
    let pageSize: SQLiteStatement

    init(_ connection: SQLiteConnection) throws(SQLiteError) {
        begin = try connection.prepare("BEGIN IMMEDIATE")
        commit = try connection.prepare("COMMIT")
        rollback = try connection.prepare("ROLLBACK")
        insertFrame = try connection.prepare(
            """
            INSERT INTO frame (id, epoch, first_sequence, count, bytes, total_messages, total_bytes, wall_time, header,
                records, rank, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)
        saveEpoch = try connection.prepare("UPDATE epoch SET last_sequence = ?, last_frame = ? WHERE id = ?")
        saveStamp = try connection.prepare(
            """
            UPDATE epoch SET gateway_time = ?, monotonic_time = ?, wall_time = ?, boot = ?, synchronised = ?,
                good_wall_time = ?, good_gateway_time = ?, good_has_gap = ? WHERE id = ?
            """)
        firstPosition = try connection.prepare(
            """
            SELECT id, total_messages, total_bytes, count, bytes, wall_time FROM frame WHERE id > ? ORDER BY id LIMIT 1
            """)
        lastPosition = try connection.prepare(
            """
            SELECT id, total_messages, total_bytes FROM frame WHERE id <= ?1 AND id > ?2 ORDER BY id DESC LIMIT 1
            """)
        answeredRows = try connection.prepare(
            "SELECT id, bytes FROM frame WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?")
        deleteFrames = try connection.prepare("DELETE FROM frame WHERE id >= ? AND id <= ?")
        frames = try connection.prepare(
            """
            SELECT id, header, records, count, total_messages, checksum FROM frame WHERE id >= ? AND id <= ? ORDER BY id
            """)
        insertCut = try connection.prepare(
            """
            INSERT INTO cut (id, first_frame, last_frame, messages, bytes, last_ledger, lane, start_messages,
                start_bytes, end_messages, end_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)
        deleteCut = try connection.prepare("DELETE FROM cut WHERE id = ?")
        saveAnswer = try connection.prepare(
            "UPDATE progress SET answered_frame = ?, answered_messages = ?, answered_bytes = ?")
        saveLastCut = try connection.prepare("UPDATE progress SET last_cut = ?")
        forgetRuns = try connection.prepare("DELETE FROM answered_run")
        saveRun = try connection.prepare("INSERT INTO answered_run VALUES (?, ?, ?, ?, ?, ?)")
        saveLiveStart = try connection.prepare("INSERT OR REPLACE INTO live_start VALUES (1, ?, ?, ?)")
        accounts = try connection.prepare(
            """
            SELECT epoch, last_sequence, 1 FROM (SELECT * FROM epoch WHERE closed = 1 AND reported = 0 ORDER BY id
                LIMIT \(BufferStore.maximumAccounts))
            UNION ALL SELECT epoch, last_sequence, 0 FROM epoch WHERE closed = 0 AND last_sequence > 0
            """)
        reportAccounts = try connection.prepare(
            """
            UPDATE epoch SET reported = 1 WHERE id IN (SELECT id FROM epoch WHERE closed = 1 AND reported = 0
                ORDER BY id LIMIT \(BufferStore.maximumAccounts))
            """)
        unreportedEpoch = try connection.prepare("SELECT id FROM epoch WHERE closed = 1 AND reported = 0 LIMIT 1")
        buried = try connection.prepare("SELECT frame, record FROM buried WHERE frame >= ? AND frame <= ?")
        forgetBuried = try connection.prepare("DELETE FROM buried WHERE frame >= ? AND frame <= ?")
        ledger = try connection.prepare(
            """
            SELECT epoch.epoch, device, first_sequence, ledger.last_sequence, first_number, last_number, reason,
                aggregate_epoch, first_aggregate, last_aggregate
            FROM ledger JOIN epoch ON epoch.id = ledger.epoch WHERE ledger.id > ? AND ledger.id <= ? ORDER BY ledger.id
            """)
        lastLedger = try connection.prepare(
            "SELECT max(id) FROM (SELECT id FROM ledger WHERE id > ? ORDER BY id LIMIT \(BufferStore.maximumLedgerLines))"
        )
        saveReported = try connection.prepare("UPDATE progress SET reported_ledger = ?")
        deleteLedger = try connection.prepare("DELETE FROM ledger WHERE id <= ?")
        epochs = try connection.prepare(
            "SELECT epoch, last_sequence, first_frame, last_frame FROM epoch WHERE last_sequence > 0 ORDER BY id")
        sequences = try connection.prepare(
            """
            SELECT min(first_sequence), max(first_sequence + count - 1) FROM (
                SELECT * FROM (SELECT first_sequence, count FROM frame WHERE id >= ?1 AND id <= ?2 ORDER BY id LIMIT 1)
                UNION ALL SELECT * FROM (
                    SELECT first_sequence, count FROM frame WHERE id >= ?1 AND id <= ?2 ORDER BY id DESC LIMIT 1))
            """)
        oldestStandard = try connection.prepare("SELECT id FROM frame WHERE id > ? AND rank = 0 ORDER BY id LIMIT 1")
        oldestOfRank = try connection.prepare(
            "SELECT id FROM frame WHERE id > ? AND rank = ? AND rank <> 0 ORDER BY id LIMIT 1")
        wholeFrame = try connection.prepare(
            "SELECT epoch, count, bytes, header, records, total_messages, checksum FROM frame WHERE id = ?")
        insertLedger = try connection.prepare(LedgerRow.insertion)
        extendLedger = try connection.prepare("UPDATE ledger SET last_sequence = ?, last_number = ? WHERE id = ?")
        ledgerSpan = try connection.prepare(
            // Two questions: to one with both, SQLite reads the whole table.
            "SELECT ifnull((SELECT max(id) FROM ledger) - (SELECT min(id) FROM ledger) + 1, 0)")
        saveDrops = try connection.prepare(
            """
            UPDATE progress SET dropped_messages = ?, dropped_bytes = ?, dropped_live_messages = ?,
                dropped_live_bytes = ?
            """)
        present = try connection.prepare(
            "SELECT ifnull(sum(count), 0), ifnull(sum(bytes), 0) FROM frame WHERE id > ? AND id <= ?")
        readNumber = try connection.prepare("SELECT last, checksum FROM device_number WHERE device = ?")
        saveNumber = try connection.prepare("INSERT OR REPLACE INTO device_number VALUES (?, ?, ?)")
        pages = try connection.prepare("PRAGMA page_count")
        freePages = try connection.prepare("PRAGMA freelist_count")
        pageSize = try connection.prepare("PRAGMA page_size")
    }

    func finalize() {
        for statement in [
            begin, commit, rollback, insertFrame, saveEpoch, saveStamp, firstPosition, lastPosition, answeredRows,
            deleteFrames, frames, insertCut, deleteCut, saveAnswer, saveLastCut, forgetRuns, saveRun, saveLiveStart,
            accounts, reportAccounts, unreportedEpoch, buried, forgetBuried, ledger, lastLedger, saveReported,
            deleteLedger, epochs,
            sequences,
            oldestStandard, oldestOfRank, wholeFrame, insertLedger, extendLedger, ledgerSpan, saveDrops, present,
            readNumber, saveNumber, pages, freePages, pageSize,
        ] {
            statement.finalize()
        }
    }
}

extension SQLiteStatement {
    /// The first column of the first row, which must be there.
    func value() throws(SQLiteError) -> Int64 {
        _ = try step()
        defer { reset() }
        return integer(0)
    }
}
