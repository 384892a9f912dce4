#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// What waits for the writer thread: commits first, then the uplink's and the operator's jobs, one after each commit.
/// Its callers bound it: one commit is outstanding, and each other job has a task that waits for it.
///
/// `@unchecked Sendable`: the mutable variables are read and written only while `mutex` is held; jobs run outside it.
/// The condition waits on the monotonic clock, so that a clock step neither stretches nor cuts a wait.
final class WriterQueue: @unchecked Sendable {
    typealias Job = @Sendable (BufferStore) -> Void

    enum Turn {
        /// At most one of each, in this order.
        case jobs(commit: Job?, other: Job?)
        /// Nothing came within the time.
        case idle
        case closed
    }

    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>
    private var commits: [Job] = []
    private var others: [Job] = []
    private var isClosed = false

    init() {
        mutex = .allocate(capacity: 1)
        condition = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    /// False, and the job is not kept, when the queue is closed.
    func pushCommit(_ job: @escaping Job) -> Bool {
        change { $0.commits.append(job) }
    }

    func pushOther(_ job: @escaping Job) -> Bool {
        change { $0.others.append(job) }
    }

    /// What was pushed before is still done; nothing new is taken.
    func close() {
        _ = change { $0.isClosed = true }
    }

    private func change(_ body: (WriterQueue) -> Void) -> Bool {
        pthread_mutex_lock(mutex)
        let isTaken = !isClosed
        if isTaken { body(self) }
        pthread_mutex_unlock(mutex)
        // One thread waits.
        pthread_cond_signal(condition)
        return isTaken
    }

    /// Waits for jobs; for `idleAfter` seconds at most, or without end when that is `nil`.
    func next(idleAfter: Double?) -> Turn {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        var deadline = idleAfter.map(Self.deadline(in:))
        while commits.isEmpty && others.isEmpty {
            if isClosed { return .closed }
            if deadline == nil {
                pthread_cond_wait(condition, mutex)
            } else if pthread_cond_timedwait(condition, mutex, &deadline!) == ETIMEDOUT {
                return .idle
            }
        }
        let commit = commits.isEmpty ? nil : commits.removeFirst()
        let other = others.isEmpty ? nil : others.removeFirst()
        return .jobs(commit: commit, other: other)
    }

    private static func deadline(in seconds: Double) -> timespec {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        let nanoseconds = time.tv_nsec + Int(seconds * 1e9)
        return timespec(tv_sec: time.tv_sec + nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000)
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
        // pthread_attr_init makes it; Swift's own initializer belongs to whichever C module was imported first.
        let attributes = UnsafeMutablePointer<pthread_attr_t>.allocate(capacity: 1)
        defer { attributes.deallocate() }
        pthread_attr_init(attributes)
        pthread_attr_setdetachstate(attributes, Int32(PTHREAD_CREATE_DETACHED))
        defer { pthread_attr_destroy(attributes) }
        var thread = pthread_t()
        let code = pthread_create(
            &thread, attributes,
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
