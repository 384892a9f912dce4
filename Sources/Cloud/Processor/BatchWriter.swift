import Database
import NIOCore
import SyncModel

/// What one attempt at a batch's transaction came to.
enum WriteOutcome: Sendable {
    case stored(WriteSummary)
    /// These partitions were claimed by another processor; nothing was stored.
    case lost([Int32])
    /// An attempt whose answer was lost had stored more than this batch: the partitions' next offsets.
    case ahead([Int32: Int64])
    /// Devices changed since their ids were read; nothing was stored.
    case registryChanged
    /// A device's numbers have too many gaps; nothing was stored.
    case overflow(partition: Int32, device: String, ranges: Int)
    /// The database or the way to it; whether it was stored is unknown only where the connection was lost.
    case failed(PostgresError)
    /// The state in the database is not what this program writes.
    case corrupt(partition: Int32, String)
    /// The dead letter was replayed, or the sampled range stored whole, before or by another; nothing was stored.
    case settled
}

struct WriteSummary: Sendable, Equatable {
    var messages = 0
    var rows = 0
    /// Messages that were stored or in the ledger before.
    var duplicates = 0
    /// Numbers that ledger lines ended.
    var dropped = 0
    var undecodable = 0
    /// Nodes and devices of Sparkplug that made room for others, with all that their births had said.
    var forgottenEntities = 0
    /// Births that made room for others of the same node or device.
    var forgottenBirths = 0
    /// It had been stored by an attempt whose answer was lost.
    var wasStoredBefore = false
}

/// One transaction for all records of a poll: offsets, deduplication, rows, ledger, accounts, corrections.
struct BatchWriter: Sendable {
    let maximumRanges: Int
    /// Of a gateway.
    let maximumSparkplugEntities: Int
    var flags = FeatureFlags()

    private enum Stop: Error {
        case outcome(WriteOutcome)
        case database(PostgresError)
    }

    func write(_ batch: PreparedBatch, on connection: isolated PostgresConnection) -> WriteOutcome {
        do throws(Stop) {
            return .stored(try attempt(batch, connection))
        } catch {
            connection.rollBack()
            switch error {
            case .outcome(let outcome): return outcome
            case .database(let failure): return .failed(failure)
            }
        }
    }

    private func attempt(
        _ batch: PreparedBatch, _ connection: isolated PostgresConnection
    ) throws(Stop) -> WriteSummary {
        try run { () throws(PostgresError) in try connection.run("BEGIN") }
        switch batch.claim {
        case .offsets: if let earlier = try fence(batch, connection) { return earlier }
        case .sample:
            if let earlier = try fence(batch, connection) { return earlier }
            try run { () throws(PostgresError) in try SampleTable.insert(batch, on: connection) }
        case .deadLetter(let id):
            let isMine = try run { () throws(PostgresError) in try Self.replay(id, connection) }
            if !isMine { throw .outcome(.settled) }
        case .complement(let ranges):
            let isMine = try run { () throws(PostgresError) in
                try SampleTable.remove(ranges, incarnation: batch.incarnation, on: connection)
            }
            if !isMine { throw .outcome(.settled) }
        }
        let version = try run { () throws(PostgresError) in try IdentityStore.registryVersion(on: connection) }
        if version != batch.registryVersion, !batch.messages.isEmpty { throw .outcome(.registryChanged) }
        var states = try load(batch, connection)
        var applied = try apply(batch, to: &states)
        try run { () throws(PostgresError) in
            try store(states, of: batch, connection)
            try store(applied, of: batch, connection)
            applied.summary.forgottenBirths = batch.sparkplug.forgotten
            applied.summary.forgottenEntities = try SparkplugStore.store(
                batch.sparkplug, maximum: maximumSparkplugEntities, on: connection)
            // After the transaction's first write: see `RollupMarks`.
            if !applied.fresh.isEmpty, try flags.current(.rollups, on: connection) {
                try RollupMarks.mark(batch.hours, on: connection)
            }
            try connection.run("COMMIT")
        }
        return applied.summary
    }

    private func run<Value>(_ body: () throws(PostgresError) -> Value) throws(Stop) -> Value {
        do throws(PostgresError) { return try body() } catch { throw .database(error) }
    }

