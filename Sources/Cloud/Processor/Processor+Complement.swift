import Database
import EventLog
import Flow
import Logging
import Operations

/// A second reader of the log, for ranges of which only a sample is stored.
struct Complement {
    let reader: any EventLogReader
    var partitions: Set<Int32> = []
}

extension Processor {
    /// Stores the rest of some sampled ranges. What the sample has stored is known to deduplication, as repeats are.
    func storeComplement() async throws {
        guard !fallback.isOpen else { return }
        await settle()
        guard diversion == nil, case .call(let permit) = ask() else { return }
        let started = SystemClock.monotonicMicroseconds()
        do {
            try await storeRanges(try await connected())
            ended(permit, .answered, since: started)
        } catch {
            ended(permit, judged(error), since: started)
            if error is EventLogError { await closeComplement() }
            throw error
        }
    }

    private func storeRanges(_ connection: PostgresConnection) async throws {
        let partitions = try await complementPartitions()
        if partitions.isEmpty { return }
        let found = try await SampleTable.next(
            1_000, of: partitions.sorted(), except: rangesGivenUp, incarnation: incarnation, on: connection)
        // Where one of several cannot be stored, it is found one by one.
        let ranges = Self.run(of: found, maximumRecords: isComplementSingle ? 0 : Int64(configuration.maximumRecords))
        guard let first = ranges.first, let last = ranges.last else {
            samplesWaiting = 0
            return await closeComplement()
        }
        guard let bounds = try await log.bounds().first(where: { $0.partition == first.partition }),
            bounds.first <= first.first
        else { return giveUp(first, "the event log does not have its records any more") }
        guard let records = try await read(first.partition, first.first..<last.next, end: bounds.next) else {
            return cannotStore(ranges, "the event log does not give its records a second time")
        }
        if records.isEmpty { return }
        preparer.forgetBirths()
        var batch = try await preparer.prepare(
            records, advances: [], incarnation: incarnation, claim: .complement(ranges), connection: connection)
        let (outcome, refused) = try await writer.isolate(in: &batch, preparer: preparer, on: connection)
        note(refused: refused)
        switch outcome {
        case .stored(let summary):
            isComplementSingle = false
            samplesWaiting -= Int64(ranges.count)
            metrics.stored(summary, seconds: 0)
            status.update { $0.messages += UInt64(summary.messages) }
        case .settled: break
        case .failed(let error):
            preparer.forgetBirths()
            guard error.isPoison else { throw error }
            cannotStore(ranges, "PostgreSQL refuses rows, and storing them as events did not help: \(error)")
        case .registryChanged: preparer.forget()
        case .overflow(_, let device, let maximum):
            cannotStore(ranges, "device \(device) has more than \(maximum) gaps in its numbers")
        case .corrupt(_, let reason): cannotStore(ranges, reason)
        case .lost, .ahead: break
        }
    }

    /// Ranges of one partition that follow each other, for one transaction.
    static func run(of ranges: [SampleRange], maximumRecords: Int64) -> [SampleRange] {
        guard let first = ranges.first else { return [] }
        var run = [first]
        for range in ranges.dropFirst() {
            guard range.partition == first.partition, range.first == run[run.count - 1].next,
                range.next - first.first <= maximumRecords
            else { break }
            run.append(range)
        }
        return run
    }

    private func cannotStore(_ ranges: [SampleRange], _ reason: String) {
        if ranges.count == 1 {
            giveUp(ranges[0], reason)
        } else {
            isComplementSingle = true
        }
    }

    /// Until the next maintenance, which finds it again. The ranges behind it go on: the log keeps none of them for ever.
    private func giveUp(_ range: SampleRange, _ reason: String) {
        isComplementSingle = false
        rangesGivenUp.append(range)
        if rangesGivenUp.count >= Self.maximumRangesGivenUp { samplesWaiting = 0 }
        logger.critical(
            "Of a range of the event log only a sample is stored, and the rest cannot be",
            [.partition: "\(range.partition)", .offset: "\(range.first)", .reason: "\(reason)"])
    }

    private func complementPartitions() async throws -> Set<Int32> {
        if complement == nil {
            complement = Complement(
                reader: try await log.makeReader(
                    group: configuration.group + "-complement", member: configuration.member))
        }
        guard let complement, complement.partitions.isEmpty else { return self.complement?.partitions ?? [] }
        try await note(
            try await complement.reader.next(maximumRecords: 1, maximumBytes: 1, timeout: .milliseconds(100)))
        return self.complement?.partitions ?? []
    }

    /// - Returns: whether partitions came or went.
    @discardableResult
    private func note(_ event: EventLogEvent) async throws -> Bool {
        switch event {
        case .assigned(let partitions):
            complement?.partitions.formUnion(partitions)
            // All at once, at their ends: later only a range's partition is moved, and none is started anew.
            for bounds in try await log.bounds() where partitions.contains(bounds.partition) {
                try await complement?.reader.seek(partition: bounds.partition, to: bounds.next)
            }
            return true
        case .revoked(let partitions):
            complement?.partitions.subtract(partitions)
            return true
        case .records, .idle: return false
        }
    }

    /// Nothing else is read meanwhile.
    private static let longestRead: Duration = .seconds(10)
    /// Between two times of maintenance, each with a line in the log.
    private static let maximumRangesGivenUp = 100

    /// - Parameter end: where the partition's log ends, so that nothing more of it comes than is new.
    /// - Returns: `nil` where they did not come in time; empty where the partition may be another processor's now, or this one
    ///   has to stop.
    private func read(_ partition: Int32, _ offsets: Range<Int64>, end: Int64) async throws -> [StoredLogRecord]? {
        guard let reader = complement?.reader else { throw EventLogError.closed }
        try await reader.seek(partition: partition, to: offsets.lowerBound)
        var records: [StoredLogRecord] = []
        let deadline = ContinuousClock.now + Self.longestRead
        while records.count < offsets.count, !isStopping {
            guard ContinuousClock.now < deadline else { return nil }
            let event = try await reader.next(
                maximumRecords: configuration.maximumRecords, maximumBytes: configuration.maximumBytes,
                timeout: configuration.pollTimeout)
            if try await note(event) { return [] }
            guard case .records(let found) = event else { continue }
            for record in found
            where record.partition == partition && record.offset == offsets.lowerBound + Int64(records.count)
                && record.offset < offsets.upperBound
            { records.append(record) }
        }
        guard records.count == offsets.count else { return [] }
        try await reader.seek(partition: partition, to: max(end, offsets.upperBound))
        return records
    }

    private func closeComplement() async {
        await complement?.reader.close()
        complement = nil
    }
}
