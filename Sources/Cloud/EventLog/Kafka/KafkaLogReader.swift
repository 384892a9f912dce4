import Atomics
import Dispatch
import Logging

/// A member of a consumer group. Partitions are handed to librdkafka only with the offset that `seek` gave, so that nothing
/// is fetched from anywhere else.
final class KafkaLogReader: EventLogReader {
    private let queue: DispatchQueue
    private let consumer: KafkaConsumer
    /// Set when the caller's task is cancelled or the reader is closed, to end a poll that waits.
    private let isInterrupted = ManagedAtomic(false)
    private let hasClosed = ManagedAtomic(false)

    static func open(
        _ configuration: KafkaConfiguration, group: String, member: String, logger: Logger
    ) async throws(EventLogError) -> KafkaLogReader {
        let queue = DispatchQueue(label: "sluice.kafka.reader")
        return try await queue.result { () throws(EventLogError) in
            let consumer = try KafkaConsumer(configuration, group: group, member: member, logger: logger)
            return KafkaLogReader(queue: queue, consumer: consumer)
        }.get()
    }

    private init(queue: DispatchQueue, consumer: KafkaConsumer) {
        self.queue = queue
        self.consumer = consumer
    }

    var isClosed: Bool { hasClosed.load(ordering: .acquiring) }

    func next(
        maximumRecords: Int, maximumBytes: Int, timeout: Duration
    ) async throws(EventLogError) -> EventLogEvent {
        isInterrupted.store(isClosed, ordering: .releasing)
        let result = await withTaskCancellationHandler {
            await queue.result { () throws(EventLogError) in
                try self.consumer.next(
                    maximumRecords: max(1, maximumRecords), maximumBytes: maximumBytes, timeout: timeout,
                    isInterrupted: self.isInterrupted)
            }
        } onCancel: {
            interrupt()
        }
        return try result.get()
    }

    func seek(partition: Int32, to offset: Int64) async throws(EventLogError) {
        try await queue.result { () throws(EventLogError) in try self.consumer.seek(partition, to: offset) }.get()
    }

    func commit(partition: Int32, next: Int64) async {
        _ = await queue.result { () throws(EventLogError) in self.consumer.commit(partition, next: next) }
    }

    func leave() async {
        hasClosed.store(true, ordering: .releasing)
        interrupt()
        _ = await queue.result { () throws(EventLogError) in
            self.consumer.leave()
            self.consumer.close()
        }
    }

    /// Another process has joined under this one's name.
    var isFenced: Bool { consumer.isFenced }

    func close() async {
        hasClosed.store(true, ordering: .releasing)
        interrupt()
        _ = await queue.result { () throws(EventLogError) in self.consumer.close() }
    }

    private func interrupt() { isInterrupted.store(true, ordering: .releasing) }
}
