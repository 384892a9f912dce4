import Database

extension BatchWriter {
    /// Stores the batch; messages that PostgreSQL refuses become events with their bytes.
    ///
    /// - Returns: why messages were refused, beside the outcome. Where that is still poison, replacing did not help.
    nonisolated(nonsending) func isolate(
        in batch: inout PreparedBatch, preparer: BatchPreparer, on connection: PostgresConnection
    ) async throws(PostgresError) -> (outcome: WriteOutcome, refused: [String]) {
        var outcome = await write(batch, on: connection)
        // check_violation: also what a row gets whose day has no partition any more.
        if case .failed(let error) = outcome, error.sqlState == "23514" {
            try await preparer.remakePartitions(connection)
            outcome = await write(batch, on: connection)
        }
        var replaced: Set<Int> = []
        var reasons: [String] = []
        while case .failed(let error) = outcome, error.isPoison {
            let new = try await poison(in: batch, on: connection).filter { !replaced.contains($0.message) }
            if new.isEmpty { break }
            reasons += new.map(\.reason)
            replaced.formUnion(new.map(\.message))
            preparer.replace(new, in: &batch)
            outcome = await write(batch, on: connection)
        }
        return (outcome, reasons)
    }
}