    /// - Returns: whether it waited to be replayed. Its row is locked until the commit.
    private static func replay(
        _ id: Int64, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> Bool {
        try connection.query(
            """
            UPDATE dead_letter SET state = 'replayed', replayed_at = now()
            WHERE id = $1 AND kind = 1 AND state = 'stored'
            """, [.int8(id)]
        ).affectedRows == 1
    }

    // MARK: Offsets

    /// The compare-and-set that fences: it holds the offsets' rows until the commit, so nobody else can claim.
    ///
    /// - Returns: a summary where an earlier attempt at this batch turns out to be committed.
    private func fence(
        _ batch: PreparedBatch, _ connection: isolated PostgresConnection
    ) throws(Stop) -> WriteSummary? {
        let partitions = PostgresValue.int4Array(batch.advances.map(\.partition))
        let moved = try run { () throws(PostgresError) in
            try connection.query(
                """
                UPDATE ingest_offset o SET next_offset = w.new, updated_at = now()
                FROM unnest($1::int4[], $2::int8[], $3::int8[], $4::int8[]) AS w (partition, epoch, old, new)
                WHERE o.partition = w.partition AND o.epoch = w.epoch AND o.next_offset = w.old
                """,
                [
                    partitions, .int8Array(batch.advances.map(\.epoch)), .int8Array(batch.advances.map(\.from)),
                    .int8Array(batch.advances.map(\.to)),
                ]
            ).affectedRows
        }
        if moved == batch.advances.count { return nil }
        // The update of this transaction is rolled back; what counts is what others committed.
        connection.rollBack()
        let found = try run { () throws(PostgresError) in
            let rows = try connection.query(
                "SELECT partition, epoch, next_offset FROM ingest_offset WHERE partition = ANY ($1)", [partitions],
                binary: true)
            return (0..<rows.rowCount).map { (rows.integer($0, 0), rows.integer($0, 1), rows.integer($0, 2)) }
        }
        var lost: [Int32] = []
        var next: [Int32: Int64] = [:]
        for advance in batch.advances {
            guard let row = found.first(where: { $0.0 == advance.partition }) else {
                lost.append(advance.partition)
                continue
            }
            switch ClaimStanding(advance, epoch: row.1, next: row.2) {
            case .held: next[advance.partition] = row.2
            case .lost: lost.append(advance.partition)
            case .wentBack(let reason): throw .outcome(.corrupt(partition: advance.partition, reason))
            }
        }
        if !lost.isEmpty { throw .outcome(.lost(lost)) }
        if batch.advances.allSatisfy({ next[$0.partition] == $0.to }) {
            var summary = WriteSummary()
            summary.wasStoredBefore = true
            return summary
        }
        throw .outcome(.ahead(next))
    }

    // MARK: Deduplication

    private func load(
        _ batch: PreparedBatch, _ connection: isolated PostgresConnection
    ) throws(Stop) -> [DeduplicationState] {
        guard !batch.keys.isEmpty else { return [] }
        let sources = PostgresValue.int4Array(batch.keys.map(\.source))
        let devices = PostgresValue.textArray(batch.keys.map(\.device.text))
        let select = """
            SELECT source, device, numbers::text FROM deduplication
            WHERE (source, device) IN (SELECT * FROM unnest($1::int4[], $2::text[])) ORDER BY source, device FOR UPDATE
            """
        let texts = try run { () throws(PostgresError) in
            var texts = try Self.texts(try connection.query(select, [sources, devices]))
            if texts.count < batch.keys.count {
                // Inserting waits for whoever inserts the same, and the select then sees what it committed.
                try connection.query(
                    """
                    INSERT INTO deduplication (source, device, numbers)
                    SELECT source, device, '{}' FROM unnest($1::int4[], $2::text[]) AS w (source, device)
                    ORDER BY source, device ON CONFLICT DO NOTHING
                    """, [sources, devices])
                texts = try Self.texts(try connection.query(select, [sources, devices]))
            }
            return texts
        }
        var states: [DeduplicationState] = []
        states.reserveCapacity(batch.keys.count)
        for (index, key) in batch.keys.enumerated() {
            guard let text = texts[key],
                let set = try? IntervalSet(text: text, maximumRanges: maximumRanges)
            else {
                throw .outcome(
                    .corrupt(
                        partition: batch.partition(ofKey: index),
                        "deduplication of source \(key.source), device \(key.device.text) cannot be read"))
            }
            states.append(DeduplicationState(set))
        }
        return states
    }

    private static func texts(_ rows: PostgresResult) throws(PostgresError) -> [DeduplicationKey: String] {
        var texts: [DeduplicationKey: String] = [:]
        for row in 0..<rows.rowCount {
            texts[DeduplicationKey(source: Int32(rows.integer(row, 0)), device: ExactName(rows.string(row, 1)))] =
                rows.string(row, 2)
        }
        return texts
    }

    private func store(
        _ states: [DeduplicationState], of batch: PreparedBatch, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        guard !states.isEmpty else { return }
        try connection.query(
            """
            UPDATE deduplication d SET numbers = w.numbers::int8multirange
            FROM unnest($1::int4[], $2::text[], $3::text[]) AS w (source, device, numbers)
            WHERE d.source = w.source AND d.device = w.device
            """,
            [
                .int4Array(batch.keys.map(\.source)), .textArray(batch.keys.map(\.device.text)),
                .textArray(states.map { $0.numbers.text }),
            ])
    }

    // MARK: Rows

    /// What the transaction stores, after repeats are taken out.
    private struct Applied {
        var summary = WriteSummary()
        var fresh: [Int] = []
        var ledger: [(source: Int32, line: LedgerLine, numbers: ClosedRange<UInt64>)] = []
        var accounts: [Int32: EpochAccount] = [:]
        var corrections: [(source: Int32, correction: ClockCorrection)] = []
        var undecodable: [(StoredRecordReference, String)] = []
        /// Trace contexts that publishers gave their messages.
        var traces: [(source: Int32, sequence: Int64, trace: String)] = []
    }

    private func apply(_ batch: PreparedBatch, to states: inout [DeduplicationState]) throws(Stop) -> Applied {
        var applied = Applied()
        applied.fresh.reserveCapacity(batch.messages.count)
        for item in batch.items {
            switch item {
            case .messages(let key, let entry, _, let first, _, let partition):
                let new: [Int]
                do throws(IntervalSetError) { new = try states[key].apply(entry.messages) } catch {
                    throw .outcome(overflow(partition, batch.keys[key].device.text, error))
                }
                for position in new {
                    applied.fresh.append(first + position)
                    let message = entry.messages[position]
                    guard let trace = message.ownTraceparent else { continue }
                    applied.traces.append((batch.keys[key].source, Int64(clamping: message.sequence), trace))
                }
                applied.summary.messages += new.count
                applied.summary.duplicates += entry.messages.count - new.count
            case .ledger(let key, let line, let partition):
                let result: DeduplicationState.LedgerResult
                do throws(IntervalSetError) { result = try states[key].apply(line) } catch {
                    throw .outcome(overflow(partition, batch.keys[key].device.text, error))
                }
                for range in result.new {
                    applied.ledger.append((batch.keys[key].source, line, range))
                    // A line may span more numbers than fit; the count is for a metric alone.
                    let (sum, isTooLarge) = applied.summary.dropped.addingReportingOverflow(range.count)
                    applied.summary.dropped = isTooLarge ? .max : sum
                }
                let (late, isTooLarge) = applied.summary.duplicates.addingReportingOverflow(Int(clamping: result.late))
                applied.summary.duplicates = isTooLarge ? .max : late
            case .account(let source, let account):
                var merged = applied.accounts[source] ?? account
                merged.lastSequence = max(merged.lastSequence, account.lastSequence)
                merged.isClosed = merged.isClosed || account.isClosed
                applied.accounts[source] = merged
            case .correction(let source, let correction): applied.corrections.append((source, correction))
            case .undecodable(let record, let reason):
                applied.undecodable.append((record, reason))
                applied.summary.undecodable += 1
            }
        }
        applied.summary.rows = applied.fresh.reduce(0) { $0 + Int(batch.messages[$1].rows) }
        return applied
    }

    private func overflow(_ partition: Int32, _ device: String, _ error: IntervalSetError) -> WriteOutcome {
        if case .tooManyRanges(let maximum) = error {
            return .overflow(partition: partition, device: device, ranges: maximum)
        }
        return .corrupt(partition: partition, "device \(device) has a number that cannot be stored: \(error)")
    }

    private func store(
        _ applied: Applied, of batch: PreparedBatch, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        try copy(messages: applied.fresh, of: batch, connection)
        try store(refused: applied.fresh, of: batch, connection)
        if !applied.ledger.isEmpty {
            let range = { (range: ClosedRange<UInt64>) in "[\(range.lowerBound),\(range.upperBound)]" }
            try connection.query(
                """
                INSERT INTO ledger (source, device, sequences, numbers, reason, aggregate_epoch, aggregates)
                SELECT source, device, sequences::int8range, numbers::int8range, reason, nullif(epoch, '')::uuid,
                    nullif(aggregates, '')::int8range
                FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[], $5::int4[], $6::text[], $7::text[])
                    AS w (source, device, sequences, numbers, reason, epoch, aggregates)
                """,
                [
                    .int4Array(applied.ledger.map(\.source)), .textArray(applied.ledger.map(\.line.device)),
                    .textArray(applied.ledger.map { range($0.line.sequences) }),
                    .textArray(applied.ledger.map { range($0.numbers) }),
                    .int4Array(applied.ledger.map { Int32($0.line.reason.rawValue) }),
                    .textArray(applied.ledger.map { $0.line.aggregate?.epoch.hex ?? "" }),
                    .textArray(applied.ledger.map { $0.line.aggregate.map { range($0.sequences) } ?? "" }),
                ])
        }
        for (source, account) in applied.accounts.sorted(by: { $0.key < $1.key }) {
            try connection.query(
                """
                INSERT INTO gateway_epoch AS g (source, last_sequence, closed) VALUES ($1, $2, $3)
                ON CONFLICT (source) DO UPDATE SET
                    last_sequence = greatest(g.last_sequence, excluded.last_sequence),
                    closed = g.closed OR excluded.closed, updated_at = now()
                """,
                [.int4(source), .int8(Int64(clamping: account.lastSequence)), .bool(account.isClosed)])
        }
        if !applied.corrections.isEmpty {
            // One that is sent or processed again names the same messages: what is there stays.
            try connection.query(
                """
                INSERT INTO clock_correction (source, first_sequence, last_sequence, wall_offset)
                SELECT * FROM unnest($1::int4[], $2::int8[], $3::int8[], $4::int8[]) ON CONFLICT DO NOTHING
                """,
                [
                    .int4Array(applied.corrections.map(\.source)),
                    .int8Array(applied.corrections.map { Int64($0.correction.sequences.lowerBound) }),
                    .int8Array(applied.corrections.map { Int64($0.correction.sequences.upperBound) }),
                    .int8Array(applied.corrections.map(\.correction.offset)),
                ])
        }
        if !applied.traces.isEmpty {
            try connection.query(
                """
                INSERT INTO message_trace (source, sequence, trace_id, traceparent)
                SELECT source, sequence, substr(trace, 4, 32)::uuid, trace
                FROM unnest($1::int4[], $2::int8[], $3::text[]) AS w (source, sequence, trace) ON CONFLICT DO NOTHING
                """,
                [
                    .int4Array(applied.traces.map(\.source)), .int8Array(applied.traces.map(\.sequence)),
                    .textArray(applied.traces.map(\.trace)),
                ])
        }
        for (record, reason) in applied.undecodable {
            try connection.query(
                """
                INSERT INTO rejected_record (incarnation, partition, log_offset, key, value, reason)
                VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING
                """,
                [
                    .text(batch.incarnation), .int4(record.partition), .int8(record.offset),
                    .bytes(ByteBuffer(string: record.key)), .bytes(record.value), .text(reason),
                ])
        }
    }

    /// A dead letter for each message that PostgreSQL refused as it was.
    private func store(
        refused fresh: [Int], of batch: PreparedBatch, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        if batch.refused.isEmpty { return }
        let fresh = Set(fresh)
        for item in batch.items {
            guard case .messages(let key, let entry, _, let first, _, _) = item else { continue }
            for (index, message) in entry.messages.enumerated() {
                guard let reason = batch.refused[first + index], fresh.contains(first + index) else { continue }
                try connection.query(
                    """
                    INSERT INTO dead_letter (kind, reason, source, sequence, device) VALUES (2, $1, $2, $3, $4)
                    """,
                    [
                        .text(reason), .int4(batch.keys[key].source), .int8(Int64(clamping: message.sequence)),
                        .text(entry.device),
                    ])
            }
        }
    }

    private func copy(
        messages: [Int], of batch: PreparedBatch, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        let measurements = PreparedBatch.slices(messages.lazy.map { batch.messages[$0].measurements })
        if !measurements.isEmpty {
            _ = try connection.copyIn(
                RowBuilder.measurementCopy, rows: batch.measurements.buffer, slices: measurements)
        }
        let events = PreparedBatch.slices(messages.lazy.map { batch.messages[$0].events })
        if !events.isEmpty {
            _ = try connection.copyIn(RowBuilder.eventCopy, rows: batch.events.buffer, slices: events)
        }
    }

    // MARK: Poison

    /// Which messages' rows PostgreSQL refuses: halves them in transactions that are always rolled back.
    ///
    /// - Returns: positions in `batch.messages` with the server's reason.
    func poison(
        in batch: PreparedBatch, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [(message: Int, reason: String)] {
        var found: [(message: Int, reason: String)] = []
        var pending = batch.messages.isEmpty ? [] : [0..<batch.messages.count]
        while let range = pending.popLast() {
            guard let error = try refusal(of: range, in: batch, connection) else { continue }
            if range.count == 1 {
                found.append((range.lowerBound, error.description))
                continue
            }
            let middle = range.lowerBound + range.count / 2
            pending.append(middle..<range.upperBound)
            pending.append(range.lowerBound..<middle)
        }
        return found
    }

    private func refusal(
        of range: Range<Int>, in batch: PreparedBatch, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> PostgresError? {
        try connection.run("BEGIN")
        defer { connection.rollBack() }
        do throws(PostgresError) {
            try copy(messages: Array(range), of: batch, connection)
            // What would otherwise be refused by the COMMIT alone.
            try connection.run("SET CONSTRAINTS ALL IMMEDIATE")
            return nil
        } catch {
            if error.isPoison { return error }
            throw error
        }
    }
}
