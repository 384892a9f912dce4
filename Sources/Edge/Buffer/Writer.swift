import Logging
import NIOConcurrencyHelpers
import Operations

/// What the buffer's thread does: jobs, maintenance between them, and opening the file anew after the disk has failed.
struct Writer {
    private(set) var store: BufferStore
    private let logger: Logger
    private var isFailureLogged = false
    private var isLocalFailureLogged = false
    /// Microseconds on the monotonic clock.
    private var nextOpening: Int64 = 0
    /// In succession.
    private var unreadableOpenings = 0
    private var openingDelay = Self.openingDelays.lowerBound

    /// Microseconds.
    private static let openingDelays: ClosedRange<Int64> = 1_000_000...30_000_000
    /// When a page could not be read though the file had been opened: so many times within so long (microseconds), and
    /// opening it anew does not help.
    private var readFailures: [Int64] = []
    private static let maximumReadFailures = (count: 3, time: Int64(3_600_000_000))

    init(store: BufferStore, logger: Logger) {
        self.store = store
        self.logger = logger
    }

    /// Until the queue is closed.
    mutating func serve(_ queue: WriterQueue) {
        let activity = store.shared.activity
        while true {
            activity.waits()
            let turn = queue.next(idleAfter: idleTime)
            activity.begins()
            guard take(turn) else { return }
        }
    }

    /// Seconds after which it takes a turn although nothing is asked of it; `nil`: never.
    var idleTime: Double? { store.failure == nil ? store.idleTime : 1 }

    /// - Returns: false when the file is closed.
    mutating func take(_ turn: WriterQueue.Turn) -> Bool {
        switch turn {
        case .jobs(let commit, let other):
            commit?(store)
            other?(store)
            store.maintain()
        case .idle:
            store.maintainIdle()
        case .closed:
            store.close()
            return false
        }
        if let failure = store.failure { failed(failure) } else { tellOfLocalWork() }
        return true
    }

    private mutating func failed(_ failure: BufferError) {
        let now = store.monotonicTime
        if !isFailureLogged {
            isFailureLogged = true
            nextOpening = now + openingDelay
            store.shared.fill.withLockedValue { $0.failure = "\(failure)" }
            logger.critical("The buffer's disk fails.", metadata: [LogKey.error.rawValue: "\(failure)"])
            if store.cannotRead { couldNotRead(failure, at: now) }
        }
        guard case .failing = failure, now >= nextOpening else { return }
        openingDelay = min(2 * openingDelay, Self.openingDelays.upperBound)
        nextOpening = now + openingDelay
        openAnew()
    }

    /// Once when it begins to fail, and once when it is well again.
    private mutating func tellOfLocalWork() {
        guard isLocalFailureLogged != (store.local.failure != nil) else { return }
        isLocalFailureLogged.toggle()
        guard let failure = store.local.failure else {
            logger.notice("Local work goes on again.")
            return
        }
        logger.error(
            "Local work cannot go on; its messages stay in the buffer, and it is tried again.",
            metadata: [LogKey.error.rawValue: "\(failure)"])
    }

    private mutating func couldNotRead(_ failure: BufferError, at now: Int64) {
        readFailures = readFailures.filter { now - $0 < Self.maximumReadFailures.time } + [now]
        guard readFailures.count >= Self.maximumReadFailures.count else { return }
        store.distrust(
            .corrupt(
                "\(failure); it has failed so \(readFailures.count) times: restart the daemon, which salvages the rest")
        )
    }

    /// A start salvages what can be read; here it would be waited for without end.
    private mutating func couldNotOpen(_ what: String) {
        unreadableOpenings = store.configuration.isReadable ? 0 : unreadableOpenings + 1
        guard unreadableOpenings >= Buffer.Configuration.readAttempts else { return }
        store.distrust(
            .corrupt("\(what); it could not be read again and again: restart the daemon, which salvages the rest"))
    }

    private mutating func openAnew() {
        store.abandon()
        do throws(BufferError) {
            store = try Self.open(insteadOf: store)
            isFailureLogged = false
            unreadableOpenings = 0
            openingDelay = Self.openingDelays.lowerBound
            store.shared.fill.withLockedValue { $0.failure = nil }
            // What failed may be in the file all the same, so that other messages wait than the uplink was told of.
            store.shared.announce()
            logger.notice("The buffer's disk is well again.")
        } catch {
            if case .corrupt = error { store.distrust(error) }
            if case .failing(let what) = error { couldNotOpen(what) }
            logger.error("The buffer cannot be opened yet.", metadata: [LogKey.error.rawValue: "\(error)"])
        }
    }

    /// With the checks of a start, before SQLite recovers: it forgets what lies beyond a damaged place of the log.
    static func open(insteadOf former: BufferStore) throws(BufferError) -> BufferStore {
        let configuration = former.configuration
        if let finding = StructureCheck.finding(at: configuration.path, pageSize: configuration.pageSize) {
            let what = "\(configuration.path): \(finding.damage)"
            throw finding.isReadError
                ? .failing("\(what); the disk cannot read it: look at the kernel's log and at the medium")
                : .corrupt("\(what); restart the daemon: it moves the file aside and salvages what is readable")
        }
        let connection = try Schema.open(configuration, for: .goingOn)
        let fresh = try BufferStore(configuration, connection: connection, shared: former.shared)
        do throws(BufferError) {
            try fresh.resume(former)
            return fresh
        } catch {
            fresh.abandon()
            throw error
        }
    }
}
