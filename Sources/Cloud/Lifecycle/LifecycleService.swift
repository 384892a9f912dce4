import Database
import Logging
import NIOConcurrencyHelpers
import Operations
import ServiceLifecycle
import SyncModel

/// Keeps the tables in shape: partitions for the next days, roll-ups, and the end of days that are no longer hot. Every
/// process may run one: an advisory lock lets one at a time work.
package struct LifecycleService: Service {
    /// Of `pg_try_advisory_lock`; any number that nothing else in the database uses.
    private static let lockKey: Int64 = 0x736C_7569_6366

    private let configuration: LifecycleConfiguration
    private let logger: Logger
    /// Microseconds since 1970.
    private let now: @Sendable () -> Int64
    private let metrics = LifecycleMetrics()
    /// Whether the last pass found its clock ahead of all evidence, so that it is said once.
    private let isHeldBack = NIOLockedValueBox(false)

    package init(
        configuration: LifecycleConfiguration, logger: Logger,
        now: @escaping @Sendable () -> Int64 = SystemClock.wallMicroseconds
    ) {
        self.configuration = configuration
        self.logger = logger
        self.now = now
    }

    package func run() async throws {
        while !Task.isCancelled, !Task.isShuttingDownGracefully {
            do { try await pass() } catch is CancellationError {
                break
            } catch {
                if Task.isCancelled || Task.isShuttingDownGracefully { break }
                metrics.failed()
                let hint =
                    (error as? PostgresError)?.category == .setup ? "; run sluice migrate up, or grant the rights" : ""
                logger.error("The work on the life of the data is tried again", [.error: "\(error)\(hint)"])
            }
            try? await cancelWhenGracefulShutdown { try await Task.sleep(for: configuration.interval) }
        }
    }

    /// One pass, unless another process is at work.
    ///
    /// - Returns: whether this one worked.
    @discardableResult
    package func pass() async throws -> Bool {
        var settings = PostgresConfiguration(url: configuration.database, applicationName: "sluice-lifecycle")
        settings.statementTimeout = configuration.statementTimeout
        settings.lockTimeout = configuration.lockTimeout
        let connection = try await PostgresConnection.connect(settings)
        let pid = await connection.backendPID
        let isDone: Bool
        do {
            isDone = try await withThrowingTaskGroup(of: Bool?.self) { group in
                group.addTask { try await work(on: connection) }
                // A roll-up may take minutes, a shutdown may not; what is rolled back is done by the next pass.
                group.addTask {
                    try? await gracefulShutdown()
                    if Task.isShuttingDownGracefully {
                        await cancel(pid)
                        // A server that hangs does not end it.
                        connection.interrupt()
                    }
                    return nil
                }
                var isDone = false
                while let result = try await group.next() {
                    if let result {
                        isDone = result
                        group.cancelAll()
                    }
                }
                return isDone
            }
        } catch {
            await connection.close()
            throw error
        }
        await connection.close()
        return isDone
    }

    private func cancel(_ pid: Int32) async {
        let settings = PostgresConfiguration(url: configuration.database, applicationName: "sluice-lifecycle")
        guard let connection = try? await PostgresConnection.connect(settings) else { return }
        try? await connection.run("SELECT pg_terminate_backend(\(pid))")
        await connection.close()
    }

    private func work(on connection: PostgresConnection) async throws -> Bool {
        // The session's: it ends with the connection, however that ends.
        guard try await RetirementStore.lock(Self.lockKey, on: connection) else { return false }
        // Nothing is dropped in a database that may not be the one to go on with.
        try await ProgramSchema.admit(on: connection)
        let now = self.now()
        // By this process's own clock: one too many does no harm, and one that is missing is made by who needs it.
        try await RetirementStore.makePartitions(
            from: Self.day(of: now), count: configuration.daysAhead + 1, on: connection)
        if configuration.hasArchive { try await announceArchive(on: connection) }
        let time = try await DeletionEvidence.deletionTime(now: now, on: connection)
        report(time)
        let leaving = try await leftOver(on: connection)
        let computedBefore = try await rollUp(now: time.clocks.told, leaving: leaving, on: connection)
        if let limit = time.limit { try await delete(by: limit, computedBefore: computedBefore, on: connection) }
        metrics.passed(now: now)
        return true
    }

    private static func day(of time: Int64) -> Int32 { Int32(clamping: time / 86_400_000_000) }

    /// Everything that goes for its age.
    private func delete(by limit: Int64, computedBefore: Int64?, on connection: PostgresConnection) async throws {
        let today = Self.day(of: limit)
        try await retire(
            before: configuration.window.oldest(today: today), computedBefore: computedBefore,
            on: connection)
        let oldest = configuration.window.oldestRollup(today: today, rollupDays: configuration.rollupDays)
        let deleted = try await RetirementStore.deleteRollups(before: oldest, on: connection)
        if deleted > 0 { logger.notice("Hourly roll-ups beyond rollupDays are deleted", [.count: "\(deleted)"]) }
        let traces = limit - Int64(configuration.window.hotDays) * 86_400_000_000
        for _ in 0..<configuration.traceRounds where !isStopping {
            let forgotten = try await RetirementStore.forgetTraces(
                before: traces, most: configuration.tracesAtOnce, on: connection)
            if forgotten < configuration.tracesAtOnce { break }
        }
    }

    private func report(_ time: DeletionTime) {
        metrics.clock(ahead: time.ahead)
        let wasHeldBack = isHeldBack.withLockedValue { held in
            defer { held = time.isHeldBack }
            return held
        }
        guard time.isHeldBack != wasHeldBack else { return }
        guard time.isHeldBack else {
            logger.notice("The clock agrees with the data again: what is beyond its time goes")
            return
        }
        let text = { (time: Int64) in RFC3339.text(secondsSince1970: time / 1_000_000) }
        logger.warning(
            """
            The clock is ahead of all evidence: what is deleted for its age stays until newer data comes. If the clock is \
            wrong, set it; if no data has come since, nothing has to be done
            """,
            [
                .reason: """
                this clock says \(text(time.clocks.process)), the database's \(text(time.clocks.database)), \
                and the newest data is of \(time.evidence.map(text) ?? "no time")
                """
            ])
    }

    /// Unless somebody has set the flag, be it to off.
    private func announceArchive(on connection: PostgresConnection) async throws {
        let flags = try await FeatureFlags.read(on: connection)
        // Without any flag the schema has no table of them.
        guard !flags.isEmpty, flags[.archive] == nil else { return }
        if try await FeatureFlags.set(.archive, enabled: true, on: connection) {
            logger.notice("From now on days are dropped only when the archive has them, by every process")
        }
    }

    private var isStopping: Bool { Task.isCancelled || Task.isShuttingDownGracefully }

    // MARK: Roll-ups

    /// - Parameter leaving: days whose rows are not where roll-ups look for them.
    /// - Returns: how far it came; `nil`: it has not begun.
    private func rollUp(
        now: Int64, leaving: Set<Int32>, on connection: PostgresConnection
    ) async throws -> Int64? {
        let flag = try await FeatureFlags.read(on: connection)[.rollups]
        var progress = try await RollupStore.progress(on: connection)
        guard let flag, flag.isEnabled else { return progress.computedBefore }
        let age = try await RollupStore.age(of: flag.changedAt, on: connection)
        guard age >= configuration.flagDelay.microseconds else { return progress.computedBefore }
        if progress.markingSince != flag.changedAt {
            guard try await quiet(on: connection) else { return progress.computedBefore }
            try await RollupStore.startMarking(since: flag.changedAt, on: connection)
        }
        let open = RollupSchedule.open(now: now, delay: configuration.closeDelay.microseconds)
        if open > progress.closedBefore ?? .min { try await RollupStore.close(before: open, on: connection) }
        // Whoever read the progress before it was closed has marked nothing: its rows must be there to be summed up.
        guard try await quiet(on: connection) else { return progress.computedBefore }
        progress = try await RollupStore.progress(on: connection)
        guard var computed = progress.computedBefore, let closed = progress.closedBefore else { return nil }
        let deadline = ContinuousClock.now + configuration.rollupBudget
        while computed < closed, ContinuousClock.now < deadline, !isStopping {
            try await rollUp(computed, computedBefore: computed, advancing: true, on: connection)
            computed += 1
        }
        try await rollUpAgain(before: computed, leaving: leaving, until: deadline, now: now, on: connection)
        return computed
    }

    private func rollUpAgain(
        before computed: Int64, leaving: Set<Int32>, until deadline: ContinuousClock.Instant, now: Int64,
        on connection: PostgresConnection
    ) async throws {
        let waiting = try await RollupStore.waiting(
            before: computed, delay: configuration.againDelay, limit: 1_000, on: connection)
        metrics.progress(computedBefore: computed, waiting: waiting.count)
        for hour in waiting.due where ContinuousClock.now < deadline && !isStopping {
            let day = RollupSchedule.day(of: hour)
            // Rows of a day that has ended are added to its sums when they go.
            if leaving.contains(day) { continue }
            if try await RetirementStore.wasRetired(day, on: connection) { continue }
            try await rollUp(hour, computedBefore: computed, advancing: false, on: connection)
        }
    }

    private func rollUp(
        _ hour: Int64, computedBefore: Int64, advancing: Bool, on connection: PostgresConnection
    ) async throws {
        let started = ContinuousClock.now
        try await RollupStore.rollUp(hour: hour, computedBefore: computedBefore, advancing: advancing, on: connection)
        metrics.rolledUp(again: !advancing, seconds: Double((ContinuousClock.now - started).microseconds) / 1e6)
    }

    /// Waits for all transactions that are writing now.
    private func quiet(on connection: PostgresConnection) async throws -> Bool {
        let barrier = try await RollupStore.barrier(on: connection)
        let deadline = ContinuousClock.now + configuration.quietTimeout
        while try await !RollupStore.isQuiet(before: barrier, on: connection) {
            if ContinuousClock.now > deadline || isStopping {
                logger.warning("A transaction that writes has been open for long: roll-ups wait for it")
                return false
            }
            try await Task.sleep(for: .milliseconds(50))
        }
        return true
    }

    // MARK: Days

    /// Days that an earlier pass began to take away. A table has at most one partition that is being detached, so that is
    /// finished before anything else is.
    private func leftOver(on connection: PostgresConnection) async throws -> Set<Int32> {
        if try await RetirementStore.isHypertable(on: connection) { return [] }
        let tables = try await RetirementStore.tables(on: connection).filter { $0.state != .attached }
        for table in tables where table.state == .detachPending {
            try await RetirementStore.finishDetaching(table, on: connection)
        }
        return Set(tables.map(\.day))
    }

    private func retire(
        before oldest: Int32, computedBefore: Int64?, on connection: PostgresConnection
    ) async throws {
        let isHypertable = try await RetirementStore.isHypertable(on: connection)
        let tables = isHypertable ? [] : try await RetirementStore.tables(on: connection)
        let days =
            isHypertable
            ? try await RetirementStore.chunkDays(before: oldest, on: connection)
            : Set(tables.filter { $0.day < oldest || $0.state != .attached }.map(\.day)).sorted()
        let retirement = Retirement(hasArchive: configuration.hasArchive)
        var kept = 0
        for (index, day) in days.enumerated() {
            guard index < configuration.daysPerPass, !isStopping else {
                kept += 1
                continue
            }
            let obstacle: Retirement.Obstacle?
            do {
                if isHypertable {
                    try await retirement.dropChunks(day, computedBefore: computedBefore, on: connection)
                } else {
                    let tables = tables.filter { $0.day == day }
                    try await retirement.detach(day, tables, computedBefore: computedBefore, on: connection)
                    try await retirement.drop(day, tables, on: connection)
                }
                obstacle = nil
            } catch let found as Retirement.Obstacle {
                obstacle = found
            } catch let error as PostgresError where error.category == .contention {
                obstacle = .locked
            }
            if let obstacle {
                kept += 1
                logger.warning("Rows of \(Self.name(of: day)) stay", [.reason: "\(obstacle)"])
            } else {
                metrics.droppedDay()
                logger.notice("Rows of \(Self.name(of: day)) are dropped at the end of their time")
            }
        }
        metrics.overdue(days: kept)
    }

    private static func name(of day: Int32) -> String {
        String(RFC3339.text(secondsSince1970: Int64(day) * 86_400).prefix(10))
    }
}

extension Duration {
    var microseconds: Int64 { components.seconds * 1_000_000 + components.attoseconds / 1_000_000_000_000 }
}
