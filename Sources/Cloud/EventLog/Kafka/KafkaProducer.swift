import Atomics
import CRDKafka
import NIOConcurrencyHelpers
import NIOCore

/// One append: resumes its caller when the last of its records was reported on.
private final class DeliveryCount: Sendable {
    private struct State {
        /// The records under way, and one for the caller that still hands records over.
        var remaining = 1
        var error: EventLogError?
        var continuation: CheckedContinuation<EventLogError?, Never>?
    }

    private let state = NIOLockedValueBox(State())

    func begin() { state.withLockedValue { $0.remaining += 1 } }

    func end(_ error: EventLogError?) {
        let finished: (CheckedContinuation<EventLogError?, Never>, EventLogError?)? = state.withLockedValue { state in
            state.remaining -= 1
            state.error = state.error ?? error
            guard state.remaining == 0, let continuation = state.continuation else { return nil }
            state.continuation = nil
            return (continuation, state.error)
        }
        if let finished { finished.0.resume(returning: finished.1) }
    }

    /// Ends the caller's own part and waits for the rest.
    func finish() async -> EventLogError? {
        await withCheckedContinuation { continuation in
            state.withLockedValue { $0.continuation = continuation }
            end(nil)
        }
    }
}

/// An idempotent producer and the thread that serves its delivery reports.
///
/// `@unchecked Sendable`: librdkafka's handles may be used from any thread; the thread that was started in `init` destroys
/// them after `stop`, when no sender hands records over any more. Questions to the cluster are kept apart from `stop` by the
/// event log.
final class KafkaProducer: @unchecked Sendable {
    let handle: OpaquePointer
    let topic: OpaquePointer
    private let context: KafkaContext
    private let configuration: KafkaConfiguration
    private let isStopping = ManagedAtomic(false)
    /// Senders that use the handle. Each counts itself before it looks at `isStopping`, and the thread looks here after that
    /// was set, both sequentially consistent: one of the two sees the other.
    private let senders = ManagedAtomic(0)
    private let stopped = OneShot()

    init(_ configuration: KafkaConfiguration, context: KafkaContext) throws(EventLogError) {
        handle = try KafkaHandle.make(RD_KAFKA_PRODUCER, try configuration.producer(), context: context) {
            rd_kafka_conf_set_dr_msg_cb($0) { handle, message, _ in
                guard let message else { return }
                KafkaProducer.report(message.pointee, context: KafkaContext.of(handle))
            }
        }
        guard let topic = rd_kafka_topic_new(handle, configuration.topic, nil) else {
            rd_kafka_destroy(handle)
            throw .other("Kafka: the topic \(configuration.topic) cannot be used: \(kafkaText(rd_kafka_last_error()))")
        }
        self.topic = topic
        self.context = context
        self.configuration = configuration
        do throws(EventLogError) {
            // The thread holds this producer, and with it the context, until the handle is destroyed.
            try startThread { self.serve() }
        } catch {
            rd_kafka_topic_destroy(topic)
            rd_kafka_destroy(handle)
            throw error
        }
    }

    var isFatal: Bool { context.fatalReason != nil }

    // MARK: - Sending

    /// Returns when every record is acknowledged by all in-sync replicas, else the first error; waits for all reports in
    /// either case, which `messageTimeout` bounds.
    func send(_ records: ArraySlice<LogRecord>) async -> EventLogError? {
        let count = DeliveryCount()
        if let error = handOver(records, count) { count.end(error) }
        return await count.finish()
    }

    /// - Returns: why a record was not taken; those before it are under way.
    private func handOver(_ records: ArraySlice<LogRecord>, _ count: DeliveryCount) -> EventLogError? {
        senders.wrappingIncrement(ordering: .sequentiallyConsistent)
        defer { senders.wrappingDecrement(ordering: .sequentiallyConsistent) }
        guard !isStopping.load(ordering: .sequentiallyConsistent) else {
            count.begin()
            return .unavailable("Kafka: the producer failed and is made anew")
        }
        for record in records {
            count.begin()
            // Each record under way holds the count; its report (there is exactly one) lets go of it.
            let opaque = Unmanaged.passRetained(count)
            guard let error = produce(record, opaque: opaque.toOpaque()) else { continue }
            opaque.release()
            return error
        }
        return nil
    }

