import Database

/// A message that PostgreSQL refuses, as log lines speak of it.
struct RefusedMessage: Sendable, Equatable {
    /// Its W3C `traceparent`.
    var trace: String?
    var reason: String
}

extension BatchWriter {
    /// Stores the batch; messages that PostgreSQL refuses become events with their bytes.
    ///
    /// - Returns: the messages that were refused, beside the outcome. Where that is still poison, replacing did not help.
    nonisolated(nonsending) func isolate(
        in batch: inout PreparedBatch, preparer: BatchPreparer, on connection: PostgresConnection
    ) async throws(PostgresError) -> (outcome: WriteOutcome, refused: [RefusedMessage]) {
        var outcome = await write(batch, on: connection)
        // check_violation: also what a row gets whose day has no partition any more.
        if case .failed(let error) = outcome, error.sqlState == "23514" {
            try await preparer.remakePartitions(connection)
            outcome = await write(batch, on: connection)
        }
        var replaced: Set<Int> = []
        var refused: [RefusedMessage] = []
        while case .failed(let error) = outcome, error.isPoison {
            let new = try await poison(in: batch, on: connection).filter { !replaced.contains($0.message) }
            if new.isEmpty { break }
            refused += new.map { RefusedMessage(trace: batch.trace(ofMessage: $0.message), reason: $0.reason) }
            replaced.formUnion(new.map(\.message))
            preparer.replace(new, in: &batch)
            outcome = await write(batch, on: connection)
        }
        return (outcome, refused)
    }
}
