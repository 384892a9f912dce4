import Dispatch
import Glibc
import Logging
import ServiceLifecycle
import Synchronization

/// Bounds how long a daemon takes to end, and measures it.
///
/// A process that has ended exports nothing, and one that is killed cannot say so: so while it ends, a thread of its own
/// keeps the time so far in a small file, each second. The next start exports what it finds there. Until then, and while
/// the process still answers scrapes, the same metric grows.
///
/// It is the last of the services, since services end from the last to the first.
package final class ShutdownWatch: Service {
    package struct Settings: Sendable {
        package var file: String
        /// From the signal to the end; what has not ended then is cut off.
        package var limit: Duration
        /// Ends the process at once.
        package var cutOff: @Sendable (Int32) -> Void = { _exit($0) }

        package init(file: String, limit: Duration) {
            self.file = file
            self.limit = limit
        }
    }

    /// What the last process left.
    package struct Record: Sendable, Equatable {
        package var seconds: Double
        /// It ended by itself, rather than being cut off or killed.
        package var isEnded: Bool

        package init(seconds: Double, isEnded: Bool) {
            self.seconds = seconds
            self.isEnded = isEnded
        }

        package init?(_ text: String) {
            let words = text.split(whereSeparator: \.isWhitespace)
            guard words.count == 2, let seconds = Double(words[0]), seconds >= 0,
                ["ended", "ending"].contains(words[1])
            else { return nil }
            self.init(seconds: seconds, isEnded: words[1] == "ended")
        }

        package var text: String { "\(seconds) \(isEnded ? "ended" : "ending")\n" }
    }

    private struct State {
        var started: Int64?
        var isFinished = false
        var hasWarned = false
    }

    private static let maximumFileBytes = 256
    /// `EX_TEMPFAIL` of sysexits(3).
    package static let cutOffStatus: Int32 = 75

    private let settings: Settings
    private let logger: Logger
    private let before: Record?
    private let state = Mutex(State())
    /// Not a thread of Swift's pool: what has to be cut off may hold all of those.
    private let queue = DispatchQueue(label: "sluice.shutdown")

    package init(_ settings: Settings, metrics: MetricRegistry, logger: Logger) {
        self.settings = settings
        self.logger = logger
        let text = try? AtomicFile.read(settings.file, maximumBytes: Self.maximumFileBytes)
        let before = text.flatMap { Record(String(decoding: $0, as: UTF8.self)) }
        self.before = before
        metrics.gauge(.shutdownTime) { [weak self] in self?.seconds ?? before?.seconds ?? 0 }
        if let before, !before.isEnded {
            logger.warning(
                "The process before this one was cut off or killed while it ended.",
                [.seconds: "\(before.seconds)", .path: "\(settings.file)"])
        }
    }

    /// Of the shutdown that runs; `nil` before it.
    private var seconds: Double? {
        state.withLock { $0.started }.map { Double(SystemClock.monotonicMicroseconds() - $0) / 1e6 }
    }

    package func run() async throws {
        await withGracefulShutdownHandler {
            // Ends when it is told to, which cancels the sleep.
            await cancelWhenGracefulShutdown {
                while !Task.isCancelled { try? await Task.sleep(for: .seconds(3_600)) }
            }
        } onGracefulShutdown: {
            self.begin()
        }
    }

    /// The time runs from here.
    func begin() {
        let isFirst = state.withLock { state in
            guard state.started == nil else { return false }
            state.started = SystemClock.monotonicMicroseconds()
            return true
        }
        if isFirst { queue.async { self.tick() } }
    }

    /// Microseconds: a second, less where the limit is short.
    private static func interval(_ limit: Duration) -> Int64 { max(10_000, min(1_000_000, limit.microseconds / 10)) }

    /// All has ended in order.
    package func finish() {
        state.withLock { $0.isFinished = true }
        // After the tick that runs, whose word is older.
        let seconds = queue.sync { () -> Double in
            let seconds = self.seconds ?? 0
            keep(Record(seconds: seconds, isEnded: true))
            return seconds
        }
        logger.notice("The daemon has ended in order.", [.seconds: "\(seconds)"])
    }

    private func tick() {
        guard let seconds, !state.withLock({ $0.isFinished }) else { return }
        keep(Record(seconds: seconds, isEnded: false))
        guard Int64(seconds * 1e6) >= settings.limit.microseconds else {
            queue.asyncAfter(deadline: .now() + .microseconds(Int(Self.interval(settings.limit)))) { self.tick() }
            return
        }
        logger.critical(
            """
            The daemon is cut off: it has not ended in time. What was not stored is in the event log, and what was not \
            acknowledged is sent again
            """, [.seconds: "\(seconds)"])
        LogSink.standardError.flush()
        settings.cutOff(Self.cutOffStatus)
    }

    private func keep(_ record: Record) {
        do {
            try AtomicFile.write(Array(record.text.utf8), to: settings.file, mode: 0o640, replacing: true)
        } catch {
            let isFirst = state.withLock { state in
                defer { state.hasWarned = true }
                return !state.hasWarned
            }
            if isFirst {
                logger.warning("How long the shutdown takes cannot be kept.", [.error: "\(error)"])
            }
        }
    }
}
