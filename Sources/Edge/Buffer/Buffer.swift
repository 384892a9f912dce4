import Logging
import MQTTSession
import NIOConcurrencyHelpers
import NIOCore
import Operations
import SyncModel

/// What one commit made durable.
package struct CommitReceipt: Sendable, Equatable {
    package var epoch: Epoch
    /// Of the first message; 0 when there was none.
    package var firstSequence: UInt64
    package var lastSequence: UInt64
    package var messageCount: Int
    /// Microseconds from the transaction's begin to the end of its fsync.
    package var duration: Int64
}

/// How full the buffer is.
package struct BufferFill: Sendable, Equatable {
    /// Of frames that are not answered by the cloud yet.
    package var bytes: Int = 0
    package var messages: Int = 0
    package var maximumBytes: Int = 0
    /// `bytes` or the file's used pages have reached `maximumBytes`, or the disk has come to its floor.
    package var isFull = false
    /// Why nothing can be stored at present.
    package var failure: String?
    /// Microseconds since 1970; `nil`: none since the start.
    package var lastCommit: Int64?
    /// When the first message of the oldest frame arrived, microseconds since 1970 by the gateway's clock.
    package var oldestFrame: Int64?
    /// The part of `bytes` and `messages` that is older than the lane live.
    package var backlog = LaneFill()
}

