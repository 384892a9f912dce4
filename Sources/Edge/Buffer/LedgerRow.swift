import SyncModel

extension LedgerLine {
    init(_ row: LedgerRow, epoch: Epoch) {
        self.init(
            epoch: epoch, device: row.device, sequences: row.sequences, numbers: row.numbers, reason: row.reason,
            aggregate: row.aggregate)
    }
}

extension Schema {
    /// Lines up to this one are in the cloud. They stay as long as frames of which they tell may be found in pages that are
    /// free: a salvage would take those for messages that still wait.
    ///
    /// Lines up to `carried_ledger` were there when a salvage made the file: what they tell of is absent from it.
    static let reportedLines = """
        ALTER TABLE progress ADD COLUMN reported_ledger INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE progress ADD COLUMN carried_ledger INTEGER NOT NULL DEFAULT 0;
        """
}

/// A row of `ledger`, as dropping, burying and the salvage write it.
struct LedgerRow {
    /// The row of the epoch.
    var epoch: Int64
    var device: String
    var sequences: ClosedRange<UInt64>
    var numbers: ClosedRange<UInt64>
    var reason: LedgerReason
    /// Of a line of the reason `aggregated`: what stands for its messages.
    var aggregate: AggregateReference?

    /// Returns the row's id.
    static let insertion = """
        INSERT INTO ledger (epoch, device, first_sequence, last_sequence, first_number, last_number, reason,
            aggregate_epoch, first_aggregate, last_aggregate)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id
        """

    /// - Parameter statement: `insertion`, prepared.
    @discardableResult
    func insert(with statement: SQLiteStatement) throws(SQLiteError) -> Int64 {
        statement.bind(1, epoch)
        statement.bind(2, device)
        statement.bind(3, Int64(sequences.lowerBound))
        statement.bind(4, Int64(sequences.upperBound))
        statement.bind(5, Int64(numbers.lowerBound))
        statement.bind(6, Int64(numbers.upperBound))
        statement.bind(7, Int64(reason.rawValue))
        if let aggregate {
            statement.bind(8, aggregate.epoch.blob)
            statement.bind(9, Int64(aggregate.sequences.lowerBound))
            statement.bind(10, Int64(aggregate.sequences.upperBound))
        } else {
            for column: Int32 in 8...10 { statement.bind(column, Int64?.none) }
        }
        return try statement.value()
    }

    init(_ run: DeviceRun, epoch: Int64, reason: LedgerReason) {
        (self.epoch, self.reason) = (epoch, reason)
        (device, sequences, numbers) = (run.device, run.sequences, run.numbers)
    }

    init(_ line: LedgerLine, epoch: Int64) {
        (self.epoch, reason, aggregate) = (epoch, line.reason, line.aggregate)
        (device, sequences, numbers) = (line.device, line.sequences, line.numbers)
    }

    /// It counts as many messages as it spans, so it says which they were.
    var isDense: Bool { sequences.upperBound - sequences.lowerBound == numbers.upperBound - numbers.lowerBound }

    /// Of a file that is not trusted: id, epoch, device, first_sequence, last_sequence, first_number, last_number, reason,
    /// aggregate_epoch, first_aggregate, last_aggregate.
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
        (self.epoch, self.device, self.reason) = (epoch, device, reason)
        (self.sequences, self.numbers) = (sequences, numbers)
        guard reason == .aggregated else { return }
        // The cloud takes no such line without what stands for it.
        guard values.count >= 11, case .blob(let blob) = values[8], let aggregateEpoch = Epoch(blob: blob),
            let aggregates = range(9)
        else { return nil }
        aggregate = AggregateReference(epoch: aggregateEpoch, sequences: aggregates)
    }
}
