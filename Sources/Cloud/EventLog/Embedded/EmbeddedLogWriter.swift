import CSQLite
import Dispatch
import Logging
import Metrics
import NIOConcurrencyHelpers
import NIOCore
import Operations
import SyncModel

/// Commits appends, writes the WAL back and deletes by age, each in small steps on one serial queue, so that none of them
/// keeps the others waiting for long.
final class EmbeddedLogWriter: Sendable {
    /// A commit takes at most so much, so that its fsync stays short.
    private static let maximumCommitBytes = 32 * 1024 * 1024
    /// The WAL is written back when so much was appended.
    private static let checkpointBytes = 8 * 1024 * 1024
    /// Segments that one transaction deletes.
    private static let deletionSlice: Int64 = 16

    /// Used on `queue` alone.
    private struct Confined {
        var lock: FileLock?
        var age: LogAge
        var uncheckpointed = 0
        var hasAlarmed = false
    }

    private let queue = DispatchQueue(label: "sluice.eventlog.writer")
    private let store: EmbeddedLogStore
    private let state: NIOLockedValueBox<EmbeddedLogState>
    private let options: EmbeddedEventLog.Options
    private let logger: Logger
    private let confined: NIOLockedValueBox<Confined>
    private let appended = Counter(label: MetricName.eventLogAppended.rawValue)
    private let commits = Counter(label: MetricName.eventLogCommits.rawValue)
    private let fileBytes = Gauge(label: MetricName.eventLogBytes.rawValue)
    private let usedBytes = Gauge(label: MetricName.eventLogUsedBytes.rawValue)

    init(
        store: EmbeddedLogStore, lock: FileLock, age: LogAge, state: NIOLockedValueBox<EmbeddedLogState>,
        options: EmbeddedEventLog.Options, logger: Logger
    ) {
        self.store = store
        self.state = state
        self.options = options
        self.logger = logger
        confined = NIOLockedValueBox(Confined(lock: lock, age: age))
    }

    func schedule() { queue.async { self.commitNext() } }

    /// One commit, then back to the end of the queue: deletions and checkpoints get their turn under load too.
    private func commitNext() {
        let (group, goOn) = state.withLockedValue { state in
            let group = state.takeGroup(maximumBytes: Self.maximumCommitBytes)
            return (group, state.isWriterScheduled)
        }
        if !group.isEmpty { commit(group) }
        if goOn { schedule() }
    }

    private func commit(_ group: [PendingAppend]) {
        var (next, last, time) = state.withLockedValue { ($0.next, $0.lastSegment, $0.appendTime) }
        time = LogAppendTime.next(after: time, wall: options.clock.wall())
        var age = confined.withLockedValue { $0.age }
        let outcome: Result<Int, SQLiteError> = Result { () throws(SQLiteError) in
            try write(Self.segments(of: group), next: &next, last: &last, time: time, age: &age)
        }
        let bytes = group.reduce(0) { $0 + $1.bytes }
        switch outcome {
        case .success(let records):
            confined.withLockedValue { $0.age = age }
            let waiters = state.withLockedValue { state in
                state.next = next
                state.lastSegment = last
                state.appendTime = time
                state.pendingBytes -= bytes
                return state.takeWaiters()
            }
            for append in group { append.continuation.resume(returning: .success(())) }
            for waiter in waiters { waiter.fire() }
            appended.increment(by: records)
            commits.increment()
            checkpointIfDue(bytes)
        case .failure(let error):
            state.withLockedValue { $0.pendingBytes -= bytes }
            let answer = judge(error)
            for append in group { append.continuation.resume(returning: .failure(answer)) }
        }
    }

    /// Small pieces of several appends share a segment, so that a busy log has few rows.
    private static func segments(of group: [PendingAppend]) -> [SegmentPiece] {
        var segments: [SegmentPiece] = []
        for var piece in group.lazy.flatMap(\.pieces) {
            if let last = segments.last,
                last.bytes.readableBytes + piece.bytes.readableBytes <= SegmentCodec.targetBytes
            {
                segments[segments.count - 1].merge(&piece)
            } else {
                segments.append(piece)
            }
        }
        return segments
    }

    private func write(
        _ segments: [SegmentPiece], next: inout [Int64], last: inout Int64, time: Int64, age: inout LogAge
    ) throws(SQLiteError) -> Int {
        var records = 0
        try store.file.execute("BEGIN IMMEDIATE")
        for segment in segments {
            let index = SegmentIndex(starts: next, counts: segment.counts)
            last += 1
            try store.insert(last, time: time, index: index, data: segment.bytes)
            next = index.ends
            records += segment.records
        }
        try store.insert(age.append(through: last, monotonic: options.clock.monotonic()))
        try store.file.execute("COMMIT")
        return records
    }

    /// A full disk is the caller's to wait for; after any other failure the file is not trusted any more.
    private func judge(_ error: SQLiteError) -> EventLogError {
        var cause = error
        do throws(SQLiteError) {
            // SQLite rolls back by itself on most failures, and then a ROLLBACK would be an error of its own.
            if !store.file.isAutocommit { try store.file.execute("ROLLBACK") }
            if error.isFull || error.isBusy { return .busy("the event log cannot be written: \(error)") }
        } catch { cause = error }
        return .unavailable(fail(cause))
    }