    private func produce(_ record: LogRecord, opaque: UnsafeMutableRawPointer) -> EventLogError? {
        let headers = Self.headers(record.headers)
        var key = record.key
        let failure = key.withUTF8 { key in
            record.value.withUnsafeReadableBytes { value in
                var arguments = [
                    argument(RD_KAFKA_VTYPE_RKT) { $0.rkt = topic },
                    argument(RD_KAFKA_VTYPE_MSGFLAGS) { $0.i = Int32(RD_KAFKA_MSG_F_COPY) },
                    argument(RD_KAFKA_VTYPE_KEY) {
                        $0.mem = .init(ptr: pointer(UnsafeRawBufferPointer(key)), size: key.count)
                    },
                    argument(RD_KAFKA_VTYPE_VALUE) { $0.mem = .init(ptr: pointer(value), size: value.count) },
                    argument(RD_KAFKA_VTYPE_OPAQUE) { $0.ptr = opaque },
                ]
                if let headers { arguments.append(argument(RD_KAFKA_VTYPE_HEADERS) { $0.headers = headers }) }
                return rd_kafka_produceva(handle, arguments, arguments.count)
            }
        }
        guard let failure else { return nil }
        defer { rd_kafka_error_destroy(failure) }
        // Only an accepted record takes the headers over.
        if let headers { rd_kafka_headers_destroy(headers) }
        let bytes = record.kafkaBytes
        return Self.error(rd_kafka_error_code(failure), bytes: bytes, context: context)
    }

    private func argument(
        _ type: rd_kafka_vtype_t, _ set: (inout rd_kafka_vu_s.__Unnamed_union_u) -> Void
    ) -> rd_kafka_vu_t {
        var argument = rd_kafka_vu_t()
        argument.vtype = type
        set(&argument.u)
        return argument
    }

    /// Never nil: a nil key would mean any partition.
    private func pointer(_ bytes: UnsafeRawBufferPointer) -> UnsafeMutableRawPointer {
        UnsafeMutableRawPointer(mutating: bytes.baseAddress ?? UnsafeRawPointer(handle))
    }

    private static func headers(_ headers: [LogRecord.Header]) -> OpaquePointer? {
        guard !headers.isEmpty, let list = rd_kafka_headers_new(headers.count) else { return nil }
        for header in headers {
            var value = header.value
            value.withUTF8 { value in
                // An empty value needs a pointer all the same, else it would be null.
                let bytes = value.baseAddress.map { UnsafeRawPointer($0) } ?? UnsafeRawPointer(list)
                _ = rd_kafka_header_add(list, header.name, -1, bytes, value.count)
            }
        }
        return list
    }

    // MARK: - Delivery reports

    private static func report(_ message: rd_kafka_message_t, context: KafkaContext?) {
        guard let opaque = message._private else { return }
        let count = Unmanaged<DeliveryCount>.fromOpaque(opaque).takeRetainedValue()
        count.end(error(message.err, bytes: message.len + message.key_len, context: context))
    }

    private static func error(_ code: rd_kafka_resp_err_t, bytes: Int, context: KafkaContext?) -> EventLogError? {
        switch code {
        case RD_KAFKA_RESP_ERR_NO_ERROR: nil
        case RD_KAFKA_RESP_ERR__QUEUE_FULL: .busy("Kafka: the producer's queue is full")
        case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE: .recordTooLarge(bytes: bytes)
        case RD_KAFKA_RESP_ERR__FATAL:
            .unavailable("Kafka: the producer failed and is made anew: \(context?.fatalReason ?? kafkaText(code))")
        default: .unavailable("Kafka: \(kafkaText(code))")
        }
    }

    // MARK: - The thread

    private func serve() {
        while !isStopping.load(ordering: .sequentiallyConsistent) { rd_kafka_poll(handle, 100) }
        // What is still under way may finish in its time; the rest is reported as purged, so that no caller waits for ever.
        if !isFatal { rd_kafka_flush(handle, Int32(configuration.messageTimeout.milliseconds)) }
        while senders.load(ordering: .sequentiallyConsistent) > 0 { rd_kafka_poll(handle, 1) }
        rd_kafka_purge(handle, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT)
        while rd_kafka_outq_len(handle) > 0 { rd_kafka_poll(handle, 10) }
        rd_kafka_topic_destroy(topic)
        rd_kafka_destroy(handle)
        stopped.fire()
    }

    /// Who sends from here on is refused.
    func stop() { isStopping.store(true, ordering: .sequentiallyConsistent) }

    func waitUntilStopped() async { await stopped.wait() }
}

extension LogRecord {
    var kafkaBytes: Int {
        headers.reduce(key.utf8.count + value.readableBytes) { $0 + $1.name.utf8.count + $1.value.utf8.count }
    }
}
