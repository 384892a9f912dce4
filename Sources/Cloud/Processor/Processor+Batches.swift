import Database
import EventLog
import Flow
import Logging
import Operations

extension Processor {
    func process(_ records: [StoredLogRecord]) async {
        if fallback.isOpen {
            await settle()
            return await store(records)
        }
        let (mine, advances) = select(records)
        var prepared: PreparedBatch?
        if !mine.isEmpty, let connection {
            // A failure shows again, and is dealt with, on the slow path.
            prepared = try? await preparer.prepare(
                mine, advances: advances, incarnation: incarnation, connection: connection)
            if let batch = prepared, batch.sparkplug.unresolved > 0, mine.count > 1 { prepared = nil }
        }
        let isUndisturbed = await settle()
        guard isUndisturbed, let batch = prepared, let connection, case .call(let permit) = ask() else {
            return await store(records)
        }
        flight = Flight(
            records: mine, batch: batch, task: Task { [writer] in await writer.write(batch, on: connection) },
            started: .now, permit: permit, startedAt: SystemClock.monotonicMicroseconds())
    }

    /// Waits until the batch under way is stored.
    ///
    /// - Returns: `false` where it was not stored at once, so that what was prepared meanwhile may be wrong.
    @discardableResult
    func settle() async -> Bool {
        guard let current = flight else { return true }
        let outcome = await current.task.value
        flight = nil
        ended(current.permit, judged(outcome), since: current.startedAt)
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
    /// has to stop. Records are never given up, as the reader has moved past them, unless dead letters are written: these
    /// begin with what is not stored.
    func store(_ records: [StoredLogRecord]) async {
        var remaining = records[...]
        var limit = records.count
        while !isStopping, diversion == nil, !remaining.isEmpty {
            let (mine, advances) = select(remaining.prefix(limit))
            if mine.isEmpty {
                remaining = remaining.dropFirst(limit)
                continue
            }
            let permit: CircuitBreaker.Permit?
            switch ask() {
            case .call(let granted): permit = granted
            case .wait(let microseconds):
                await pause(microseconds)
                continue
            case .deadLetter:
                divert()
                return
            case .sample:
                await waitForSample()
                permit = nil
            }
            let started = SystemClock.monotonicMicroseconds()
            do {
                let outcome = try await attempt(mine, advances, claim: permit == nil ? .sample : .offsets)
                ended(permit, judged(outcome), since: started)
                if case .stored = outcome {
                    remaining = remaining.dropFirst(limit)
                    continue
                }
                // A sample makes gaps; without it there may be none.
                if permit == nil, case .overflow = outcome {
                    await pause(1_000_000)
                    continue
                }
                // A transaction that is too large for its time limit would be so for ever.
                if case .failed(let error) = outcome, error.isTimeout { limit = max(1, limit / 2) }
                await react(to: outcome)
            } catch is BatchTooLarge {
                ended(permit, .untold, since: started)
                limit = max(1, limit / 2)
            } catch {
                ended(permit, judged(error), since: started)
                if let error = error as? PostgresError, error.isTimeout { limit = max(1, limit / 2) }
                await recover(from: error)
            }
        }
    }

    /// It needs more of Sparkplug's births than may be read at a time, or something of it is refused.
    struct BatchTooLarge: Error {}

    func attempt(
        _ records: [StoredLogRecord], _ advances: [PartitionAdvance], claim: BatchClaim = .offsets
    ) async throws -> WriteOutcome {
        let connection = try await connected()
        let started = ContinuousClock.now
        // Births that an earlier attempt has read are not stored.
        preparer.forgetBirths()
        var batch = try await preparer.prepare(
            records, advances: advances, incarnation: incarnation, claim: claim, connection: connection)
        // A single record is stored in any case, without the names that were too much.
        if batch.sparkplug.unresolved > 0, records.count > 1 { throw BatchTooLarge() }
        let (outcome, refused) = try await writer.isolate(in: &batch, preparer: preparer, on: connection)
        note(refused: refused)
        if case .failed(let error) = outcome, error.isPoison {
            // No message's row is refused, but something else of a record's: one partition stops for it, not all.
            if records.count > 1 { throw BatchTooLarge() }
            for advance in batch.advances {
                stop(advance.partition, "PostgreSQL refuses rows, and storing them as events did not help: \(error)")
            }
        }
        if case .stored(let summary) = outcome {
            finish(batch, summary, since: started)
        } else {
            preparer.forgetBirths()
        }
        return outcome
    }

    func note(refused messages: [RefusedMessage]) {
        if messages.isEmpty { return }
        for message in messages.prefix(10) {
            var metadata: [LogKey: Logger.MetadataValue] = [.reason: "\(message.reason)"]
            metadata[.trace] = message.trace.map { "\($0)" }
            logger.error(
                "PostgreSQL refuses a message: it is stored as an event with its bytes, and is a dead letter", metadata)
        }
        metrics.refused(messages: messages.count)
    }

    /// The records of claimed partitions, and how far they move each; the batch under way counts as stored.
    func select(_ records: some Collection<StoredLogRecord>) -> ([StoredLogRecord], [PartitionAdvance]) {
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

    func finish(_ batch: PreparedBatch, _ summary: WriteSummary, since started: ContinuousClock.Instant) {
        backoff.succeeded()
        for advance in batch.advances {
            claims[advance.partition]?.next = advance.to
            group.processed(advance.partition, appendTime: advance.newest)
        }
        if batch.claim == .sample { samplesWaiting += Int64(batch.advances.count) }
        let seconds = (ContinuousClock.now - started).seconds
        metrics.stored(summary, seconds: seconds)
        metrics.stored(batch, at: SystemClock.wallMicroseconds())
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
}
