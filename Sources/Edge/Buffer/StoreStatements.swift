/// The statements of frames, cuts and epochs, prepared once.
struct StoreStatements {
    let begin: SQLiteStatement
    let commit: SQLiteStatement
    let rollback: SQLiteStatement
    let insertFrame: SQLiteStatement
    let saveEpoch: SQLiteStatement
    let position: SQLiteStatement
    let wallTime: SQLiteStatement
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
    let buried: SQLiteStatement
    let forgetBuried: SQLiteStatement
    let ledger: SQLiteStatement
    let lastLedger: SQLiteStatement
    let deleteLedger: SQLiteStatement
    let epochs: SQLiteStatement
    let sequences: SQLiteStatement
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
                records) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)
        saveEpoch = try connection.prepare("UPDATE epoch SET last_sequence = ?, last_frame = ? WHERE id = ?")
        position = try connection.prepare(
            "SELECT total_messages, total_bytes, count, bytes FROM frame WHERE id = ?")
        wallTime = try connection.prepare("SELECT wall_time FROM frame WHERE id = ?")
        answeredRows = try connection.prepare(
            "SELECT id, bytes FROM frame WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?")
        deleteFrames = try connection.prepare("DELETE FROM frame WHERE id >= ? AND id <= ?")
        frames = try connection.prepare(
            "SELECT id, header, records, count FROM frame WHERE id >= ? AND id <= ? ORDER BY id")
        insertCut = try connection.prepare(
            """
            INSERT INTO cut (id, first_frame, last_frame, messages, bytes, last_ledger, lane)
            VALUES (?, ?, ?, ?, ?, ?, ?)
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
        buried = try connection.prepare("SELECT frame, record FROM buried WHERE frame >= ? AND frame <= ?")
        forgetBuried = try connection.prepare("DELETE FROM buried WHERE frame >= ? AND frame <= ?")
        ledger = try connection.prepare(
            """
            SELECT epoch.epoch, device, first_sequence, ledger.last_sequence, first_number, last_number, reason
            FROM ledger JOIN epoch ON epoch.id = ledger.epoch WHERE ledger.id <= ? ORDER BY ledger.id
            """)
        lastLedger = try connection.prepare(
            "SELECT max(id) FROM (SELECT id FROM ledger ORDER BY id LIMIT \(BufferStore.maximumLedgerLines))")
        deleteLedger = try connection.prepare("DELETE FROM ledger WHERE id <= ?")
        epochs = try connection.prepare(
            "SELECT epoch, last_sequence, first_frame, last_frame FROM epoch WHERE last_sequence > 0 ORDER BY id")
        sequences = try connection.prepare(
            "SELECT first_sequence, first_sequence + count - 1 FROM frame WHERE id = ?")
        pages = try connection.prepare("PRAGMA page_count")
        freePages = try connection.prepare("PRAGMA freelist_count")
        pageSize = try connection.prepare("PRAGMA page_size")
    }

    func finalize() {
        for statement in [
            begin, commit, rollback, insertFrame, saveEpoch, position, wallTime, answeredRows, deleteFrames, frames,
            insertCut,
            deleteCut, saveAnswer, saveLastCut, forgetRuns, saveRun, saveLiveStart, accounts, reportAccounts, buried,
            forgetBuried, ledger,
            lastLedger, deleteLedger, epochs,
            sequences, pages, freePages, pageSize,
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
