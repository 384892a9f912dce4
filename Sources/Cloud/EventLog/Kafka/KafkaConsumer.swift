import Atomics
import CRDKafka
import Dispatch
import Glibc
import Logging
import NIOCore
import Operations

/// librdkafka's consumer and what is known of its partitions.
///
/// `@unchecked Sendable`: made, used and closed on its reader's serial queue alone. The rebalance callback runs inside the
/// polls and the close there, and touches the context only.
final class KafkaConsumer: @unchecked Sendable {
    /// A poll is cut into pieces of this length, so that an interrupted one ends soon.
    private static let pollMilliseconds: Int64 = 100

    private let handle: OpaquePointer
    private let context: KafkaContext
    private let configuration: KafkaConfiguration
    private let logger: Logger
    private let member: String
    private var assigned: Set<Int32> = []
    /// Offset of the next record to be given, of the partitions that were sought.
    private var positions: [Int32: Int64] = [:]
    /// Partitions that may be paused, as they were not sought; librdkafka remembers that over assignments. A resumption that
    /// meets a rebalance may be passed over, so it is asked for until it cannot have been.
    private var paused: Set<Int32> = []
    /// The group's assignment was not answered yet.
    private var owesAnswer = false
    private var events: [EventLogEvent] = []
    /// Met after records that had to be given first.
    private var pendingError: EventLogError?
    private var isClosed = false
    private var hasNotedCreateTime = false

