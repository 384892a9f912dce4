import Dispatch
import Logging
import NIOConcurrencyHelpers
import NIOCore

/// An event log in one SQLite file, for one process: durable, partitioned and kept by time like a Kafka topic.
///
/// One writer queue owns the only read-write connection. Appends that arrive while a commit runs share the next commit and
/// its fsync. Each commit adds segments of about 1 MiB, in order, so that reading is a scan, and deleting by age a range.
/// Readers have read-only connections and queues of their own; they see a record only after its fsync.
package final class EmbeddedEventLog: EventLog {
    package struct Options: Sendable {
        /// 1 to 1024; fixed when the file is made.
        package var partitions: Int32 = 32
        /// Of running time; at least 72 h in production: a database restored to an earlier point reads the gap again.
        package var retention: Duration? = .seconds(72 * 3600)
        package var retentionInterval: Duration = .seconds(60)
        /// Key, headers and value with their lengths.
        package var maximumRecordBytes = 8 * 1024 * 1024
        /// Bytes that may wait for the disk before appends are `.busy`.
        package var maximumPendingBytes = 256 * 1024 * 1024
        /// File size from which a warning is logged; the size itself is the metric `sluice_event_log_bytes`.
        package var alarmBytes: Int64 = 100 * 1024 * 1024 * 1024
        package var clock = EventLogClock.system
        /// SQLite's file layer; `nil` is the system's.
        package var vfs: String?

        package init() {}
    }

    private let state: NIOLockedValueBox<EmbeddedLogState>
    private let writer: EmbeddedLogWriter
    private let identity: String
    private let path: String
    private let options: Options

    /// - Parameters:
    ///   - path: the file, made when it is not there; its folder must exist.
    ///   - partitions: 1 to 1024, and the same each time.
    ///   - retention: records are kept for at least so much of the time in which the log is open, consumed or not; `nil`: for
    ///     ever.
    package static func open(
        path: String, partitions: Int32 = 32, retention: Duration? = .seconds(72 * 3600), logger: Logger
    ) throws(EventLogError) -> EmbeddedEventLog {
        var options = Options()
        options.partitions = partitions
        options.retention = retention
        return try open(path: path, options: options, logger: logger)
    }

    /// Blocks while a crashed log is recovered: up to some seconds, at the start of the process.
    package static func open(
        path: String, options: Options, logger: Logger
    ) throws(EventLogError) -> EmbeddedEventLog {
        guard (1...1024).contains(options.partitions) else {
            throw .other("an event log has 1 to 1024 partitions, not \(options.partitions)")
        }
        let lock = try FileLock(path: path + ".lock")
        let store = try EmbeddedLogStore(path: path, options: options)
        let found = try store.recover()
        let age = try store.age(newest: found.lastSegment, monotonic: options.clock.monotonic())
        let state = NIOLockedValueBox(found)
        try syncDirectory(of: path)
        let writer = EmbeddedLogWriter(
            store: store, lock: lock, age: age, state: state, options: options, logger: logger)
        writer.startRetention()
        return EmbeddedEventLog(
            state: state, writer: writer, identity: store.identity, path: path, options: options)
    }

    private init(
        state: NIOLockedValueBox<EmbeddedLogState>, writer: EmbeddedLogWriter, identity: String, path: String,
        options: Options
    ) {
        self.state = state
        self.writer = writer
        self.identity = identity
        self.path = path
        self.options = options
    }

    package func incarnation() async throws(EventLogError) -> String {
        try checkReadable()
        return identity
    }

    package func partitionCount() async throws(EventLogError) -> Int32 {
        try checkReadable()
        return options.partitions
    }

    package func append(_ records: [LogRecord]) async throws(EventLogError) {
        if let error = state.withLockedValue({ $0.appendError }) { throw error }
        let pieces = try SegmentCodec.encode(
            records, partitions: Int(options.partitions), maximumRecordBytes: options.maximumRecordBytes)
        guard !pieces.isEmpty else { return }
        let bytes = pieces.reduce(0) { $0 + $1.bytes.readableBytes }
        let result = await withCheckedContinuation { continuation in
            let append = PendingAppend(pieces: pieces, bytes: bytes, continuation: continuation)
            let start: Result<Bool, EventLogError> = state.withLockedValue { state in
                Result { () throws(EventLogError) in
                    try state.enqueue(append, maximumPendingBytes: options.maximumPendingBytes)
                }
            }
            switch start {
            case .success(let start): if start { writer.schedule() }
            case .failure(let error): continuation.resume(returning: .failure(error))
            }
        }
        try result.get()
    }

    package func bounds() async throws(EventLogError) -> [PartitionBounds] {
        try checkReadable()
        return state.withLockedValue { state in
            zip(state.first, state.next).enumerated().map {
                PartitionBounds(partition: Int32($0.offset), first: $0.element.0, next: $0.element.1)
            }
        }
    }

    /// One reader owns all partitions of a group: there is one process, so there is nothing to share them with.
    package func makeReader(group: String, member: String) async throws(EventLogError) -> any EventLogReader {
        let holder: Result<String?, EventLogError> = state.withLockedValue { state in
            if let error = state.readError { return .failure(error) }
            if let holder = state.groups[group] { return .success(holder) }
            state.groups[group] = member
            return .success(nil)
        }
        if let holder = try holder.get() {
            throw .other(
                "the group \(group) is read by \(holder) already: the embedded event log gives all partitions of a group "
                    + "to one reader; close that one first, or use Kafka to share them")
        }
        do throws(EventLogError) {
            return try await EmbeddedLogReader.open(
                path: path, partitions: Int(options.partitions), group: group, vfs: options.vfs, state: state)
        } catch {
            state.withLockedValue { $0.groups[group] = nil }
            throw error
        }
    }

    /// Commits what waits, then refuses everything.
    package func close() async { await writer.close() }

    private func checkReadable() throws(EventLogError) {
        if let error = state.withLockedValue({ $0.readError }) { throw error }
    }
}

extension DispatchQueue {
    /// Runs blocking work on this queue instead of the cooperative pool.
    func result<Value: Sendable>(
        _ work: @escaping @Sendable () throws(EventLogError) -> Value
    ) async -> Result<Value, EventLogError> {
        await withCheckedContinuation { continuation in
            self.async {
                continuation.resume(returning: Result { () throws(EventLogError) in try work() })
            }
        }
    }
}
