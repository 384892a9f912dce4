import NIOCore
import SyncModel

/// Writes what was salvaged into a new file: frames under their own epochs, sequences and numbers, with new ids.
struct Rebuild {
    let connection: SQLiteConnection
    private(set) var report: SalvageReport
    private var end = FramePosition()
    private let frameColumns: [String]

    init(into connection: SQLiteConnection, report: SalvageReport) throws(SQLiteError) {
        self.connection = connection
        self.report = report
        frameColumns = try TableCopy.storedColumns(of: "frame", in: connection).names
        // A crash makes this file worthless in any case, so it needs no journal; it is fsynced when it is whole.
        try connection.execute(
            """
            PRAGMA journal_mode = DELETE;
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            PRAGMA cache_spill = ON;
            PRAGMA max_page_count = 4294967294;
            """)
    }

    var columns: FrameColumns { FrameColumns(names: frameColumns) }

    /// - Parameter known: what was acknowledged, if that is known from elsewhere than the file.
    mutating func write(_ source: SalvageSource, end known: KnownEnd?) throws(SQLiteError) {
        var tables = source.tables
        try connection.execute("BEGIN")
        let failures = tables.failures
        let ledger = Self.readLedger(&tables)
        var ledgerSource = source
        let isLedgerWhole = ledgerSource.isLedgerWhole(ledger.map(\.id), isReadable: tables.failures == failures)
        var settled: [Int64: [ClosedRange<UInt64>]] = [:]
        for (_, line) in ledger where line.isDense { settled[line.epoch, default: []].append(line.sequences) }
        let plan = SalvagePlan(source, ledger: settled, isLedgerWhole: isLedgerWhole, end: known)
        let rows = Set(plan.epochs.map(\.row))
        try write(ledger.map(\.line).filter { rows.contains($0.epoch) })
        try write(plan, Dictionary(grouping: ledger, by: \.line.epoch), source)
        try carryStamps(from: &tables)
        for table in TableCopy.sessionTables + TableCopy.recordTables {
            report.stateRows += try TableCopy(into: connection).copy(table, from: &tables)
        }
        try connection.execute(TableCopy.sanitation)
        let cut = try connection.prepare(
            "UPDATE progress SET last_cut = ?, carried_ledger = (SELECT ifnull(max(id), 0) FROM ledger)")
        defer { cut.finalize() }
        cut.bind(1, source.progress?.lastCut ?? 0)
        try cut.run()
        try connection.execute("COMMIT")
        report.isProgressKnown = source.progress != nil
        report.isLedgerWhole = isLedgerWhole
        report.unreadable += tables.failures + source.scan.unreadablePages
        try dropUnusableState()
    }

    /// State that cannot be restored would keep the daemon from starting, and be lost all the same.
    private mutating func dropUnusableState() throws(SQLiteError) {
        let sessions = try SessionTables(connection)
        defer { sessions.finalize() }
        do throws(SQLiteError) {
            _ = try sessions.restore()
        } catch {
            if connection.isInTransaction { try connection.execute("ROLLBACK") }
            try connection.execute(TableCopy.sessionTables.map { "DELETE FROM \($0);" }.joined())
            report.unreadable += report.stateRows
            report.stateRows = 0
        }
    }

    /// What else a row of `epoch` says: the stamps of the gateway's own time, which goes on from the last of them.
    private func carryStamps(from tables: inout TableReader) throws(SQLiteError) {
        let names = try TableCopy.storedColumns(of: "epoch", in: connection).names.dropFirst(7)
        let statement = try connection.prepare(
            "UPDATE epoch SET \(names.map { "\($0) = ?" }.joined(separator: ", ")) WHERE epoch = ?")
        defer { statement.finalize() }
        var failure: SQLiteError?
        tables.rows(of: "epoch") { _, values in
            guard failure == nil, values.count >= 7 + names.count else { return }
            do throws(SQLiteError) {
                for (index, value) in values[7..<(7 + names.count)].enumerated() {
                    statement.bind(Int32(index + 1), value)
                }
                statement.bind(Int32(names.count + 1), values[1])
                try statement.run()
            } catch { failure = error }
        }
        if let failure { throw failure }
    }

    // MARK: Frames

