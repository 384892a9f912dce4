import Database
import NIOCore
import ObjectStore
import SyncModel

/// Moves whole days into the archive, one at a time, in an order in which every step can be repeated:
///
/// 1. The day's rows that are not archived yet go into files, read in one snapshot. A file's key is its content's digest.
/// 2. A manifest names the files and the messages in them. It is created under the day's next number: only one can be.
///    From here on the rows are archived; a run that finds such a manifest takes it as it is.
/// 3. One transaction takes the manifest into the database.
/// 4. Files that no manifest names, of runs that ended between 1 and 2, are deleted.
///
/// Rows that come later differ in number from the archive's: the same steps write an addendum of the messages that are not
/// in the archive's ranges.
package struct Archiver: Sendable {
    package enum Step: String, Sendable, Equatable, CaseIterable {
        case fileWritten, manifestWritten, manifestAdopted, leftoverDeleted, dayMarked, objectDeleted
    }

    package struct Summary: Sendable, Equatable {
        package var days = 0
        package var addenda = 0
        package var rows: [ArchiveTable: Int] = [:]
        package var bytes = 0
        package var deletedObjects = 0

        package init() {}
    }

    package struct Settings: Sendable {
        /// Seconds after its end at which a day is archived, and deleted.
        package var after: Int64
        package var keep: Int64
        /// Unpacked bytes of a file; one chunk more at most.
        package var fileBytes = 64 * 1024 * 1024
        /// Read from the database at a time.
        package var chunkBytes = 1024 * 1024
        /// Seconds after which an archived day's rows are counted again.
        package var recheck: Int64 = 86_400
        /// Milliseconds of a statement, and until the first or next row of a day that is read: a server that is silent for
        /// longer hangs, and may not keep the archive's lock.
        package var statementLimit = 300_000
        /// The same of statements that read a day before they have anything to say.
        package var scanLimit = 7_200_000
        /// Milliseconds that an answer may be late.
        package var answerGrace = 5_000

        package init(after: Int64, keep: Int64) {
            self.after = after
            self.keep = keep
        }
    }

    private static let second: Int64 = 1_000_000
    /// A day is counted and written so often in one run; rows that come meanwhile wait for the next.
    private static let rounds = 3

    private let database: PostgresConfiguration
    private let settings: Settings
    private let catalog: ArchiveCatalog
    /// Called after each step; what it throws ends the run there.
    private let step: @Sendable (Step) async throws(ArchiveError) -> Void

    package init(
        database url: String, store: any ObjectStore, settings: Settings,
        step: @escaping @Sendable (Step) async throws(ArchiveError) -> Void = { _ async throws(ArchiveError) in }
    ) {
        var database = PostgresConfiguration(url: url, applicationName: "sluice-archive")
        database.statementTimeout = settings.statementLimit
        database.answerGrace = settings.answerGrace
        // Between two statements the object store may take its time.
        database.idleInTransactionTimeout = 0
        self.database = database
        catalog = ArchiveCatalog(store)
        self.settings = settings
        self.step = step
    }

    /// Archives what is due and deletes what is over.
    ///
    /// - Parameter now: seconds since 1970.
    /// - Returns: `nil` where another process works on the archive.
    package func run(now: Int64) async throws(ArchiveError) -> Summary? {
        try await connected { connection async throws(ArchiveError) in try await run(now: now, connection) }
    }

    /// Gives `body` a connection that ends with the task, whatever its server does.
    private func connected<Value: Sendable>(
        _ body: (PostgresConnection) async throws(ArchiveError) -> Value
    ) async throws(ArchiveError) -> Value {
        let connection = try await queried { () throws(PostgresError) in
            try await PostgresConnection.connect(database)
        }
        let result: Result<Value, ArchiveError> = await withTaskCancellationHandler {
            do throws(ArchiveError) {
                try await queried { () throws(PostgresError) in try await connection.run(Self.noticesItsClientsEnd) }
                return .success(try await body(connection))
            } catch {
                return .failure(Task.isCancelled ? .interrupted : error)
            }
        } onCancel: {
            connection.interrupt()
        }
        await connection.close()
        return try result.get()
    }

    /// The server ends a statement whose client has gone, and with it the session and its lock; from PostgreSQL 14 on.
    private static let noticesItsClientsEnd = """
        SELECT set_config(name, '10s', false) FROM pg_settings WHERE name = 'client_connection_check_interval'
        """

    private func run(now: Int64, _ connection: PostgresConnection) async throws(ArchiveError) -> Summary? {
        guard try await queried({ () throws(PostgresError) in try await ArchiveState.lock(connection) }) else {
            return nil
        }
        let time = try await queried { () throws(PostgresError) in
            try await DeletionEvidence.deletionTime(now: now * Self.second, on: connection)
        }
        var summary = Summary()
        try await archive(told: time.clocks.told / Self.second, &summary, connection)
        // Days that are written too early are written again; what is deleted does not come back.
        if let limit = time.limit { try await deleteOld(limit: limit / Self.second, &summary, connection) }
        return summary
    }

    /// - Parameter now: seconds since 1970.
    private func archive(
        told now: Int64, _ summary: inout Summary, _ connection: PostgresConnection
    ) async throws(ArchiveError) {
        // The first day that is too young.
        let limit = ArchiveDay(secondsSince1970: now - settings.after)
        var from = ArchiveDay(secondsSince1970: 0)
        while true {
            let start = from
            let day = try await queried { () throws(PostgresError) in
                try await ArchiveState.nextDay(from: start, before: limit, connection)
            }
            guard let day else { break }
            if Task.isCancelled { throw .interrupted }
            try await archive(day, now: now, &summary, connection)
            from = day.next
        }
    }

    private func archive(
        _ day: ArchiveDay, now: Int64, _ summary: inout Summary, _ connection: PostgresConnection
    ) async throws(ArchiveError) {
        for _ in 0..<Self.rounds {
            let state = try await queried { () throws(PostgresError) in try await ArchiveState.day(day, connection) }
            if let state, try await isComplete(day, state, now: now, connection) { return }
            let number = state?.manifests ?? 0
            guard let manifest = try await existingOrNew(day, number, &summary) else { return }
            try await queried { () throws(PostgresError) in
                try await ArchiveState.adopt(manifest, of: day, now: now, connection)
            }
            try await step(.manifestAdopted)
            if number == 0 { summary.days += 1 } else { summary.addenda += 1 }
            try await deleteLeftovers(of: day, connection)
        }
    }

    /// Whether nothing is to be done for a day that is in the archive: its rows were counted not long ago, or are now.
    private func isComplete(
        _ day: ArchiveDay, _ state: ArchiveState.Day, now: Int64, _ connection: PostgresConnection
    ) async throws(ArchiveError) -> Bool {
        if state.isDeleted { return true }
        // One that the database does not know yet: a run ended before its third step.
        if try await catalog.manifest(day, state.manifests) != nil { return false }
        // The clock may have been set back.
        if abs(now - state.checkedAt) < settings.recheck { return true }
        let isComplete = try await queried { () throws(PostgresError) in
            try await connection.limitStatements(to: settings.scanLimit)
            let isComplete = try await ArchiveState.isComplete(day, connection)
            try await connection.limitStatements(to: settings.statementLimit)
            return isComplete
        }
        guard isComplete else { return false }
        try await queried { () throws(PostgresError) in try await ArchiveState.checked(day, now: now, connection) }
        return true
    }

    /// Days that are old enough and not in the archive at all.
    ///
    /// - Parameter now: seconds since 1970.
    package func due(now: Int64) async throws(ArchiveError) -> Int {
        try await connected { connection async throws(ArchiveError) in
            try await queried { () throws(PostgresError) in
                let told = min(now, try await DeletionEvidence.clock(on: connection) / Self.second)
                return try await ArchiveState.due(
                    before: ArchiveDay(secondsSince1970: told - settings.after), connection)
            }
        }
    }

    // MARK: Writing

    /// - Returns: `nil` where no row is left to be archived.
    private func existingOrNew(
        _ day: ArchiveDay, _ number: Int, _ summary: inout Summary
    ) async throws(ArchiveError) -> ArchiveCatalog.Manifest? {
        if let manifest = try await catalog.manifest(day, number) { return manifest }
        let content = try await connected { connection async throws(ArchiveError) in
            try await write(day, number, connection)
        }
        guard content.rows > 0 else { return nil }
        let bytes = try content.encoded()
        guard bytes.readableBytes <= ArchiveManifest.maximumBytes else {
            throw .badRow("\(day): its manifest would have more than \(ArchiveManifest.maximumBytes) bytes")
        }
        let key = ArchiveKeys.manifest(day, number)
        let isNew = try await stored { () throws(ObjectStoreError) in try await catalog.store.create(key, bytes) }
        try await step(.manifestWritten)
        guard isNew else { return try await catalog.manifest(day, number) }
        summary.rows[.measurement, default: 0] += content.measurementRows
        summary.rows[.event, default: 0] += content.eventRows
        summary.bytes += content.bytes
        return .init(content: content, digest: ArchiveCollector.digest(of: bytes))
    }

    /// Both tables in one snapshot, since a message may have rows in both.
    private func write(
        _ day: ArchiveDay, _ number: Int, _ connection: PostgresConnection
    ) async throws(ArchiveError) -> ArchiveManifest {
        var collector = try ArchiveCollector(day: day, number: number, fileBytes: settings.fileBytes)
        let isAddendum = number > 0
        try await queried { () throws(PostgresError) in
            // A statement here takes as long as the object store takes its rows. Most rows of an addendum's scan are in the
            // archive, and not sent.
            try await connection.limitStatements(to: 0)
            await connection.expectAnswers(
                within: (isAddendum ? settings.scanLimit : settings.statementLimit) + settings.answerGrace)
            try await connection.run(PostgresConnection.TransactionKind.readOnlySnapshot.rawValue)
        }
        for table in ArchiveTable.allCases {
            try await queried { () throws(PostgresError) in
                try await connection.startCopyOut(table.export(day, isAddendum: isAddendum))
            }
            var isLast = false
            while !isLast {
                if Task.isCancelled { throw .interrupted }
                let chunk = try await queried { () throws(PostgresError) in
                    try await connection.readCopyOut(maximumBytes: settings.chunkBytes)
                }
                isLast = chunk.isLast
                try await put(try collector.add(chunk.rows, of: table))
            }
            try await put(try collector.finish(table))
        }
        return collector.finishedManifest()
    }

    private func put(_ file: ArchiveCollector.File?) async throws(ArchiveError) {
        guard let file else { return }
        // One that is there has the same content.
        _ = try await stored { () throws(ObjectStoreError) in try await catalog.store.create(file.key, file.bytes) }
        try await step(.fileWritten)
    }

    // MARK: Deleting

    private func deleteLeftovers(of day: ArchiveDay, _ connection: PostgresConnection) async throws(ArchiveError) {
        let named = Set(try await catalog.manifests(day).flatMap { $0.content.files.map(\.key) })
        for key in try await catalog.keys(ArchiveKeys.folder(day))
        where ArchiveKeys.number(ofManifest: key, day) == nil && !named.contains(key) {
            // The lock is this connection's: who has lost it may not delete another's files.
            try await queried { () throws(PostgresError) in try await connection.run("SELECT 1") }
            try await stored { () throws(ObjectStoreError) in try await catalog.store.delete(key) }
            try await step(.leftoverDeleted)
        }
    }

    /// The database first: from then on nobody expects the objects. What a crash leaves is found again by its age.
    ///
    /// - Parameter time: by which days are over, seconds since 1970.
    private func deleteOld(
        limit time: Int64, _ summary: inout Summary, _ connection: PostgresConnection
    ) async throws(ArchiveError) {
        let limit = ArchiveDay(secondsSince1970: time - settings.keep)
        var isMarked = false
        var after: String?
        // The oldest days come first. What is under archive/ and is none of ours stays, and does not stop the others.
        while true {
            let page = try await catalog.page(after: after)
            for key in page {
                guard let day = ArchiveKeys.day(ofKey: key) else { continue }
                if day >= limit { return }
                if !isMarked {
                    try await queried { () throws(PostgresError) in
                        try await ArchiveState.markDeleted(before: limit, connection)
                    }
                    isMarked = true
                    try await step(.dayMarked)
                }
                try await stored { () throws(ObjectStoreError) in try await catalog.store.delete(key) }
                summary.deletedObjects += 1
                try await step(.objectDeleted)
            }
            guard page.count == ArchiveCatalog.page, let last = page.last else { return }
            after = last
        }
    }
}
