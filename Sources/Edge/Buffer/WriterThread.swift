import NIOConcurrencyHelpers

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// What waits for the writer thread: commits first, then the uplink's and the operator's jobs, one after each commit.
///
/// `@unchecked Sendable`: every stored variable is read and written only while `lock` is held. Jobs run outside it.
final class WriterQueue: @unchecked Sendable {
    typealias Job = @Sendable (BufferStore) -> Void

    private enum Signal { static let empty = 0, work = 1 }

    private let lock = ConditionLock(value: Signal.empty)
    private var commits: [Job] = []
    private var others: [Job] = []
    private var isClosed = false

    /// False, and the job is not kept, when the queue is closed.
    func pushCommit(_ job: @escaping Job) -> Bool {
        append { $0.commits.append(job) }
    }

    func pushOther(_ job: @escaping Job) -> Bool {
        append { $0.others.append(job) }
    }

    private func append(_ change: (WriterQueue) -> Void) -> Bool {
        lock.lock()
        guard !isClosed else {
            lock.unlock()
            return false
        }
        change(self)
        lock.unlock(withValue: Signal.work)
        return true
    }

    /// What was pushed before is still done; nothing new is taken.
    func close() {
        lock.lock()
        isClosed = true
        lock.unlock(withValue: Signal.work)
    }

    enum Turn {
        /// At most one of each, in this order.
        case jobs(commit: Job?, other: Job?)
        /// Nothing came within the time.
        case idle
        case closed
    }

    /// Waits for jobs; for `idleAfter` seconds at most, or without end when that is `nil`.
    func next(idleAfter: Double?) -> Turn {
        if let idleAfter {
            guard lock.lock(whenValue: Signal.work, timeoutSeconds: idleAfter) else { return .idle }
        } else {
            lock.lock(whenValue: Signal.work)
        }
        // The queues are a few jobs long: one commit is outstanding, and each of the others has a task that waits.
        let commit = commits.isEmpty ? nil : commits.removeFirst()
        let other = others.isEmpty ? nil : others.removeFirst()
        let isEmpty = commits.isEmpty && others.isEmpty
        let isEnd = isClosed && commit == nil && other == nil
        lock.unlock(withValue: isEmpty && !isClosed ? Signal.empty : Signal.work)
        return isEnd ? .closed : .jobs(commit: commit, other: other)
    }
}

/// A POSIX thread of its own, because SQLite blocks in fsync and the cooperative pool must not.
enum WriterThread {
    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    /// - Returns: the errno when the system refuses a thread.
    static func start(_ run: @escaping @Sendable () -> Void) -> Int32? {
        let body = Unmanaged.passRetained(Body(run))
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        defer { pthread_attr_destroy(&attributes) }
        var thread = pthread_t()
        let code = pthread_create(
            &thread, &attributes,
            { argument in
                // The one retain that start() made is taken back here, and only here.
                Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue().run()
                return nil
            }, body.toOpaque())
        guard code == 0 else {
            body.release()
            return code
        }
        return nil
    }
}