    init(_ configuration: KafkaConfiguration, group: String, member: String, logger: Logger) throws(EventLogError) {
        self.configuration = configuration
        self.logger = logger
        self.member = member
        context = KafkaContext(logger: logger)
        let properties = try configuration.consumer(group: group, member: member)
        handle = try KafkaHandle.make(RD_KAFKA_CONSUMER, properties, context: context) {
            rd_kafka_conf_set_rebalance_cb($0) { handle, code, partitions, _ in
                KafkaConsumer.rebalanced(handle, code, partitions)
            }
        }
        rd_kafka_poll_set_consumer(handle)
        let list = rd_kafka_topic_partition_list_new(1)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        rd_kafka_topic_partition_list_add(list, configuration.topic, -1)
        let code = rd_kafka_subscribe(handle, list)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            rd_kafka_destroy(handle)
            throw .other("Kafka: cannot subscribe to \(configuration.topic): \(kafkaText(code))")
        }
    }

    // MARK: - The group

    /// An assignment is answered when the offsets are known; everything else at once.
    private static func rebalanced(
        _ handle: OpaquePointer?, _ code: rd_kafka_resp_err_t,
        _ partitions: UnsafeMutablePointer<rd_kafka_topic_partition_list_t>?
    ) {
        guard let handle, let context = KafkaContext.of(handle) else { return }
        let list = partitions.map { list in
            (0..<Int(list.pointee.cnt)).map { list.pointee.elems[$0].partition }
        }
        let numbers = (list ?? []).sorted()
        let isAssignment = code == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS
        context.add(isAssignment ? .assigned(numbers) : .revoked(numbers))
        if !isAssignment || numbers.isEmpty { rd_kafka_assign(handle, nil) }
        // Ends the poll, so that the event is given at once.
        rd_kafka_yield(handle)
    }

    private func takeRebalances() {
        for rebalance in context.takeRebalances() {
            positions = [:]
            switch rebalance {
            case .assigned(let partitions):
                assigned = Set(partitions)
                owesAnswer = !partitions.isEmpty
                events.append(.assigned(partitions))
            case .revoked(let partitions):
                assigned = []
                owesAnswer = false
                events.append(.revoked(partitions))
            }
        }
    }

    func seek(_ partition: Int32, to offset: Int64) throws(EventLogError) {
        guard !isClosed else { throw .closed }
        guard assigned.contains(partition) else {
            throw .other("Kafka: partition \(partition) is not assigned to this reader")
        }
        // Kafka's negative offsets are not offsets, but words ("end").
        guard offset >= 0 else { throw try outOfRange(partition, offset) }
        if !owesAnswer {
            // Where that fails, nothing of it may be taken: it could come from anywhere.
            positions[partition] = nil
            // In this order: what is fetched in between is from before the move, and goes with it.
            if paused.contains(partition) { try resume([partition]) }
            try move(partition, to: offset)
        }
        positions[partition] = offset
    }

    /// Of a partition that librdkafka has.
    private func move(_ partition: Int32, to offset: Int64) throws(EventLogError) {
        let deadline = ContinuousClock.now + configuration.requestTimeout
        while true {
            let list = rd_kafka_topic_partition_list_new(1)
            defer { rd_kafka_topic_partition_list_destroy(list) }
            let element = rd_kafka_topic_partition_list_add(list, configuration.topic, partition)
            element?.pointee.offset = offset
            let error = rd_kafka_seek_partitions(handle, list, Int32(configuration.requestTimeout.milliseconds))
            let code = error.map { rd_kafka_error_code($0) } ?? element?.pointee.err ?? RD_KAFKA_RESP_ERR_NO_ERROR
            if let error { rd_kafka_error_destroy(error) }
            switch code {
            case RD_KAFKA_RESP_ERR_NO_ERROR: return
            // Its reading has not begun yet, or begins.
            case RD_KAFKA_RESP_ERR__STATE,
                RD_KAFKA_RESP_ERR__PREV_IN_PROGRESS where ContinuousClock.now < deadline:
                usleep(10_000)
            default:
                throw .unavailable("Kafka: partition \(partition) cannot be read from \(offset): \(kafkaText(code))")
            }
        }
    }

    /// Once for each assignment of the group, with all its partitions: assigning them anew would stop and start those that are
    /// read, and librdkafka 2.0.2 aborts the process where the group takes a partition away before such a stop has ended. Those
    /// that are not sought yet stand at their ends, paused; nothing that still comes of them is taken.
    private func assign() throws(EventLogError) {
        let waiting = assigned.subtracting(positions.keys)
        let sought = paused.intersection(positions.keys)
        try resume(sought)
        // Nothing is assigned now that a rebalance could concern.
        paused.subtract(sought)
        let list = list(of: assigned)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        let code = rd_kafka_assign(handle, list)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw .unavailable("Kafka: partitions cannot be taken: \(kafkaText(code))")
        }
        owesAnswer = false
        pause(waiting)
    }

    /// Only for economy: what comes of a partition that is not sought is not taken.
    private func pause(_ partitions: Set<Int32>) {
        guard !partitions.isEmpty else { return }
        let list = list(of: partitions)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        paused.formUnion(partitions)
        rd_kafka_pause_partitions(handle, list)
    }

    private func resume(_ partitions: Set<Int32>) throws(EventLogError) {
        guard !partitions.isEmpty else { return }
        let list = list(of: partitions)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        let code = rd_kafka_resume_partitions(handle, list)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw .unavailable("Kafka: partitions cannot be resumed: \(kafkaText(code))")
        }
    }

    /// Each with the offset that it was sought to, else its end. The caller destroys it.
    private func list(of partitions: Set<Int32>) -> UnsafeMutablePointer<rd_kafka_topic_partition_list_t>? {
        let list = rd_kafka_topic_partition_list_new(Int32(partitions.count))
        for partition in partitions {
            rd_kafka_topic_partition_list_add(list, configuration.topic, partition)?.pointee.offset =
                positions[partition] ?? Self.end
        }
        return list
    }

    /// RD_KAFKA_OFFSET_END, a macro that Swift cannot import.
    private static let end: Int64 = -1

    // MARK: - Reading

    func next(
        maximumRecords: Int, maximumBytes: Int, timeout: Duration, isInterrupted: ManagedAtomic<Bool>
    ) throws(EventLogError) -> EventLogEvent {
        guard !isClosed else { throw .closed }
        if let error = pendingError {
            pendingError = nil
            throw error
        }
        if !events.isEmpty { return events.removeFirst() }
        if let reason = context.fatalReason { throw failure(reason) }
        if owesAnswer, !positions.isEmpty { try assign() }
        let deadline = ContinuousClock.now + timeout
        var records: [StoredLogRecord] = []
        var bytes = 0
        while records.count < maximumRecords, bytes < maximumBytes || records.isEmpty {
            let rest = (deadline - ContinuousClock.now).milliseconds
            // Having some, take only what is there already.
            let wait = records.isEmpty ? max(0, min(rest, Self.pollMilliseconds)) : 0
            let message = rd_kafka_consumer_poll(handle, Int32(wait))
            takeRebalances()
            guard let message else {
                if !records.isEmpty || !events.isEmpty || rest <= 0 { break }
                if isInterrupted.load(ordering: .acquiring) { break }
                continue
            }
            defer { rd_kafka_message_destroy(message) }
            do throws(EventLogError) {
                guard let record = try accept(message) else { continue }
                records.append(record)
            } catch {
                // The records count as read, so they are given before the error.
                if records.isEmpty { throw error }
                pendingError = error
                break
            }
            bytes += message.pointee.len + message.pointee.key_len
        }
        if !records.isEmpty { return .records(records) }
        return events.isEmpty ? .idle : events.removeFirst()
    }

    /// `nil` for what is no record of a partition that is read.
    private func accept(
        _ pointer: UnsafeMutablePointer<rd_kafka_message_t>
    ) throws(EventLogError) -> StoredLogRecord? {
        let message = pointer.pointee
        guard message.err == RD_KAFKA_RESP_ERR_NO_ERROR else {
            try judge(message)
            return nil
        }
        guard let position = positions[message.partition], message.offset >= position else { return nil }
        positions[message.partition] = message.offset + 1
        return stored(pointer)
    }

    private func judge(_ message: rd_kafka_message_t) throws(EventLogError) {
        let reason = message.payload.map { String(cString: $0.assumingMemoryBound(to: CChar.self)) }
        let text = reason ?? kafkaText(message.err)
        switch message.err {
        case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
            guard let position = positions[message.partition] else { return }
            throw try outOfRange(message.partition, position)
        case RD_KAFKA_RESP_ERR__PARTITION_EOF: return
        case RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED:
            // The group's decisions follow as rebalances.
            logger.warning("Kafka reader was too slow for its group", metadata: [LogKey.reason.rawValue: "\(text)"])
        case RD_KAFKA_RESP_ERR__FATAL:
            throw failure(context.fatalReason ?? text)
        default: throw .unavailable("Kafka: \(text)")
        }
    }

    private func failure(_ reason: String) -> EventLogError {
        // The records' way may bring the news before the callback does.
        if rd_kafka_fatal_error(handle, nil, 0) == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID { context.noteFenced() }
        guard context.isFenced else { return .other("Kafka: this reader failed and must be made anew: \(reason)") }
        return .unavailable(
            "Kafka: another process has joined the group as member \(member): give each its own processor.member")
    }

    private func outOfRange(_ partition: Int32, _ offset: Int64) throws(EventLogError) -> EventLogError {
        let timeout = Int32(configuration.requestTimeout.milliseconds)
        let bounds = try KafkaEventLog.bounds(
            of: partition, handle: handle, topic: configuration.topic, timeout: timeout)
        return .outOfRange(partition: partition, offset: offset, first: bounds.first, next: bounds.next)
    }

    /// librdkafka's accessors look behind the public part of a message, so they need the pointer that it gave.
    private func stored(_ pointer: UnsafeMutablePointer<rd_kafka_message_t>) -> StoredLogRecord {
        let message = pointer.pointee
        let key = String(decoding: UnsafeRawBufferPointer(start: message.key, count: message.key_len), as: UTF8.self)
        let value = ByteBuffer(bytes: UnsafeRawBufferPointer(start: message.payload, count: message.len))
        return StoredLogRecord(
            partition: message.partition, offset: message.offset, appendTime: appendTime(of: pointer),
            record: LogRecord(key: key, value: value, headers: Self.headers(of: pointer)))
    }

    private func appendTime(of pointer: UnsafeMutablePointer<rd_kafka_message_t>) -> Int64 {
        var type = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE
        let milliseconds = rd_kafka_message_timestamp(pointer, &type)
        if type != RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME, !hasNotedCreateTime {
            hasNotedCreateTime = true
            logger.notice(
                "the topic has no LogAppendTime: append times are those of the ingest's clock, not of the broker's")
        }
        return milliseconds * 1000
    }

    private static func headers(of pointer: UnsafeMutablePointer<rd_kafka_message_t>) -> [LogRecord.Header] {
        var list: OpaquePointer?
        guard rd_kafka_message_headers(pointer, &list) == RD_KAFKA_RESP_ERR_NO_ERROR, let list else { return [] }
        return (0..<rd_kafka_header_cnt(list)).compactMap { index in
            var name: UnsafePointer<CChar>?
            var value: UnsafeRawPointer?
            var size = 0
            let code = rd_kafka_header_get_all(list, index, &name, &value, &size)
            guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let name else { return nil }
            let bytes = UnsafeRawBufferPointer(start: value, count: size)
            return LogRecord.Header(name: String(cString: name), value: String(decoding: bytes, as: UTF8.self))
        }
    }

    // MARK: - The end

    func commit(_ partition: Int32, next: Int64) {
        guard !isClosed, assigned.contains(partition) else { return }
        let list = rd_kafka_topic_partition_list_new(1)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        rd_kafka_topic_partition_list_add(list, configuration.topic, partition).pointee.offset = next
        // For the lag display only: a failed one is made up for by the next.
        rd_kafka_commit(handle, list, 1)
    }

    /// A static member's partitions stay its own for the session timeout after a close (KIP-345), so that a restart moves
    /// nothing. Leaving hands them over at once.
    func leave() {
        guard !isClosed, configuration.leavesGroup, context.fatalReason == nil else { return }
        if owesAnswer { rd_kafka_assign(handle, nil) }
        owesAnswer = false
        // librdkafka leaves a static member's group when it unsubscribes, and never when it closes.
        rd_kafka_unsubscribe(handle)
        let end = ContinuousClock.now + Self.leaveTimeout
        while isMember, ContinuousClock.now < end { drop(milliseconds: 20) }
        // The member's id goes when the request is queued: this is its time to be sent.
        let sent = ContinuousClock.now + .milliseconds(200)
        while ContinuousClock.now < sent { drop(milliseconds: 20) }
    }

    /// The others get the partitions after the session timeout then.
    private static let leaveTimeout: Duration = .seconds(2)

    private var isMember: Bool {
        guard let id = rd_kafka_memberid(handle) else { return false }
        defer { rd_kafka_mem_free(handle, id) }
        return id.pointee != 0
    }

    /// Serves callbacks; what was fetched stays in the log.
    private func drop(milliseconds: Int32) {
        if let message = rd_kafka_consumer_poll(handle, milliseconds) { rd_kafka_message_destroy(message) }
    }

    var isFenced: Bool { context.isFenced }

    func close() {
        guard !isClosed else { return }
        isClosed = true
        // An assignment without its answer would keep the group, and the close, waiting.
        if owesAnswer { rd_kafka_assign(handle, nil) }
        end()
    }

    /// librdkafka 2.0.2 may wait in its close for ever while no broker answers. Then the instance is left to a thread that waits
    /// with it, and the process can end: the group gives the partitions away after the session timeout.
    private func end() {
        let ended = DispatchSemaphore(value: 0)
        let context = context
        // Safe: from here on the thread alone uses it, or, where there is none, this one.
        nonisolated(unsafe) let handle = handle
        do {
            try startThread {
                rd_kafka_consumer_close(handle)
                rd_kafka_destroy(handle)
                // Callbacks reach it until then.
                withExtendedLifetime(context) {}
                ended.signal()
            }
        } catch {
            rd_kafka_consumer_close(handle)
            rd_kafka_destroy(handle)
            return
        }
        guard ended.wait(timeout: .now() + Self.closeTimeout) == .timedOut else { return }
        logger.warning("a Kafka reader does not end while no broker answers; it is left behind")
    }

    private static let closeTimeout: DispatchTimeInterval = .seconds(5)
}
