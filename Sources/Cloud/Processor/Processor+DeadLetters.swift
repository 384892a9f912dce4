import Database
import DeadLetters
import EventLog
import Flow
import Logging
import Operations

/// What is written to objects while the database does not answer.
struct Diversion {
    var collector = RangeCollector()
    var hasBegun = false
    /// Objects that the database does not know yet, in the order of their offsets.
    var written: [Int32: [DeadLetterEntry]] = [:]

    var count: Int { written.values.reduce(0) { $0 + $1.count } }

    mutating func remove(_ partition: Int32) {
        collector.remove(partition)
        written[partition] = nil
    }
}

extension Processor {
    func divert() {
        if diversion == nil { diversion = Diversion() }
    }

    /// One step while dead letters are written: a probe of the database when the breaker lets it through, else some
    /// records of the log.
    func stepDiverted() async throws {
        switch ask() {
        case .call(let permit): await recordLetters(permit)
        // No partition is left.
        case .wait, .sample: diversion = nil
        case .deadLetter: try await collect()
        }
    }

    private func collect() async throws {
        let reader = try await opened()
        if diversion?.hasBegun == false { try await beginCollecting(reader) }
        guard let diversion, diversion.count < configuration.maximumDeadLetters else {
            return await pause(1_000_000)
        }
        let event = try await reader.next(
            maximumRecords: configuration.maximumRecords, maximumBytes: configuration.maximumBytes,
            timeout: configuration.pollTimeout)
        status.update { $0.isLogReachable = true }
        switch event {
        case .assigned(let partitions):
            assigned.formUnion(partitions)
            group.isGiven(assigned.count, at: .now)
            for partition in partitions { reclaims[partition] = .now }
        case .revoked(let partitions):
            assigned.subtract(partitions)
            if assigned.isEmpty { group.isWithoutPartitions(since: .now) }
            for partition in partitions { forget(partition) }
        case .records(let records):
            for record in records where !isStopping { try await collect(record, reader) }
        case .idle: try await seek(atEnd: true, reader)
        }
    }

    /// From the first offsets that are not stored.
    private func beginCollecting(_ reader: any EventLogReader) async throws {
        diversion?.hasBegun = true
        let bounds = Dictionary(try await log.bounds().map { ($0.partition, $0) }) { first, _ in first }
        for (partition, claim) in claims.sorted(by: { $0.key < $1.key }) {
            guard let bounds = bounds[partition] else { continue }
            try await begin(partition, next: claim.next, logFirst: bounds.first, reader)
        }
    }

    private func begin(
        _ partition: Int32, next: Int64, logFirst: Int64, _ reader: any EventLogReader
    ) async throws {
        guard let seek = diversion?.collector.begin(partition: partition, next: next, logFirst: logFirst) else {
            return
        }
        try await reader.seek(partition: partition, to: seek.offset)
    }

    private func seek(atEnd isAtEnd: Bool, _ reader: any EventLogReader) async throws {
        for seek in diversion?.collector.takeSeeks(isAtEnd: isAtEnd) ?? [] {
            try await reader.seek(partition: seek.partition, to: seek.offset)
        }
    }

    private func collect(_ record: StoredLogRecord, _ reader: any EventLogReader) async throws {
        switch diversion?.collector.add(record) {
        case nil, .some(.none): break
        case .blocked(let partition, let reason):
            logger.warning(
                "A partition gets no more dead letters: its messages wait in the event log",
                [.partition: "\(partition)", .reason: "\(reason)"])
        case .complete(let range, let records):
            try await write(range, records, reader)
            try await seek(atEnd: false, reader)
        }
    }

    private func write(
        _ range: DeadLetterRange, _ records: [StoredLogRecord], _ reader: any EventLogReader
    ) async throws {
        guard let deadLetters, let claim = claims[range.partition] else { return }
        let object = DeadLetterObject(incarnation: incarnation, range: range, records: records)
        let next = diversion?.written[range.partition]?.last?.next ?? claim.next
        do throws(DeadLetterFiles.Failure) {
            let entry = try await deadLetters.write(object, next: next)
            diversion?.written[range.partition, default: []].append(entry)
            metrics.letterWritten()
        } catch {
            metrics.letterFailed()
            logger.error(
                "A dead letter cannot be written: its messages wait in the event log",
                [.partition: "\(range.partition)", .offset: "\(range.start)", .error: "\(error)"])
            if case .object = error {
                // It would be so again.
                diversion?.collector.remove(range.partition)
                return
            }
            await pause(backoff.next(using: &generator))
        }
        if diversion?.written[range.partition]?.last?.next != range.end {
            let first = records.first?.offset ?? range.start
            try await begin(range.partition, next: max(next, first), logFirst: first, reader)
        }
    }

    /// The probe: one transaction moves the offsets over all that was written. Then partitions are claimed anew, so that
    /// the database alone says where to go on.
    private func recordLetters(_ permit: CircuitBreaker.Permit) async {
        let started = SystemClock.monotonicMicroseconds()
        let written = diversion?.written ?? [:]
        do {
            let connection = try await connected()
            let advances = written.compactMap { partition, entries -> DeadLetterAdvance? in
                guard let claim = claims[partition], let last = entries.last else { return nil }
                // Its answer may be lost: see `ClaimStanding`.
                claims[partition]?.farthest = max(claim.farthest, last.next)
                return DeadLetterAdvance(partition: partition, epoch: claim.epoch, from: claim.next, to: last.next)
            }
            let moved = try await DeadLetterTable.record(
                written.values.flatMap { $0 }, advances: advances.sorted { $0.partition < $1.partition },
                reason: lastTrouble, on: connection)
            ended(permit, .answered, since: started)
            let count = written.filter { moved.contains($0.key) }.values.reduce(0) { $0 + $1.count }
            if count > 0 {
                logger.warning("Dead letters wait to be replayed: run sluice dlq replay", [.count: "\(count)"])
            }
            resume()
        } catch {
            metrics.failed()
            let result = judged(error)
            ended(permit, result, since: started)
            logger.error("The database does not take the dead letters: trying again", [.error: "\(error)"])
            // What does not count would be tried again at once.
            if result == .untold { await pause(backoff.next(using: &generator)) }
        }
    }

    private func resume() {
        diversion = nil
        backoff.succeeded()
        preparer.forget()
        preparer.forgetBirths()
        nextMaintenance = .now
        for partition in claims.keys { reclaims[partition] = .now }
        claims = [:]
    }
}
