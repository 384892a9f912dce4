import CRDKafka
import Dispatch
import Logging
import Metrics
import NIOConcurrencyHelpers
import NIOCore
import Operations

/// A Kafka topic as the event log. The key is the device id; producer idempotent with acks=all; append times are the
/// broker's where the topic has LogAppendTime.
///
/// Incarnation: librdkafka 2.0.2 knows the cluster's id and no topic ids, so it is cluster id and topic name. A topic that
/// was deleted and made anew is therefore noticed by offsets that lie outside it, not by its incarnation.
package final class KafkaEventLog: EventLog {
    private struct State {
        var producer: KafkaProducer?
        var readers: [KafkaLogReader] = []
        /// Until when no reader is made: another process has this one's name in the group.
        var fencedUntil: ContinuousClock.Instant?
    }

    /// Two processes of one name would throw each other out all the time.
    private static let fencedPause: Duration = .seconds(30)

    private let configuration: KafkaConfiguration
    private let logger: Logger
    private let state: NIOLockedValueBox<State>
    /// Serialises questions to the cluster with the making and stopping of producers, so that no handle is destroyed while a
    /// question uses it.
    private let control = DispatchQueue(label: "sluice.kafka.control")
    private let appended = Counter(label: MetricName.eventLogAppended.rawValue)
    private let remade = Counter(label: MetricName.eventLogProducersRemade.rawValue)

    /// Does not wait for the cluster: what cannot be reached shows in the first call.
    package static func open(
        _ configuration: KafkaConfiguration, logger: Logger
    ) throws(EventLogError) -> KafkaEventLog {
        // Made and thrown away for its errors: else the first reader would meet them, long after the start.
        _ = try configuration.consumer(group: "check", member: "check")
        let producer = try KafkaProducer(configuration, context: KafkaContext(logger: logger))
        return KafkaEventLog(configuration, producer: producer, logger: logger)
    }

    private init(_ configuration: KafkaConfiguration, producer: KafkaProducer, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
        state = NIOLockedValueBox(State(producer: producer))
    }

    // MARK: - Appending

    package func append(_ records: [LogRecord]) async throws(EventLogError) {
        for record in records where record.kafkaBytes > configuration.maximumRecordBytes {
            throw .recordTooLarge(bytes: record.kafkaBytes)
        }
        // An append larger than the producer's queue goes in pieces, else it could never be taken.
        let slice = max(1, configuration.queueMaximumMessages / 2)
        var rest = records[...]
        while !rest.isEmpty {
            let part = rest.prefix(slice)
            rest = rest.dropFirst(part.count)
            if let error = await (try await producer()).send(part) { throw error }
            appended.increment(by: part.count)
        }
    }

    private func producer() async throws(EventLogError) -> KafkaProducer {
        guard let producer = state.withLockedValue({ $0.producer }) else { throw .closed }
        guard producer.isFatal else { return producer }
        return try await control.result { () throws(EventLogError) in try self.replace(producer) }.get()
    }

    /// On `control`: several appends may meet the same failed producer, the first replaces it.
    private func replace(_ failed: KafkaProducer) throws(EventLogError) -> KafkaProducer {
        guard let current = state.withLockedValue({ $0.producer }) else { throw .closed }
        guard current === failed else { return current }
        let fresh = try KafkaProducer(configuration, context: KafkaContext(logger: logger))
        state.withLockedValue { $0.producer = fresh }
        failed.stop()
        remade.increment()
        logger.warning("Kafka producer made anew after a fatal error")
        return fresh
    }

    // MARK: - Questions

    package func incarnation() async throws(EventLogError) -> String {
        try await ask { (producer, timeout) throws(EventLogError) in
            guard let text = rd_kafka_clusterid(producer.handle, timeout) else {
                throw .unavailable("Kafka: no broker answered within \(timeout) ms")
            }
            defer { rd_kafka_mem_free(producer.handle, text) }
            return "\(String(cString: text))/\(self.configuration.topic)"
        }
    }

    package func partitionCount() async throws(EventLogError) -> Int32 {
        try await ask { (producer, timeout) throws(EventLogError) in try self.countPartitions(producer, timeout) }
    }

    package func bounds() async throws(EventLogError) -> [PartitionBounds] {
        try await ask { (producer, timeout) throws(EventLogError) in
            let count = try self.countPartitions(producer, timeout)
            // Two questions for all partitions: one after the other would take a slow cluster longer than is waited for.
            let first = try self.offsets(-2, producer, count, timeout)
            let next = try self.offsets(-1, producer, count, timeout)
            return zip(first, next).enumerated().map { partition, range in
                PartitionBounds(partition: Int32(partition), first: range.0, next: range.1)
            }
        }
    }

    /// - Parameter time: as in Kafka's ListOffsets: -2 is the first record, -1 the next one.
    private func offsets(
        _ time: Int64, _ producer: KafkaProducer, _ partitions: Int32, _ timeout: Int32
    ) throws(EventLogError) -> [Int64] {
        let list = rd_kafka_topic_partition_list_new(partitions)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        for partition in 0..<partitions {
            rd_kafka_topic_partition_list_add(list, configuration.topic, partition).pointee.offset = time
        }
        let code = rd_kafka_offsets_for_times(producer.handle, list, timeout)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw .unavailable("Kafka: the bounds of \(configuration.topic) cannot be had: \(kafkaText(code))")
        }
        return try (0..<partitions).map { partition throws(EventLogError) in
            let found = rd_kafka_topic_partition_list_find(list, configuration.topic, partition)
            guard let answer = found?.pointee, answer.err == RD_KAFKA_RESP_ERR_NO_ERROR, answer.offset >= 0 else {
                let reason = found.map { kafkaText($0.pointee.err) } ?? "it was not answered"
                throw .unavailable(
                    "Kafka: the bounds of \(configuration.topic) partition \(partition) cannot be had: \(reason)")
            }
            return answer.offset
        }
    }

    static func bounds(
        of partition: Int32, handle: OpaquePointer, topic: String, timeout: Int32
    ) throws(EventLogError) -> PartitionBounds {
        var first: Int64 = 0
        var next: Int64 = 0
        let code = rd_kafka_query_watermark_offsets(handle, topic, partition, &first, &next, timeout)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw .unavailable("Kafka: the bounds of \(topic) partition \(partition) cannot be had: \(kafkaText(code))")
        }
        return PartitionBounds(partition: partition, first: first, next: next)
    }

    private func countPartitions(_ producer: KafkaProducer, _ timeout: Int32) throws(EventLogError) -> Int32 {
        var answer: UnsafePointer<rd_kafka_metadata>?
        let code = rd_kafka_metadata(producer.handle, 0, producer.topic, &answer, timeout)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let answer else {
            throw .unavailable("Kafka: the topic \(configuration.topic) cannot be looked up: \(kafkaText(code))")
        }
        defer { rd_kafka_metadata_destroy(answer) }
        guard answer.pointee.topic_cnt == 1, let topic = answer.pointee.topics?.pointee,
            topic.err == RD_KAFKA_RESP_ERR_NO_ERROR, topic.partition_cnt > 0
        else {
            let reason = answer.pointee.topics.map { kafkaText($0.pointee.err) } ?? "it is not there"
            throw .unavailable("Kafka: the topic \(configuration.topic) cannot be used: \(reason)")
        }
        return topic.partition_cnt
    }

    private func ask<Value: Sendable>(
        _ question: @escaping @Sendable (KafkaProducer, Int32) throws(EventLogError) -> Value
    ) async throws(EventLogError) -> Value {
        let timeout = Int32(configuration.requestTimeout.milliseconds)
        return try await control.result { () throws(EventLogError) in
            guard let producer = self.state.withLockedValue({ $0.producer }) else { throw .closed }
            return try question(producer, timeout)
        }.get()
    }

    // MARK: - Readers and the end

    package func makeReader(group: String, member: String) async throws(EventLogError) -> any EventLogReader {
        let isKnown = state.withLockedValue { state in
            if state.readers.contains(where: { $0.isFenced }) {
                state.fencedUntil = .now + Self.fencedPause
                state.readers.removeAll { $0.isFenced }
            }
            return state.producer != nil
        }
        guard isKnown else { throw .closed }
        if let until = state.withLockedValue({ $0.fencedUntil }), until > .now {
            throw .unavailable(
                "Kafka: another process is in the group as member \(member): give each its own processor.member; this one "
                    + "tries again in \((until - .now).milliseconds / 1_000) s")
        }
        let reader = try await KafkaLogReader.open(configuration, group: group, member: member, logger: logger)
        let isOpen = state.withLockedValue { state in
            guard state.producer != nil else { return false }
            state.readers.removeAll { $0.isClosed && !$0.isFenced }
            state.readers.append(reader)
            return true
        }
        guard isOpen else {
            await reader.close()
            throw .closed
        }
        return reader
    }

    /// Waits for the reports of what is under way, at most `messageTimeout`.
    package func close() async {
        let (producer, readers) = state.withLockedValue { state in
            defer { state = State() }
            return (state.producer, state.readers)
        }
        for reader in readers { await reader.close() }
        guard let producer else { return }
        // Behind any question that still uses the handle.
        _ = await control.result { () throws(EventLogError) in producer.stop() }
        await producer.waitUntilStopped()
    }
}
