import LocalWork
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
    /// Of frames that are not answered by the cloud yet, held ones included.
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
    /// The part that waits for the end of a window.
    package var held = LaneFill()
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
        /// What is done with messages before they are sent; drafts name them by their places.
        package var localRules: [LocalRule] = []
        /// What the gateway's own time goes by.
        package var clock = SystemClock.ofThisBoot
        /// Microseconds from one attempt to open a file that cannot be read to the next.
        package var readPause: UInt32 = 500_000
        /// SQLite's name for the way to the disk; `nil`: the system's calls.
        package var vfs: String?
        /// Room on the disk.
        package var space = DiskSpace.ofSystem
        /// A daemon has had the file: then it is one of ours, however little can be read of it.
        var hasBeenUsed = true
        /// Called with each end of what is durable.
        var noteEnd: @Sendable (KnownEnd) -> Void = { _ in }
        /// Called before each durable change of files that is not SQLite's; what it throws ends the change. A simulation ends
        /// the machine there.
        package var beforeFileChange: @Sendable () throws(BufferError) -> Void = { () throws(BufferError) in }
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
        var configuration = configuration
        configuration.path = try FileSystem.resolved(configuration.path)
        configuration.hasBeenUsed = FileSystem.exists(LockFile.path(for: configuration.path))
        let lock = try LockFile.acquire(for: configuration.path)
        configuration.noteEnd = { lock.note($0) }
        let shared = BufferShared()
        let (store, restored, salvage) = try releasing(lock) { () throws(BufferError) in
            try prepare(configuration, epoch: epoch, shared: shared, formerEnd: lock.formerEnd)
        }
        lock.forgetFormerEnd()
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
    ///
    /// - Parameter formerEnd: what the file must have at least.
    static func prepare(
        _ configuration: Configuration, epoch: Epoch, shared: BufferShared, formerEnd: KnownEnd? = nil
    ) throws(BufferError) -> (BufferStore, RestoredState, SalvageReport?) {
        let files = SalvageFiles(configuration)
        var salvage: SalvageReport?
        var cause: String?
        var end = formerEnd
        switch files.mark() {
        case .rebuilt(let report):
            try files.finish(report)
            salvage = report
        case .suspect(let what, let known):
            cause = what
            end = known ?? end
        case nil:
            files.removeRebuild()
            if !FileSystem.exists(configuration.path) { try FileSystem.create(configuration.path) }
            cause = findDamage(configuration)
        }
        if cause == nil {
            do throws(BufferError) {
                let (store, restored) = try openPatiently(
                    configuration, epoch: epoch, shared: shared, formerEnd: salvage == nil ? end : nil)
                return (store, restored, salvage)
            } catch .corrupt(let what) {
                cause = what
            }
        }
        salvage = try Salvage.run(configuration, cause: cause ?? "unknown", end: end)
        let (store, restored) = try openStore(configuration, epoch: epoch, shared: shared)
        return (store, restored, salvage)
    }

    private static func findDamage(_ configuration: Configuration) -> String? {
        let finding = configuration.readingAgain {
            StructureCheck.finding(at: configuration.path, pageSize: configuration.pageSize)
        } while: {
            if case .success(let finding?) = $0 { finding.isReadError } else { false }
        }
        return finding?.damage
    }

    /// A file of which something cannot be read for good is damaged.
    private static func openPatiently(
        _ configuration: Configuration, epoch: Epoch, shared: BufferShared, formerEnd: KnownEnd?
    ) throws(BufferError) -> (BufferStore, RestoredState) {
        do throws(BufferError) {
            return try configuration.readingAgain { () throws(BufferError) in
                try openStore(configuration, epoch: epoch, shared: shared, formerEnd: formerEnd)
            } while: {
                if case .failure(.failing) = $0 { true } else { false }
            }
        } catch {
            guard case .failing(let what) = error else { throw error }
            throw configuration.isReadable ? error : .corrupt(what)
        }
    }

    private static func openStore(
        _ configuration: Configuration, epoch: Epoch, shared: BufferShared, formerEnd: KnownEnd? = nil
    ) throws(BufferError) -> (BufferStore, RestoredState) {
        let connection = try Schema.open(configuration, for: .start)
        let store: BufferStore
        do throws(BufferError) {
            store = try BufferStore(configuration, connection: connection, shared: shared)
        } catch {
            // As it is: a salvage may want what the log has.
            connection.close(checkpointing: false)
            throw error
        }
        do throws(BufferError) {
            try store.checkStructure()
            if let formerEnd { try store.check(formerEnd) }
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
            lock.release(isClean: false)
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
            lock.release(isClean: writer.store.failure == nil)
            shared.end()
        }
        if let code {
            store.close()
            lock.release(isClean: false)
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

    /// What the rules of local work have done, in their order.
    package func localWork() -> [LocalRuleStatus] { shared.local.withLockedValue { $0 } }

    package func fill() -> BufferFill { shared.fill.withLockedValue { $0 } }

    /// Microseconds since the writer began what it does now; `nil` while it waits for work.
    package func writerBusyTime() -> Int64? { shared.activity.busyTime() }

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
        var announcements = 0
    }

    let fill = NIOLockedValueBox(BufferFill())
    let activity = WriterActivity()
    /// The lock is held for a copy only.
    let local = NIOLockedValueBox<[LocalRuleStatus]>([])
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
        let subscribers = state.withLockedValue { state in
            state.announcements += 1
            return Array(state.subscribers.values)
        }
        for subscriber in subscribers { subscriber.yield() }
    }

    /// How often subscribers were woken.
    var announcements: Int { state.withLockedValue { $0.announcements } }

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
