import CRDKafka
import Logging
import NIOConcurrencyHelpers
import Operations

#if canImport(Musl)
    import Musl
#else
    import Glibc
#endif

func kafkaText(_ code: rd_kafka_resp_err_t) -> String { String(cString: rd_kafka_err2str(code)) }

/// A decision of the consumer group about one member.
enum KafkaRebalance: Sendable {
    case assigned([Int32])
    case revoked([Int32])
}

/// What librdkafka's callbacks may touch. They get it as an unretained pointer: whoever owns the handle
/// holds the context, and lets go of it only after `rd_kafka_destroy`, past which no callback comes.
final class KafkaContext: Sendable {
    let logger: Logger
    private let fatal = NIOLockedValueBox<String?>(nil)
    private let fenced = NIOLockedValueBox(false)
    private let rebalances = NIOLockedValueBox<[KafkaRebalance]>([])

    init(logger: Logger) { self.logger = logger }

    /// The reason for which this instance can do nothing any more.
    var fatalReason: String? { fatal.withLockedValue { $0 } }

    /// Another process has joined the group under this reader's name.
    var isFenced: Bool { fenced.withLockedValue { $0 } }

    func noteFenced() { fenced.withLockedValue { $0 = true } }

    func fail(_ reason: String) {
        let isFirst = fatal.withLockedValue { fatal in
            defer { fatal = fatal ?? reason }
            return fatal == nil
        }
        if isFirst { logger.error("Kafka instance failed", metadata: [LogKey.error.rawValue: "\(reason)"]) }
    }

    func add(_ rebalance: KafkaRebalance) { rebalances.withLockedValue { $0.append(rebalance) } }

    func takeRebalances() -> [KafkaRebalance] {
        rebalances.withLockedValue { rebalances in
            defer { rebalances = [] }
            return rebalances
        }
    }

    static func of(_ handle: OpaquePointer?) -> KafkaContext? {
        guard let handle, let opaque = rd_kafka_opaque(handle) else { return nil }
        return Unmanaged<KafkaContext>.fromOpaque(opaque).takeUnretainedValue()
    }

    func log(level: Int32, _ text: String) {
        // syslog's levels, as librdkafka uses them.
        let level: Logger.Level = level <= 3 ? .error : level == 4 ? .warning : level <= 6 ? .info : .debug
        logger.log(level: level, "librdkafka", metadata: [LogKey.reason.rawValue: "\(text)"])
    }
}

enum KafkaHandle {
    /// - Parameter configure: sets callbacks before the instance is made.
    static func make(
        _ type: rd_kafka_type_t, _ properties: [(String, String)], context: KafkaContext,
        configure: (OpaquePointer) -> Void
    ) throws(EventLogError) -> OpaquePointer {
        guard let configuration = rd_kafka_conf_new() else { throw .other("Kafka: out of memory") }
        for (name, value) in properties {
            var text = [CChar](repeating: 0, count: 512)
            guard rd_kafka_conf_set(configuration, name, value, &text, text.count) == RD_KAFKA_CONF_OK else {
                rd_kafka_conf_destroy(configuration)
                // The value may be a secret: librdkafka's text of an invalid value would show it.
                let reason = text.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
                let shown = value.isEmpty ? reason : reason.split(separator: value).joined(separator: "…")
                throw .other("Kafka: the property \(name) is not accepted: \(shown)")
            }
        }
        rd_kafka_conf_set_opaque(configuration, Unmanaged.passUnretained(context).toOpaque())
        rd_kafka_conf_set_log_cb(configuration) { handle, level, _, text in
            guard let text else { return }
            KafkaContext.of(handle)?.log(level: level, String(cString: text))
        }
        rd_kafka_conf_set_error_cb(configuration) { handle, code, text, _ in
            guard let context = KafkaContext.of(handle) else { return }
            let reason = text.map { String(cString: $0) } ?? ""
            if code == Int32(RD_KAFKA_RESP_ERR__FATAL.rawValue) {
                if rd_kafka_fatal_error(handle, nil, 0) == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID { context.noteFenced() }
                context.fail(reason)
            } else {
                context.log(level: 4, reason)
            }
        }
        configure(configuration)
        var text = [CChar](repeating: 0, count: 512)
        guard let handle = rd_kafka_new(type, configuration, &text, text.count) else {
            rd_kafka_conf_destroy(configuration)
            throw .other("Kafka: \(text.withUnsafeBufferPointer { String(cString: $0.baseAddress!) })")
        }
        return handle
    }
}

/// A thread for C calls that block for long; ends when `body` returns.
func startThread(_ body: @escaping @Sendable () -> Void) throws(EventLogError) {
    final class Work {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    // The thread takes over the retain; when it could not be made, this function does.
    let work = Unmanaged.passRetained(Work(body))
    var thread = pthread_t()
    let code = pthread_create(
        &thread, nil,
        { argument in
            guard let argument else { return nil }
            Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body()
            return nil
        }, work.toOpaque())
    guard code == 0 else {
        work.release()
        throw .unavailable("cannot start a thread: \(errorText(code))")
    }
    pthread_detach(thread)
}