/// Messages and session state on their way through the gateway, in one SQLite file.
///
/// All work on the file is done by one thread of the buffer's own; everything here may be called from any thread.
package final class Buffer: Sendable {
    package struct Configuration: Sendable {
        package var path: String
        /// Of the frames, and of the file's used pages.
        package var maximumBytes: Int = 1024 * 1024 * 1024
        /// Percent of the file system that stays free.
        package var freeDiskFloor: Double = 10
        package var gatewayID: String
        /// Microseconds of the gateway's own time after which messages are dropped; `nil`: never.
        package var maximumAge: Int64?
        /// A full buffer drops what is worth least instead of being full.
        package var dropsOldest = false
        /// Of disk space that is set aside for what must be written when the disk is full; 0: none.
        package var reserveBytes = 16 * 1024 * 1024
        /// What the gateway's own time goes by.
        package var clock = SystemClock.ofThisBoot
        /// Free pages that stay in the file for what comes next; four times as much and more is given back to the disk.
        package var keptFreeBytes: Int64 = 4 * 1024 * 1024
        /// Of a new file; a power of two from 512 to 65,536.
        package var pageSize = 4096
        /// SQLite's page cache.
        package var cacheBytes = 8 * 1024 * 1024
        /// Pages in the write-ahead log at which they are copied into the database file even while commits wait.
        package var checkpointPages = 512
        /// The same when nothing has been asked of the buffer for `idleTime`.
        package var idleCheckpointPages = 128
        /// Seconds.
        package var idleTime = 0.02
        /// Answered frames are deleted in slices of so many bytes and rows.
        package var deletionSlice = (bytes: 1024 * 1024, frames: 256)
        /// Frames are read for the uplink in slices of so many bytes, so that a commit waits for one slice at most.
        package var readSlice = 512 * 1024
        /// Messages that the cloud refuses are kept in so many rows and bytes; the oldest make room.
        package var deadLetters = (count: 10_000, bytes: 16 * 1024 * 1024)
        /// Epochs that are kept for the accounting after the cloud has their accounts and their frames.
        package var keptEpochs = 1_000
        /// Pages that the file may have; `nil`: a quarter and 16 MiB more than `maximumBytes`.
        package var maximumPages: Int?

        package init(path: String, gatewayID: String) {
            self.path = path
            self.gatewayID = gatewayID
        }

        func maximumPages(ofSize pageSize: Int) -> Int {
            maximumPages ?? (maximumBytes + maximumBytes / 4 + 16 * 1024 * 1024) / pageSize
        }
    }

    let configuration: Configuration
    /// For whatever expires; it does not change while the process lives.
    package let gatewayTime: GatewayTime
    private let queue = WriterQueue()
    let shared: BufferShared
    /// What was done when the file was opened, if it was damaged.
    package let salvage: SalvageReport?

    /// Opens the file or makes it, under its lock; ends all earlier epochs and begins `epoch`. Blocks while SQLite
    /// recovers what an unclean end left.
    package static func open(
        _ configuration: Configuration, epoch: Epoch, logger: Logger
    ) throws(BufferError) -> (buffer: Buffer, restored: RestoredState) {
        let lock = try LockFile.acquire(for: configuration.path)
        let shared = BufferShared()
        let (store, restored, salvage) = try releasing(lock) { () throws(BufferError) in
            try prepare(configuration, epoch: epoch, shared: shared)
        }
        if let salvage { Self.log(salvage, logger) }
        let fill = shared.fill.withLockedValue { $0 }
        let buffer = Buffer(configuration, gatewayTime: store.clocks.time, shared: shared, salvage: salvage)
        try buffer.start(store, lock: lock, logger: logger)
        logger.info(
            "buffer open",
            metadata: [
                LogKey.path.rawValue: "\(configuration.path)", LogKey.epoch.rawValue: "\(epoch.hexadecimal)",
                LogKey.count.rawValue: "\(fill.messages)", LogKey.bytes.rawValue: "\(fill.bytes)",
            ])
        return (buffer, restored)
    }

    /// Opens the file. One that is damaged is salvaged first; what an interrupted salvage left is brought to its end.
    private static func prepare(
        _ configuration: Configuration, epoch: Epoch, shared: BufferShared
    ) throws(BufferError) -> (BufferStore, RestoredState, SalvageReport?) {
        let files = SalvageFiles(path: configuration.path)
        var salvage: SalvageReport?
        var cause: String?
        switch files.mark() {
        case .rebuilt(let report):
            try files.finish(report)
            salvage = report
        case .suspect(let what):
            cause = what
        case nil:
            files.removeRebuild()
            if !FileSystem.exists(configuration.path) { try FileSystem.create(configuration.path) }
            cause = StructureCheck.damage(at: configuration.path, pageSize: configuration.pageSize)
        }
        if cause == nil {
            do throws(BufferError) {
                let (store, restored) = try openStore(configuration, epoch: epoch, shared: shared)
                return (store, restored, salvage)
            } catch .corrupt(let what) {
                cause = what
            }
        }
        salvage = try Salvage.run(configuration, cause: cause ?? "unknown")
        let (store, restored) = try openStore(configuration, epoch: epoch, shared: shared)
        return (store, restored, salvage)
    }

    private static func openStore(
        _ configuration: Configuration, epoch: Epoch, shared: BufferShared
    ) throws(BufferError) -> (BufferStore, RestoredState) {
        let connection = try Schema.open(configuration, existingOnly: false)
        let store: BufferStore
        do throws(BufferError) {
            store = try BufferStore(configuration, connection: connection, shared: shared)
        } catch {
            connection.close()
            throw error
        }
        do throws(BufferError) {
            try store.checkStructure()
            let restored = try store.restoreSessions()
            try store.begin(epoch)
            return (store, restored)
        } catch {
            store.close()
            throw error
        }
    }

    private static func log(_ salvage: SalvageReport, _ logger: Logger) {
        logger.critical(
            "buffer was damaged and salvaged",
            metadata: [
                LogKey.reason.rawValue: "\(salvage.cause)", LogKey.path.rawValue: "\(salvage.movedTo)",
                LogKey.count.rawValue: "\(salvage.messages)", LogKey.missing.rawValue: "\(salvage.missing)",
                LogKey.error.rawValue: "\(salvage.description)",
            ])
    }

    /// Runs a body under the lock, which is released only when the body fails.
    private static func releasing<Value>(
        _ lock: LockFile, whenFailing body: () throws(BufferError) -> Value
    ) throws(BufferError) -> Value {
        do throws(BufferError) {
            return try body()
        } catch {
            lock.release()
            throw error
        }
    }

    private init(
        _ configuration: Configuration, gatewayTime: GatewayTime, shared: BufferShared, salvage: SalvageReport?
    ) {
        self.configuration = configuration
        self.gatewayTime = gatewayTime
        self.shared = shared
        self.salvage = salvage
    }

    private func start(_ store: BufferStore, lock: LockFile, logger: Logger) throws(BufferError) {
        // Safe: the store was used by this thread alone until here, and is used by the new one alone from here on;
        // starting a thread orders the two.
        nonisolated(unsafe) let store = store
        let queue = queue
        let shared = shared
        let code = WriterThread.start {
            var writer = Writer(store: store, logger: logger)
            writer.serve(queue)
            lock.release()
            shared.end()
        }
        if let code {
            store.close()
            lock.release()
            throw .io("the buffer's thread cannot be started: \(reason(code)); raise the limit of threads")
        }
    }

    /// Makes messages and changes durable in one transaction. At most one group is outstanding from the gateway; the
    /// completion runs on the writer thread, after the fsync, and must not block.
    ///
    /// A group that failed has left nothing behind and consumed no sequence, except after `.failing`, when it is not known:
    /// the next commit must be the same group again. After `.corrupt` only a restart tells.
    package func commit(
        _ drafts: [FrameDraft], changes: [DurableChange],
        completion: @escaping @Sendable (Result<CommitReceipt, BufferError>) -> Void
    ) {
        let isTaken = queue.pushCommit { store in
            completion(store.commit(drafts, changes: changes))
        }
        if !isTaken { completion(.failure(.closed)) }
    }

    /// Seconds since 1970 by which certificates are judged: those of `GatewayClock.judgingTime`.
    package func judgingSeconds() -> Int64 {
        let clock = configuration.clock.now()
        return (shared.clocks.withLockedValue { $0 }?.judgingTime(at: clock) ?? clock.wallTime) / 1_000_000
    }

    /// Whether the system's clock says what certificates are judged by, to a few seconds.
    package func isClockBelieved() -> Bool {
        abs(judgingSeconds() - configuration.clock.now().wallTime / 1_000_000) < 5
    }

    package func fill() -> BufferFill { shared.fill.withLockedValue { $0 } }

    /// Microseconds since the writer began what it does now; `nil` while it waits for work.
    package func writerBusyTime() -> Int64? { shared.activity.busyTime() }

    /// Bytes of a slice of frames that is read for somebody.
    var readSlice: Int { configuration.readSlice }

    package func accounting() async throws(BufferError) -> GatewayAccounting {
        try await perform { store throws(SQLiteError) in try store.accounting() }
    }

    /// Does what was asked before, copies the log into the file and closes it. The next call on the buffer fails with
    /// `.closed`.
    package func close() async {
        queue.close()
        await shared.ended()
    }

    /// Runs a job on the writer thread. The continuation is resumed there, outside every lock.
    func perform<Value: Sendable>(
        _ job: @escaping @Sendable (BufferStore) throws(SQLiteError) -> Value
    ) async throws(BufferError) -> Value {
        let result: Result<Value, BufferError> = await withCheckedContinuation { continuation in
            let isTaken = queue.pushOther { store in
                continuation.resume(returning: store.attempt { () throws(SQLiteError) in try job(store) })
            }
            if !isTaken { continuation.resume(returning: .failure(.closed)) }
        }
        return try result.get()
    }
}