    private func fail(_ error: SQLiteError) -> String {
        let reason = "the event log's file is not trusted after a failed write: \(error); mend the disk and restart"
        let (pending, waiters) = state.withLockedValue { state in
            state.phase = .failed(reason)
            return (state.takePending(), state.takeWaiters())
        }
        logger.critical("event log failed", metadata: [LogKey.error.rawValue: "\(reason)"])
        for append in pending { append.continuation.resume(returning: .failure(.unavailable(reason))) }
        for waiter in waiters { waiter.fire() }
        return reason
    }

    // MARK: - Writing back

    private func checkpointIfDue(_ bytes: Int) {
        let isDue = confined.withLockedValue { confined in
            confined.uncheckpointed += bytes
            return confined.uncheckpointed >= Self.checkpointBytes
        }
        guard isDue else { return }
        do throws(SQLiteError) {
            let (log, done) = try store.file.checkpoint(SQLITE_CHECKPOINT_PASSIVE)
            // What a reader held up comes with the next one.
            if log == done { confined.withLockedValue { $0.uncheckpointed = 0 } }
        } catch  where error.isFull || error.isBusy {
            logger.warning("event log cannot be checkpointed", metadata: [LogKey.error.rawValue: "\(error)"])
        } catch {
            _ = fail(error)
        }
    }

    // MARK: - Deleting by age

    func startRetention() {
        queue.async { self.retain() }
    }

    private func retain() {
        guard state.withLockedValue({ $0.phase }) == .open else { return }
        let more = deleteSlice()
        if more {
            queue.async { self.retain() }
            return
        }
        measure()
        queue.asyncAfter(deadline: .now() + options.retentionInterval.dispatchInterval) { [weak self] in self?.retain()
        }
    }

    /// The newest segment stays whatever its age: it holds the next offsets.
    ///
    /// - Returns: whether there is more to delete.
    private func deleteSlice() -> Bool {
        let (first, last) = state.withLockedValue { ($0.firstSegment, $0.lastSegment) }
        let end = min(first + Self.deletionSlice, last) - 1
        guard end >= first else { return false }
        do {
            guard let through = try expired() else { return false }
            let cut = min(through, end)
            guard cut >= first else { return false }
            let starts = try store.places(of: cut + 1).starts
            try store.delete(through: cut)
            state.withLockedValue { state in
                state.firstSegment = cut + 1
                state.first = starts
            }
            return cut == end
        } catch let error as SQLiteError {
            if case .busy(let reason) = judge(error) {
                logger.warning("event log cannot delete by age", metadata: [LogKey.error.rawValue: "\(reason)"])
            }
        } catch {
            logger.error("event log cannot delete by age", metadata: [LogKey.error.rawValue: "\(error)"])
        }
        return false
    }

    private func expired() throws(SQLiteError) -> Int64? {
        guard let retention = options.retention else { return nil }
        let age = confined.withLockedValue { $0.age }
        return switch age.expired(keeping: retention.microseconds, monotonic: options.clock.monotonic()) {
        case .through(let segment): segment
        case .marked(let limit): try store.lastMark(notAfter: limit)?.segment
        }
    }

    private func measure() {
        guard let sizes = try? store.sizes() else { return }
        fileBytes.record(sizes.file)
        usedBytes.record(sizes.used)
        let isNew = confined.withLockedValue { confined in
            let isOver = sizes.file >= options.alarmBytes
            defer { confined.hasAlarmed = isOver }
            return isOver && !confined.hasAlarmed
        }
        guard isNew else { return }
        logger.warning(
            "event log is larger than its alarm size: add disk, or keep records for less time",
            metadata: [LogKey.bytes.rawValue: "\(sizes.file)"])
    }

    // MARK: - Closing

    func close() async {
        let waiters = state.withLockedValue { state in
            if case .open = state.phase { state.phase = .closing }
            return state.takeWaiters()
        }
        for waiter in waiters { waiter.fire() }
        await withCheckedContinuation { continuation in
            queue.async { self.finish(continuation) }
        }
    }

    private func finish(_ continuation: CheckedContinuation<Void, Never>) {
        // Commits put themselves at the end of the queue, so what waits is written before this runs out of turns.
        if state.withLockedValue({ $0.isWriterScheduled }) {
            queue.async { self.finish(continuation) }
            return
        }
        if state.withLockedValue({ $0.phase }) == .closing { markEnd() }
        let waiters = state.withLockedValue { state in
            state.phase = .closed
            return state.takeWaiters()
        }
        for waiter in waiters { waiter.fire() }
        store.file.close()
        confined.withLockedValue { $0.lock = nil }
        continuation.resume()
    }

    /// Without it age goes on from the newest commit. Who looks into the log of another program, to keep it all, leaves none.
    private func markEnd() {
        guard options.retention != nil else { return }
        let age = confined.withLockedValue { $0.age }
        do throws(SQLiteError) {
            try store.file.execute("BEGIN IMMEDIATE")
            try store.insert(age.end(monotonic: options.clock.monotonic()))
            try store.file.execute("COMMIT")
        } catch {
            logger.warning("event log's age cannot be written", metadata: [LogKey.error.rawValue: "\(error)"])
        }
    }
}

extension Duration {
    var microseconds: Int64 { components.seconds * 1_000_000 + components.attoseconds / 1_000_000_000_000 }
    var milliseconds: Int64 { microseconds / 1000 }
    var dispatchInterval: DispatchTimeInterval { .microseconds(Int(microseconds)) }
}
