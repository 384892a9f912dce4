import Database
import DeadLetters
import EventLog
import Flow
import Logging
import Operations
import Sparkplug

extension Processor {
    func connected() async throws(PostgresError) -> PostgresConnection {
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

    func opened() async throws(EventLogError) -> any EventLogReader {
        if let reader { return reader }
        incarnation = try await log.incarnation()
        let made = try await log.makeReader(group: configuration.group, member: configuration.member)
        reader = made
        group.isWithoutPartitions(since: .now)
        return made
    }

    var dueClaims: [Int32] {
        let now = ContinuousClock.now
        return reclaims.filter { $0.value <= now && assigned.contains($0.key) }.keys.sorted()
    }

    func maintain(_ connection: PostgresConnection, _ reader: any EventLogReader) async throws {
        let now = ContinuousClock.now
        let due = dueClaims
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
        let samples = try await SampleTable.waiting(on: connection)
        metrics.waiting(letters: try await DeadLetterTable.countWaiting(on: connection), samples: samples)
        samplesWaiting = samples.ranges
        rangesGivenUp = []
        // For displays of lag only: a slow log is no reason to leave it.
        for bounds in (try? await log.bounds()) ?? [] {
            let partition = bounds.partition
            // What a stopped one has waits too, and becomes more.
            let stored = status.state.stopped[partition] == nil ? nil : status.state.offsets[partition]
            guard let next = claims[partition]?.next ?? stored else { continue }
            group.measure(partition, waiting: max(0, bounds.next - next), now: SystemClock.wallMicroseconds())
        }
        try await lookForSilence(connection)
    }

    /// Gateways that nothing has come from since this processor's start, or that another one had until it ended.
    private func lookForSilence(_ connection: PostgresConnection) async throws {
        guard nextSilence <= .now else { return }
        nextSilence = .now + configuration.silenceInterval
        do throws(PostgresError) {
            let limit = NewestByGateway.maximumGateways
            metrics.silent(
                try await SilentGateways.read(after: configuration.silence, limit: limit, on: connection))
        } catch {
            // A display is no reason to think ill of the database.
            guard error.isTimeout else { throw error }
            logger.warning("The gateways that are silent cannot be read in time", [.error: "\(error)"])
        }
    }

    /// Called at most once each `maintenanceInterval`.
    func warnOfSparkplug() {
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

    func claim(
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
            case .refused(let reason): stop(partition, reason)
            case .otherLog(let reason):
                stop(partition, reason)
                status.update { $0.ofOtherLog.insert(partition) }
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
