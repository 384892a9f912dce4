import EventLog
import Foundation
import Ingest
import Logging
import NIOCore
import Operations
import SyncModel
import TestSupport
import Testing

/// Kafka's producer and the sync endpoint together: what a slow broker means for gateways.
@Suite struct FullQueueTests {
    /// Each differs from the others by the number of its messages.
    private func batch(_ index: Int) -> Batch { sampleBatch(messages: 10 + 2 * index) }

    /// Every entry that the log has.
    private func stored(_ log: KafkaEventLog) async throws -> [LogEntry] {
        let count = Int(try await log.bounds().map(\.next).reduce(0, +))
        let reader = try await log.makeReader(group: "test", member: "test")
        var entries: [LogEntry] = []
        let end = ContinuousClock.now + .seconds(60)
        while entries.count < count, ContinuousClock.now < end {
            switch try await reader.next(maximumRecords: 1_000, maximumBytes: 1 << 24, timeout: .seconds(1)) {
            case .assigned(let partitions):
                for partition in partitions { try await reader.seek(partition: partition, to: 0) }
            case .records(let more): entries += try more.map { try LogEntry.decode($0.record.value) }
            case .idle, .revoked: continue
            }
        }
        await reader.leave()
        #expect(entries.count == count)
        return entries
    }

    private func postAll(_ indices: some Sequence<Int> & Sendable, to ingest: TestIngest) async throws -> [Int: Reply] {
        try await withThrowingTaskGroup(of: (Int, Reply).self) { tasks in
            for index in indices {
                let batch = batch(index)
                tasks.addTask { (index, try await post(ingest, batch: batch.encoded())) }
            }
            return try await tasks.reduce(into: [:]) { $0[$1.0] = $1.1 }
        }
    }

    @Test func aFullProducerQueueIs429AndWhatWasAcceptedIsInTheLog() async throws {
        let mock = try MockKafka(partitions: 4)
        var configuration = mock.configuration()
        configuration.queueMaximumMessages = 8
        let log = try KafkaEventLog.open(configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        let ingest = try await TestIngest(pki: try TestPKI.shared.get(), log: log) {
            $0.maximumInFlight = 64
            $0.maximumGatewayInFlight = 64
        }
        #expect(try await post(ingest, batch: batch(0).encoded()).status == 200)
        mock.delay(milliseconds: 1_500)
        let replies = try await postAll(1...24, to: ingest)
        let refused = replies.filter { $0.value.status != 200 }
        #expect(!refused.isEmpty && refused.count < 24, "\(refused.count) of 24 refused")
        #expect(
            refused.values.allSatisfy {
                $0.status == 429 && $0.retryAfter == "2" && $0.body.contains("the producer's queue is full")
            }, "\(refused)")
        #expect(ingest.metrics.text().contains(#"limit="log_busy"} \#(refused.count)"#), "\(ingest.metrics.text())")

        mock.delay(milliseconds: 0)
        let accepted = [0] + replies.filter { $0.value.status == 200 }.keys
        var entries = try await stored(log)
        for index in accepted {
            #expect(batch(index).logEntries().allSatisfy { entries.contains($0) }, "batch \(index)")
        }
        // As gateways do: the same batch again, until it is taken.
        var waiting = Set(refused.keys)
        let end = ContinuousClock.now + .seconds(60)
        while !waiting.isEmpty, ContinuousClock.now < end {
            for index in waiting where try await post(ingest, batch: batch(index).encoded()).status == 200 {
                waiting.remove(index)
            }
        }
        entries = try await stored(log)
        for index in 0...24 {
            #expect(batch(index).logEntries().allSatisfy { entries.contains($0) }, "batch \(index)")
        }
        try await ingest.shutdown()
        await log.close()
        try mock.end()
    }
}