/// What the writer thread and its callers share.
final class BufferShared: Sendable {
    private struct State {
        var subscribers: [Int: AsyncStream<Void>.Continuation] = [:]
        var nextSubscriber = 0
        var isEnded = false
        var waiting: [CheckedContinuation<Void, Never>] = []
    }

    let fill = NIOLockedValueBox(BufferFill())
    let activity = WriterActivity()
    /// As of the last stamp. The lock is held for a copy only.
    let clocks = NIOLockedValueBox<GatewayClock?>(nil)
    private let state = NIOLockedValueBox(State())

    func subscribe() -> AsyncStream<Void> {
        let (stream, continuation) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let key: Int? = state.withLockedValue { state in
            guard !state.isEnded else { return nil }
            state.nextSubscriber += 1
            state.subscribers[state.nextSubscriber] = continuation
            return state.nextSubscriber
        }
        guard let key else {
            continuation.finish()
            return stream
        }
        continuation.onTermination = { [weak self] _ in
            self?.state.withLockedValue { _ = $0.subscribers.removeValue(forKey: key) }
        }
        continuation.yield()
        return stream
    }

    /// Wakes the subscribers, outside the lock.
    func announce() {
        let subscribers = state.withLockedValue { Array($0.subscribers.values) }
        for subscriber in subscribers { subscriber.yield() }
    }

    func end() {
        let (subscribers, waiting) = state.withLockedValue { state in
            state.isEnded = true
            let taken = (Array(state.subscribers.values), state.waiting)
            state.waiting = []
            state.subscribers = [:]
            return taken
        }
        for subscriber in subscribers { subscriber.finish() }
        for continuation in waiting { continuation.resume() }
    }

    func ended() async {
        await withCheckedContinuation { continuation in
            let isEnded = state.withLockedValue { state in
                if !state.isEnded { state.waiting.append(continuation) }
                return state.isEnded
            }
            if isEnded { continuation.resume() }
        }
    }
}
