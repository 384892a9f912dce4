import Logging
import NIOConcurrencyHelpers
import Operations

/// What the buffer's thread does: jobs, maintenance between them, and opening the file anew after the disk has failed.
struct Writer {
    private var store: BufferStore
    private let logger: Logger
    private var isFailureLogged = false
    /// Microseconds on the monotonic clock.
    private var nextOpening: Int64 = 0
    private var openingDelay = Self.openingDelays.lowerBound

    /// Microseconds.
    private static let openingDelays: ClosedRange<Int64> = 1_000_000...30_000_000

    init(store: BufferStore, logger: Logger) {
        self.store = store
        self.logger = logger
    }

    /// Until the queue is closed.
    mutating func serve(_ queue: WriterQueue) {
        let activity = store.shared.activity
        while true {
            activity.waits()
            let turn = queue.next(idleAfter: store.failure == nil ? store.idleTime : 1)
            activity.begins()
            switch turn {
            case .jobs(let commit, let other):
                commit?(store)
                other?(store)
                store.maintain()
            case .idle:
                store.maintainIdle()
            case .closed:
                store.close()
                return
            }
            if let failure = store.failure { failed(failure) }
        }
    }

    private mutating func failed(_ failure: BufferError) {
        let now = Clock.monotonic()
        if !isFailureLogged {
            isFailureLogged = true
            nextOpening = now + openingDelay
            store.shared.fill.withLockedValue { $0.failure = "\(failure)" }
            logger.critical("The buffer's disk fails.", metadata: [LogKey.error.rawValue: "\(failure)"])
        }
        guard case .failing = failure, now >= nextOpening else { return }
        openingDelay = min(2 * openingDelay, Self.openingDelays.upperBound)
        nextOpening = now + openingDelay
        openAnew()
    }

    private mutating func openAnew() {
        store.abandon()
        do throws(BufferError) {
            let connection = try Schema.open(store.configuration, existingOnly: true)
            let fresh = try BufferStore(store.configuration, connection: connection, shared: store.shared)
            do throws(BufferError) {
                try fresh.resume(store)
            } catch {
                fresh.abandon()
                throw error
            }
            store = fresh
            isFailureLogged = false
            openingDelay = Self.openingDelays.lowerBound
            store.shared.fill.withLockedValue { $0.failure = nil }
            logger.notice("The buffer's disk is well again.")
        } catch {
            if case .corrupt = error { store.distrust(error) }
            logger.error("The buffer cannot be opened yet.", metadata: [LogKey.error.rawValue: "\(error)"])
        }
    }
}
