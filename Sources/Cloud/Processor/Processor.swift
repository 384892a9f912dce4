import Database
import EventLog
import Flow
import Logging
import Operations
import ServiceLifecycle
import Sparkplug

/// Moves records from the log into the database, each message exactly once. One reader, one connection; while a batch
/// is being stored, the next one is read and prepared.
package actor Processor: Service {
    /// A batch whose first attempt runs.
    private struct Flight {
        var records: [StoredLogRecord]
        var batch: PreparedBatch
        var task: Task<WriteOutcome, Never>
        var started: ContinuousClock.Instant
    }

    private let configuration: ProcessorConfiguration
    private let log: any EventLog
    private let status: ProcessorStatus
    private let logger: Logger
    private let metrics = ProcessorMetrics()
    private let writer: BatchWriter
    private let preparer: BatchPreparer
    private var reader: (any EventLogReader)?
    private var connection: PostgresConnection?
    private var incarnation = ""
    /// Partitions whose records are processed.
    private var claims: [Int32: PartitionClaim] = [:]
    /// Partitions that the reader gives us, claimed or not.
    private var assigned: Set<Int32> = []
    /// When partitions that another processor took are claimed again, should they still be assigned to this one.
    private var reclaims: [Int32: ContinuousClock.Instant] = [:]
    private var flight: Flight?
    private var backoff: Backoff
    private var generator = SystemRandomNumberGenerator()
    private var nextMaintenance = ContinuousClock.now
    /// Sparkplug's nodes and devices that made room for others since that was logged.
    private var forgottenEntities = 0
    /// Sparkplug's births that came after data which they would have named otherwise, since that was logged; and of whom
    /// the last was.
    private var lateBirths: (count: Int, last: SparkplugKey?) = (0, nil)
    /// Messages that were stored without the names of their births since that was logged.
    private var unresolved = 0
    private var group = GroupWatch()

    package init(
        configuration: ProcessorConfiguration, log: any EventLog, status: ProcessorStatus,
        flags: FeatureFlags = FeatureFlags(), logger: Logger
    ) {
        self.configuration = configuration
        self.log = log
        self.status = status
        self.logger = logger
        writer = BatchWriter(
            maximumRanges: configuration.maximumRanges, maximumSparkplugEntities: configuration.sparkplugEntities,
            flags: flags)
        preparer = BatchPreparer(configuration: configuration)
        backoff = Backoff(
            base: configuration.backoffBase.wholeMicroseconds, cap: configuration.backoffCap.wholeMicroseconds)
    }

    /// Runs until graceful shutdown or cancellation. What is not stored by then stays in the log.
    package func run() async {
        while !isStopping {
            do { try await step() } catch { await recover(from: error) }
        }
        // A transaction under way ends by itself; whether it committed stands in the database.
        if let flight, case .stored(let summary) = await flight.task.value {
            finish(flight.batch, summary, since: flight.started)
        }
        flight = nil
        await reader?.leave()
        await connection?.close()
    }

    private var isStopping: Bool { Task.isCancelled || Task.isShuttingDownGracefully }

    private func step() async throws {
        let connection = try await connected()
        let reader = try await opened()
        try await maintain(connection, reader)
        let event = try await reader.next(
            maximumRecords: configuration.maximumRecords, maximumBytes: configuration.maximumBytes,
            // With a batch under way its end must not wait for the next records.
            timeout: flight == nil ? configuration.pollTimeout : .milliseconds(1))
        status.update { $0.isLogReachable = true }
        switch event {
        case .assigned(let partitions):
            await settle()
            assigned.formUnion(partitions)
            group.isGiven(assigned.count, at: .now)
            // Claimed in the next step, and again after a failure, by `maintain`.
            for partition in partitions { reclaims[partition] = .now }
        case .revoked(let partitions):
            await settle()
            assigned.subtract(partitions)
            if assigned.isEmpty { group.isWithoutPartitions(since: .now) }
            for partition in partitions { forget(partition) }
        case .records(let records):
            await process(records)
        case .idle:
            await settle()
        }
    }

    // MARK: Batches

    private func process(_ records: [StoredLogRecord]) async {
        let (mine, advances) = select(records)
        var prepared: PreparedBatch?
        if !mine.isEmpty, let connection {
            // A failure shows again, and is dealt with, on the slow path.
            prepared = try? await preparer.prepare(
                mine, advances: advances, incarnation: incarnation, connection: connection)
            if let batch = prepared, batch.sparkplug.unresolved > 0, mine.count > 1 { prepared = nil }
        }
        let isUndisturbed = await settle()
        guard isUndisturbed, let batch = prepared, let connection else { return await store(records) }
        flight = Flight(
            records: mine, batch: batch, task: Task { [writer] in await writer.write(batch, on: connection) },
            started: .now)
    }

    /// Waits until the batch under way is stored.
    ///
    /// - Returns: `false` where it was not stored at once, so that what was prepared meanwhile may be wrong.
    @discardableResult
    private func settle() async -> Bool {
        guard let current = flight else { return true }
        let outcome = await current.task.value
        flight = nil
        if case .stored(let summary) = outcome {
            finish(current.batch, summary, since: current.started)
            return true
        }
        if case .failed(let error) = outcome, error.isPoison {
            // The slow path will meet it again and find the message.
        } else {
            await react(to: outcome)
        }
        preparer.forgetBirths()
        await store(current.records)
        return false
    }

    /// Stores the records, whatever it takes: returns when they are stored, not this processor's any more, or when it
    /// has to stop. Records are never given up: the reader has moved past them.
    private func store(_ records: [StoredLogRecord]) async {
        var remaining = records[...]
        var limit = records.count
        while !isStopping, !remaining.isEmpty {
            let (mine, advances) = select(remaining.prefix(limit))
            if mine.isEmpty {
                remaining = remaining.dropFirst(limit)
                continue
            }
            do {
                let outcome = try await attempt(mine, advances)
                if case .stored = outcome {
                    remaining = remaining.dropFirst(limit)
                    continue
                }
                // A transaction that is too large for its time limit would be so for ever.
                if case .failed(let error) = outcome, error.isTimeout { limit = max(1, limit / 2) }
                await react(to: outcome)
            } catch is BatchTooLarge {
                limit = max(1, limit / 2)
            } catch {
                if let error = error as? PostgresError, error.isTimeout { limit = max(1, limit / 2) }
                await recover(from: error)
            }
        }
    }

    /// It needs more of Sparkplug's births than may be read at a time, or something of it is refused.
    private struct BatchTooLarge: Error {}

    private func attempt(
        _ records: [StoredLogRecord], _ advances: [PartitionAdvance]
    ) async throws -> WriteOutcome {
        let connection = try await connected()
        let started = ContinuousClock.now
        // Births that an earlier attempt has read are not stored.
        preparer.forgetBirths()
        var batch = try await preparer.prepare(
            records, advances: advances, incarnation: incarnation, connection: connection)
        // A single record is stored in any case, without the names that were too much.
        if batch.sparkplug.unresolved > 0, records.count > 1 { throw BatchTooLarge() }
        var outcome = await writer.write(batch, on: connection)
        // check_violation: also what a row gets whose day has no partition any more.
        if case .failed(let error) = outcome, error.sqlState == "23514" {
            try await preparer.remakePartitions(connection)
            outcome = await writer.write(batch, on: connection)
        }
        var replaced: Set<Int> = []
        while case .failed(let error) = outcome, error.isPoison {
            guard try await isolate(in: &batch, replaced: &replaced, connection) else {
                // No message's row is refused, but something else of a record's: one partition stops for it, not all.
                if records.count > 1 { throw BatchTooLarge() }
                for advance in batch.advances {
                    stop(
                        advance.partition,
                        "PostgreSQL refuses rows, and storing them as events did not help: \(error)")
                }
                break
            }
            outcome = await writer.write(batch, on: connection)
        }
        if case .stored(let summary) = outcome {
            finish(batch, summary, since: started)
        } else {
            preparer.forgetBirths()
        }
        return outcome
    }

    /// Turns the messages that PostgreSQL refuses into events with their bytes.
    ///
    /// - Returns: `false` where none is refused that was not replaced before.
    private func isolate(
        in batch: inout PreparedBatch, replaced: inout Set<Int>, _ connection: PostgresConnection
    ) async throws(PostgresError) -> Bool {
        let refused = try await writer.poison(in: batch, on: connection)
        let new = refused.filter { !replaced.contains($0.message) }
        guard !new.isEmpty else { return false }
        for (_, reason) in new.prefix(10) {
            logger.error(
                "PostgreSQL refuses a message: it is stored as an event with its bytes",
                [.reason: "\(reason)"])
        }
        metrics.refused(messages: new.count)
        replaced.formUnion(new.map(\.message))
        preparer.replace(new, in: &batch)
        return true
    }

    /// The records of claimed partitions, and how far they move each; the batch under way counts as stored.
    private func select(_ records: some Collection<StoredLogRecord>) -> ([StoredLogRecord], [PartitionAdvance]) {
        var moves: [Int32: PartitionAdvance] = [:]
        var chosen: [StoredLogRecord] = []
        chosen.reserveCapacity(records.count)
        for record in records {
            let partition = record.partition
            guard let claim = claims[partition] else { continue }
            var move =
                moves[partition]
                ?? {
                    let start = flight?.batch.advances.first { $0.partition == partition }?.to ?? claim.next
                    return PartitionAdvance(
                        partition: partition, epoch: claim.epoch, from: start, to: start, farthest: start)
                }()
            if record.offset < move.to { continue }
            guard record.offset == move.to else {
                stop(partition, "the log gave offset \(record.offset) where \(move.to) was next: records are missing")
                moves[partition] = nil
                chosen.removeAll { $0.partition == partition }
                continue
            }
            move.to = record.offset + 1
            move.newest = record.appendTime
            moves[partition] = move
            chosen.append(record)
        }
        for (partition, move) in moves {
            let farthest = max(claims[partition]?.farthest ?? 0, move.to)
            claims[partition]?.farthest = farthest
            moves[partition]?.farthest = farthest
        }
        return (chosen, moves.values.sorted { $0.partition < $1.partition })
    }

    private func finish(_ batch: PreparedBatch, _ summary: WriteSummary, since started: ContinuousClock.Instant) {
        backoff.succeeded()
        for advance in batch.advances {
            claims[advance.partition]?.next = advance.to
            group.processed(advance.partition, appendTime: advance.newest)
        }
        let seconds = (ContinuousClock.now - started).seconds
        metrics.stored(summary, seconds: seconds)
        let now = SystemClock.wallMicroseconds()
        for (gateway, time) in batch.newest {
            metrics.age(gateway: gateway, seconds: Double(now &- time) / 1e6)
        }
        if summary.undecodable > 0 {
            logger.critical(
                "Records of the log cannot be decoded: they are kept in rejected_record",
                [.count: "\(summary.undecodable)"])
        }
        metrics.stored(batch.sparkplug)
        forgottenEntities += summary.forgottenEntities
        lateBirths.count += batch.sparkplug.late.count
        lateBirths.last = batch.sparkplug.late.last ?? lateBirths.last
        unresolved += batch.sparkplug.unresolved
        status.update { state in
            state.isDatabaseReachable = true
            state.messages += UInt64(summary.messages)
            state.duplicates += UInt64(summary.duplicates)
            state.forgottenEntities += UInt64(summary.forgottenEntities)
            state.lateBirths += UInt64(batch.sparkplug.late.count)
            state.unresolved += UInt64(batch.sparkplug.unresolved)
            for advance in batch.advances { state.offsets[advance.partition] = advance.to }
        }
        // For displays of lag only; nobody waits for it.
        if let reader {
            Task {
                for advance in batch.advances { await reader.commit(partition: advance.partition, next: advance.to) }
            }
        }
    }

    // MARK: Trouble

    private func react(to outcome: WriteOutcome) async {
        switch outcome {
        case .stored: break
        case .lost(let partitions):
            logger.warning(
                "Another processor has taken partitions", [.partition: "\(partitions)"])
            for partition in partitions {
                forget(partition)
                reclaims[partition] = .now + configuration.reclaimDelay
            }
        case .ahead(let next):
            logger.notice("A batch whose answer was lost had been stored", [.partition: "\(next.keys.sorted())"])
            for (partition, offset) in next { claims[partition]?.next = offset }
            status.update { state in for (partition, offset) in next { state.offsets[partition] = offset } }
        case .registryChanged: preparer.forget()
        case .overflow(let partition, let device, let ranges):
            stop(partition, "device \(device) has more than \(ranges) gaps in its numbers")
        case .corrupt(let partition, let reason): stop(partition, reason)
        case .failed(let error): await recover(from: error)
        }
    }

    /// Nothing more of this partition until an operator has looked: never a guess.
    private func stop(_ partition: Int32, _ reason: String) {
        claims[partition] = nil
        reclaims[partition] = nil
        status.update { $0.stopped[partition] = reason }
        metrics.stopped(partitions: status.state.stopped.count)
        logger.critical(
            "A partition is stopped: nothing of it is stored until this is resolved and the processor restarted",
            [.partition: "\(partition)", .reason: "\(reason)"])
    }

    private func forget(_ partition: Int32) {
        group.forget(partition)
        claims[partition] = nil
        reclaims[partition] = nil
        status.update {
            $0.offsets[partition] = nil
            $0.stopped[partition] = nil
        }
        metrics.stopped(partitions: status.state.stopped.count)
    }

    /// Notes the failure and waits before the next attempt.
    private func recover(from error: any Error) async {
        if isStopping { return }
        metrics.failed()
        switch error {
        case let error as PostgresError:
            if error.category != .contention { status.update { $0.isDatabaseReachable = false } }
            let hint = error.category == .setup ? "; run sluice migrate up, or grant the rights it names" : ""
            logger.error(
                "The database does not take the batch: trying again",
                [.error: "\(error)\(hint)"])
            // A migration may have taken away what a flag allowed.
            if error.category == .setup { writer.flags.forget() }
            preparer.forget()
        case EventLogError.outOfRange(let partition, let offset, let first, let next):
            stop(partition, "offset \(offset) is outside the log, which holds \(first) to \(next)")
            return
        case let error as EventLogError:
            status.update { $0.isLogReachable = false }
            logger.error(
                "The event log cannot be read: trying again", [.error: "\(error)"])
            await dropReader()
        default:
            logger.error("Trying again", [.error: "\(error)"])
        }
        let wait = backoff.next(using: &generator)
        try? await cancelWhenGracefulShutdown { try await Task.sleep(for: .microseconds(wait)) }
    }

    private func dropReader() async {
        await settle()
        await reader?.close()
        reader = nil
        for partition in assigned { forget(partition) }
        assigned = []
    }

    // MARK: Connections and claims

    private func connected() async throws(PostgresError) -> PostgresConnection {
        if let connection, await connection.isUsable { return connection }
        connection = nil
        var settings = PostgresConfiguration(url: configuration.database, applicationName: "sluice-processor")
        settings.statementTimeout = Int(configuration.statementTimeout.wholeMicroseconds / 1_000)
        settings.answerGrace = Int(configuration.answerGrace.wholeMicroseconds / 1_000)
        let made = try await PostgresConnection.connect(settings)
        try await ProgramSchema.admit(on: made)
        logger.info("Connected to the database", [.remote: "\(settings)"])
        try await compareClaims(made)
        connection = made
        nextMaintenance = .now
        return made
    }

    /// Partitions without traffic would not notice otherwise that the database is an older one.
    private func compareClaims(_ connection: PostgresConnection) async throws(PostgresError) {
        let held = claims.map {
            PartitionAdvance(
                partition: $0, epoch: $1.epoch, from: $1.next, to: $1.next, farthest: $1.farthest)
        }
        let standings = try await OffsetStore.standings(of: held, on: connection)
        var lost: [Int32] = []
        for claim in held {
            switch standings[claim.partition] {
            case .held: break
            case .lost, nil: lost.append(claim.partition)
            case .wentBack(let reason): stop(claim.partition, reason)
            }
        }
        if !lost.isEmpty { await react(to: .lost(lost.sorted())) }
    }

    private func opened() async throws(EventLogError) -> any EventLogReader {
        if let reader { return reader }
        incarnation = try await log.incarnation()
        let made = try await log.makeReader(group: configuration.group, member: configuration.member)
        reader = made
        group.isWithoutPartitions(since: .now)
        return made
    }

    private func maintain(_ connection: PostgresConnection, _ reader: any EventLogReader) async throws {
        let now = ContinuousClock.now
        let due = reclaims.filter { $0.value <= now && assigned.contains($0.key) }.keys.sorted()
        if !due.isEmpty { try await claim(due, connection, reader) }
        guard nextMaintenance <= now else { return }
        nextMaintenance = now + configuration.maintenanceInterval
        warnOfSparkplug()
        // Without traffic nothing else would ask the database.
        try await compareClaims(connection)
        let today = Int32(SystemClock.wallMicroseconds() / 86_400_000_000)
        try await preparer.makePartitions(
            days: Set(today...today + Int32(configuration.daysAhead)), connection: connection)
        status.update { $0.isDatabaseReachable = true }
        // For displays of lag only: a slow log is no reason to leave it.
        for bounds in (try? await log.bounds()) ?? [] {
            guard let claim = claims[bounds.partition] else { continue }
            group.measure(
                bounds.partition, waiting: max(0, bounds.next - claim.next), now: SystemClock.wallMicroseconds())
        }
    }

    /// Called at most once each `maintenanceInterval`.
    private func warnOfSparkplug() {
        if forgottenEntities > 0 {
            logger.warning(
                """
                A gateway has more Sparkplug nodes and devices than \(configuration.sparkplugEntities): the births of \
                those not heard of for longest are forgotten, and their aliases have no names until they are born again
                """, [.count: "\(forgottenEntities)"])
            forgottenEntities = 0
        }
        if let last = lateBirths.last {
            logger.warning(
                """
                Sparkplug births came from a backlog after live data that they belong to: it is stored with the names \
                and types of the births before them; of the last such birth are gateway and device
                """,
                [
                    .count: "\(lateBirths.count)", .gateway: "\(last.gateway.text)", .device: "\(last.entity.text)",
                ])
            lateBirths = (0, nil)
        }
        if unresolved > 0 {
            logger.warning(
                """
                Sparkplug messages need more of births than \(configuration.sparkplugMetricsInMemory) metrics at a time: \
                they are stored with their aliases for names
                """, [.count: "\(unresolved)"])
            unresolved = 0
        }
    }

    private func claim(
        _ partitions: [Int32], _ connection: PostgresConnection, _ reader: any EventLogReader
    ) async throws {
        await settle()
        // Another processor may have stored births of these partitions' nodes meanwhile.
        preparer.forgetBirths()
        let bounds = Dictionary(try await log.bounds().map { ($0.partition, $0) }) { first, _ in first }
        for partition in partitions {
            guard let range = bounds[partition] else {
                stop(partition, "the log does not have it")
                continue
            }
            switch try await take(range, of: partitions, connection) {
            case .claimed(let claim):
                try await reader.seek(partition: partition, to: claim.next)
                claims[partition] = claim
                reclaims[partition] = nil
                status.update { $0.offsets[partition] = claim.next }
                logger.debug(
                    "Claimed a partition",
                    [
                        .partition: "\(partition)", .offset: "\(claim.next)",
                        .epoch: "\(claim.epoch)",
                    ])
            case .refused(let reason):
                stop(partition, reason)
            }
        }
        if assigned.isSubset(of: Set(claims.keys).union(status.state.stopped.keys)) { group.isServing(at: .now) }
    }

    private func take(
        _ range: PartitionBounds, of partitions: [Int32], _ connection: PostgresConnection
    ) async throws(PostgresError) -> ClaimOutcome {
        do {
            return try await OffsetStore.claim(range, incarnation: incarnation, on: connection)
        } catch {
            // lock_not_available: its last processor is neither done nor gone.
            guard error.sqlState == "55P03" else { throw error }
            let ended = try await OffsetStore.endHolders(of: partitions, on: connection)
            logger.warning(
                "A processor that hangs held partitions that are assigned to this one: its connection was ended",
                [.partition: "\(range.partition)", .count: "\(ended)"])
            throw error
        }
    }
}
