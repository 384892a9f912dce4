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

    mutating func write(_ source: SalvageSource) throws(SQLiteError) {
        var tables = source.tables
        try connection.execute("BEGIN")
        let ledger = Self.readLedger(&tables)
        var settled: [Int64: [ClosedRange<UInt64>]] = [:]
        for line in ledger where line.isDense { settled[line.epoch, default: []].append(line.sequences) }
        let plan = SalvagePlan(source, ledger: settled)
        try write(plan, source)
        let rows = Set(plan.epochs.map(\.row))
        for line in ledger where rows.contains(line.epoch) { try insert(line) }
        try carryStamps(from: &tables)
        for table in TableCopy.sessionTables + TableCopy.recordTables {
            report.stateRows += try TableCopy(into: connection).copy(table, from: &tables)
        }
        try connection.execute(TableCopy.sanitation)
        let cut = try connection.prepare("UPDATE progress SET last_cut = ?")
        defer { cut.finalize() }
        cut.bind(1, source.progress?.lastCut ?? 0)
        try cut.run()
        try connection.execute("COMMIT")
        report.isProgressKnown = source.progress != nil
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

    private mutating func write(_ plan: SalvagePlan, _ source: SalvageSource) throws(SQLiteError) {
        let epochs = try connection.prepare(
            """
            INSERT INTO epoch (id, epoch, last_sequence, first_frame, last_frame, closed, reported)
            VALUES (?, ?, ?, ?, ?, 1, ?)
            """)
        let absences = try connection.prepare("INSERT INTO absent VALUES (?, ?, ?)")
        var inserts: [Int: SQLiteStatement] = [:]
        defer {
            epochs.finalize()
            absences.finalize()
            for statement in inserts.values { statement.finalize() }
        }
        for epoch in plan.epochs where epoch.lastSequence > 0 {
            let first = end.frame + 1
            var missing = MissingMessages(
                epoch: epoch.epoch, lastSequence: epoch.lastSequence, settled: epoch.settled,
                isFromStart: epoch.isFromStart)
            var carried = IntervalSet(maximumRanges: .max)
            for index in epoch.frames {
                guard let row = source.scan.row(of: source.scan.frames[Int(index)]), let frame = row.frame else {
                    report.unreadable += 1
                    continue
                }
                try insert(row, epoch: epoch.row, &inserts)
                missing.add(frame)
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
            for line in lost.lines { try insert(StoredLine(line, epoch: epoch.row)) }
            // Wrong bits may claim any number of them.
            report.missing =
                report.missing.addingReportingOverflow(lost.messages).overflow ? .max : report.missing + lost.messages
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

    private struct StoredLine {
        var epoch: Int64
        var device: String
        var sequences: ClosedRange<UInt64>
        var numbers: ClosedRange<UInt64>
        var reason: LedgerReason

        /// It counts as many messages as it spans, so it says which they were.
        var isDense: Bool {
            sequences.upperBound - sequences.lowerBound == numbers.upperBound - numbers.lowerBound
        }

        init(_ line: LedgerLine, epoch: Int64) {
            self.epoch = epoch
            device = line.device
            sequences = line.sequences
            numbers = line.numbers
            reason = line.reason
        }

        /// id, epoch, device, first_sequence, last_sequence, first_number, last_number, reason.
        init?(_ values: [StoredValue]) {
            func range(_ first: Int) -> ClosedRange<UInt64>? {
                guard let low = values[first].integer, let high = values[first + 1].integer, 0 < low, low <= high,
                    SyncLimits.numbers ~= UInt64(high)
                else { return nil }
                return UInt64(low)...UInt64(high)
            }
            guard values.count >= 8, let epoch = values[1].integer, let device = values[2].string,
                Identifier.isValid(device), let sequences = range(3), let numbers = range(5),
                numbers.upperBound - numbers.lowerBound <= sequences.upperBound - sequences.lowerBound,
                let value = values[7].integer, let reason = LedgerReason(rawValue: UInt32(clamping: value))
            else { return nil }
            self.epoch = epoch
            self.device = device
            self.sequences = sequences
            self.numbers = numbers
            self.reason = reason
        }
    }

    private static func readLedger(_ tables: inout TableReader) -> [StoredLine] {
        var lines: [StoredLine] = []
        tables.rows(of: "ledger") { _, values in
            if let line = StoredLine(values) { lines.append(line) }
        }
        return lines
    }

    private mutating func insert(_ line: StoredLine) throws(SQLiteError) {
        let statement = try connection.prepare(
            """
            INSERT INTO ledger (epoch, device, first_sequence, last_sequence, first_number, last_number, reason)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            """)
        defer { statement.finalize() }
        statement.bind(1, line.epoch)
        statement.bind(2, line.device)
        let values = [
            line.sequences.lowerBound, line.sequences.upperBound, line.numbers.lowerBound, line.numbers.upperBound,
            UInt64(line.reason.rawValue),
        ]
        for (index, value) in values.enumerated() { statement.bind(Int32(index + 3), Int64(value)) }
        try statement.run()
        report.ledgerLines += 1
    }
}