    private mutating func write(
        _ plan: SalvagePlan, _ ledger: [Int64: [(id: Int64, line: LedgerRow)]], _ source: SalvageSource
    ) throws(SQLiteError) {
        let epochs = try connection.prepare(
            """
            INSERT INTO epoch (id, epoch, last_sequence, first_frame, last_frame, closed, reported)
            VALUES (?, ?, ?, ?, ?, 1, ?)
            """)
        let absences = try connection.prepare("INSERT INTO absent VALUES (?, ?, ?)")
        let burials = try connection.prepare("INSERT INTO buried VALUES (?, ?)")
        var inserts: [Int: SQLiteStatement] = [:]
        defer {
            epochs.finalize()
            absences.finalize()
            burials.finalize()
            for statement in inserts.values { statement.finalize() }
        }
        for epoch in plan.epochs where epoch.lastSequence > 0 {
            let first = end.frame + 1
            let lines = ledger[epoch.row] ?? []
            let accounted = AccountedNumbers(lines.map { LedgerLine($0.line, epoch: epoch.epoch) })
            // Where it is not known which are of an earlier salvage, rather too many are missing than too few.
            let ownLines = lines.filter { $0.id > source.progress?.carriedLedger ?? .max }
            var missing = MissingMessages(
                epoch: epoch.epoch, lastSequence: epoch.lastSequence, settled: epoch.settled,
                isFromStart: epoch.isFromStart, ledger: ownLines.map { LedgerLine($0.line, epoch: epoch.epoch) },
                accounted: accounted)
            var carried = IntervalSet(maximumRanges: .max)
            for index in epoch.frames {
                guard let row = source.scan.row(of: source.scan.frames[Int(index)]) else {
                    report.unreadable += 1
                    continue
                }
                missing.add(row.frame)
                // Dropped, and found in a page that is free; or some of its messages are dead letters.
                let buried = accounted.positions(in: row.frame)
                guard buried.count < row.count else { continue }
                try insert(row, epoch: epoch.row, &inserts)
                for position in buried {
                    burials.bind(1, end.frame)
                    burials.bind(2, Int64(position))
                    try burials.run()
                }
                // Cannot throw: the sequences of a frame fit, and the number of ranges is not bounded.
                _ = try? carried.insert(row.firstSequence...(row.firstSequence + UInt64(row.count) - 1))
            }
            for (index, value) in [epoch.row, 0, Int64(epoch.lastSequence), first, end.frame].enumerated() {
                epochs.bind(Int32(index + 1), value)
            }
            epochs.bind(2, epoch.epoch.blob)
            epochs.bind(6, epoch.isReported ? 1 : 0)
            try epochs.run()
            for range in end.frame < first ? [] : carried.gaps(in: 1...epoch.lastSequence) {
                absences.bind(1, epoch.row)
                absences.bind(2, Int64(range.lowerBound))
                absences.bind(3, Int64(range.upperBound))
                try absences.run()
            }
            let lost = missing.lines()
            try write(lost.lines.map { LedgerRow($0, epoch: epoch.row) })
            // Wrong bits may claim any number of them.
            report.missing = report.missing.addingSaturated(lost.messages)
        }
    }

    private mutating func insert(
        _ row: FrameColumns.Row, epoch: Int64, _ statements: inout [Int: SQLiteStatement]
    ) throws(SQLiteError) {
        // Columns that a row of an older layout does not have keep their defaults.
        let used = min(row.values.count, frameColumns.count)
        let statement: SQLiteStatement
        if let known = statements[used] {
            statement = known
        } else {
            let names = frameColumns.prefix(used).filter { $0 != "checksum" } + ["checksum"]
            statement = try connection.prepare(
                """
                INSERT INTO frame (\(names.joined(separator: ", ")))
                VALUES (\(names.map { _ in "?" }.joined(separator: ", ")))
                """)
            statements[used] = statement
        }
        end.frame += 1
        end.messages += Int64(row.count)
        end.bytes += Int64(row.header.readableBytes + row.records.readableBytes)
        var index: Int32 = 0
        for (column, value) in zip(frameColumns, row.values) where column != "checksum" {
            index += 1
            switch column {
            case "id": statement.bind(index, end.frame)
            case "epoch": statement.bind(index, epoch)
            case "total_messages": statement.bind(index, end.messages)
            case "total_bytes": statement.bind(index, end.bytes)
            case "rank" where row.isHeld: statement.bind(index, (value.integer ?? 0) - Schema.heldRank)
            default: statement.bind(index, value)
            }
        }
        statement.bind(
            index + 1,
            FrameChecksum.of(
                id: end.frame, totalMessages: end.messages, header: row.header, records: row.records))
        try statement.run()
        report.frames += 1
        report.messages += row.count
    }

    // MARK: Ledger

    private static func readLedger(_ tables: inout TableReader) -> [(id: Int64, line: LedgerRow)] {
        var lines: [(id: Int64, line: LedgerRow)] = []
        tables.rows(of: "ledger") { id, values in
            if let line = LedgerRow(values) { lines.append((id, line)) }
        }
        return lines
    }

    /// Reported lines too: which were is a number that a wrong bit may have made larger, and the cloud drops repeats.
    private mutating func write(_ ledger: [LedgerRow]) throws(SQLiteError) {
        let statement = try connection.prepare(LedgerRow.insertion)
        defer { statement.finalize() }
        for line in ledger {
            try line.insert(with: statement)
            report.ledgerLines += 1
        }
    }
}
