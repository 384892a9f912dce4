import Database

/// Drops days of rows, in steps that a crash may come between at any point: what is detached and not dropped is dropped by
/// the next pass.
struct Retirement: Sendable {
    /// Why a day's rows stay.
    enum Obstacle: Error, Sendable, Equatable, CustomStringConvertible {
        case notRolledUp
        case notArchived
        case noArchive
        case longTransactions
        case locked

        var description: String {
            switch self {
            case .notRolledUp: "its hours are not rolled up; is the flag on? See sluice database flags"
            case .notArchived:
                "the archive does not have it yet; without an archive: sluice database flags set archive off"
            case .noArchive: "days wait for the archive, and the schema has none: run sluice migrate up"
            case .locked: "a table of the day is locked; it is tried again"
            case .longTransactions: "a transaction has been reading the tables for long; it is tried again"
            }
        }
    }

    /// This process has an archive; else the database says whether another one has.
    let hasArchive: Bool

    /// Asked in the transaction that drops: a pass may take long, and somebody turn the flag on meanwhile.
    private func waitsForArchive(on connection: isolated PostgresConnection) throws(PostgresError) -> Bool {
        if hasArchive { return true }
        return try FeatureFlags.read(on: connection)[.archive]?.isEnabled ?? false
    }

    /// Where the rows of a day are.
    private struct Rows {
        var measurements: String
        var events: String
    }

    // MARK: Plain PostgreSQL

    /// Takes a day's partitions out of their tables. Returns when no transaction can write to them any more.
    func detach(
        _ day: Int32, _ tables: [DayTable], computedBefore: Int64?, on connection: isolated PostgresConnection
    ) throws {
        let attached = tables.filter { $0.state == .attached }
        if !attached.isEmpty, try RetirementStore.hasLongTransactions(on: connection) {
            throw Obstacle.longTransactions
        }
        do { try check(day, Self.live(day), computedBefore: computedBefore, on: connection) } catch let obstacle
            as Obstacle
        {
            // What an earlier pass began does not go after all.
            let taken = tables.filter { $0.state != .attached && !attached.map(\.parent).contains($0.parent) }
            try attach(taken, on: connection)
            throw obstacle
        }
        for table in attached { try RetirementStore.detach(table, on: connection) }
    }

    /// One transaction: the last sums, the record of what goes, and the end of the day's detached tables.
    func drop(_ day: Int32, _ tables: [DayTable], on connection: isolated PostgresConnection) throws {
        try connection.run("BEGIN")
        do {
            // Late rows may have come after the first look; nobody reaches the tables now.
            try settle(day, rows(of: tables), on: connection)
            for table in tables { try connection.run("DROP TABLE \(table.name)") }
            try RetirementStore.markRetired(day, on: connection)
            try connection.run("COMMIT")
        } catch {
            connection.rollBack()
            if error is Obstacle { try attach(tables, on: connection) }
            throw error
        }
    }

    /// The archive reads rows where they were.
    private func attach(_ tables: [DayTable], on connection: isolated PostgresConnection) throws {
        // A second one of the same day would overlap; it holds late rows, and goes or stays with the next pass.
        var parents: Set<String> = []
        for table in tables where parents.insert(table.parent).inserted {
            try RetirementStore.attach(table, on: connection)
        }
    }

    private func rows(of tables: [DayTable]) -> Rows {
        let union = { (parent: String, columns: String) in
            let parts = tables.filter { $0.parent == parent }.map { "SELECT \(columns) FROM \($0.name)" }
            // A day may have lost one of its tables to an operator.
            return
                "(\(parts.isEmpty ? "SELECT \(columns) FROM \(parent) WHERE false" : parts.joined(separator: " UNION ALL ")))"
        }
        return Rows(
            measurements: union("measurement", "time, metric_id, value, source, sequence, part, parts"),
            events: union("event", "source, sequence, part, parts, kind"))
    }

    // MARK: TimescaleDB

    func dropChunks(_ day: Int32, computedBefore: Int64?, on connection: isolated PostgresConnection) throws {
        if try RetirementStore.hasLongTransactions(on: connection) { throw Obstacle.longTransactions }
        try check(day, Self.live(day), computedBefore: computedBefore, on: connection)
        try connection.run("BEGIN")
        do {
            try RetirementStore.lockChunks(day, on: connection)
            try settle(day, Self.live(day), on: connection)
            try RetirementStore.dropChunks(day, on: connection)
            try RetirementStore.markRetired(day, on: connection)
            try connection.run("COMMIT")
        } catch {
            connection.rollBack()
            throw error
        }
    }

    // MARK: Both

    /// As writers and readers see them.
    private static func live(_ day: Int32) -> Rows {
        let window = """
            WHERE time >= timestamptz 'epoch' + \(day) * interval '1 day'
            AND time < timestamptz 'epoch' + \(day + 1) * interval '1 day'
            """
        return Rows(measurements: "(SELECT * FROM measurement \(window))", events: "(SELECT * FROM event \(window))")
    }

    private func check(
        _ day: Int32, _ rows: Rows, computedBefore: Int64?, on connection: isolated PostgresConnection
    ) throws {
        guard let computedBefore, (Int64(day) + 1) * 24 <= computedBefore else { throw Obstacle.notRolledUp }
        if try waitsForArchive(on: connection) { try checkArchive(day, rows, on: connection) }
    }

    private func checkArchive(_ day: Int32, _ rows: Rows, on connection: isolated PostgresConnection) throws {
        switch try RetirementStore.archive(
            day, measurements: rows.measurements, events: rows.events, on: connection)
        {
        case .none: throw Obstacle.noArchive
        case .incomplete: throw Obstacle.notArchived
        case .complete: break
        }
    }

    /// What is to be known of the rows before they go.
    private func settle(_ day: Int32, _ rows: Rows, on connection: isolated PostgresConnection) throws {
        let isPartlyArchived = try RetirementStore.lockArchive(day, on: connection)
        let waitsForArchive = try waitsForArchive(on: connection)
        if waitsForArchive { try checkArchive(day, rows, on: connection) }
        try sumUp(day, rows, on: connection)
        if !waitsForArchive {
            try RetirementStore.note(
                day: day, measurements: rows.measurements, events: rows.events, isPartlyArchived: isPartlyArchived,
                on: connection)
        }
        if isPartlyArchived { try RetirementStore.markDropped(day, on: connection) }
    }

    /// The first time, hours with late rows are summed up again from all rows. Later the day has only rows that came after
    /// its first end: they are added, once, for they go with this transaction.
    private func sumUp(_ day: Int32, _ rows: Rows, on connection: isolated PostgresConnection) throws {
        let hours = try RetirementStore.takeMarks(day, on: connection)
        if try RetirementStore.wasRetired(day, on: connection) {
            try RollupStore.add(rows.measurements, on: connection)
            try RollupStore.sum(day: day, on: connection)
        } else if !hours.isEmpty {
            for hour in hours { try RollupStore.sum(hour: hour, of: rows.measurements, on: connection) }
            try RollupStore.sum(day: day, on: connection)
        }
    }
}
