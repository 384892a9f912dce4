import Flow

/// What the uplink does next. One batch is under way at a time, so that the order per device in the log is the buffer's.
///
/// It keeps no batch: after each wait it asks the buffer for the oldest unanswered cut, which is the same one until it
/// was acknowledged. Times are microseconds on a monotonic clock.
package struct UplinkState: Sendable {
    package enum Event: Sendable, Equatable {
        /// New data was committed; what waits in all.
        case dataAvailable(bytes: Int)
        /// The buffer's answer to `cut`: a batch is ready to be sent, or there is nothing to send.
        case cut(Bool)
        case answer(status: Int, retryAfter: Int64?)
        /// No answer came: the connection failed or ended, the time was up, the server was not who it must be.
        case failure
        /// The buffer could not cut, read or delete.
        case bufferFailed
        /// The buffer has deleted the batch; what waits still.
        case acknowledged(bytes: Int)
        case timer
        /// Graceful: one last attempt, then the end.
        case shutdown
    }

    package enum Action: Sendable, Equatable {
        case cut
        /// The request must end within the time, microseconds.
        case send(timeout: Int64)
        case acknowledge
        /// Give `timer` at that time; a later one replaces it.
        case wake(at: Int64)
        /// The cloud refuses the batch, and sending it again will not help by itself: someone must look.
        case alarm(status: Int)
        /// Cancel what is under way, and end.
        case stop
    }

    package enum State: Sendable, Equatable {
        /// Nothing to send. Can transition to lingering, cutting.
        case idle
        /// A small batch waits for more. Can transition to cutting.
        case lingering(until: Int64)
        /// The buffer makes or finds the oldest cut. Can transition to sending, idle, lingering, waiting, stopped.
        case cutting
        /// Can transition to acknowledging, waiting, stopped.
        case sending(attempt: Int)
        /// Until the next attempt. Can transition to cutting.
        case waiting(until: Int64)
        /// Can transition to idle, lingering, cutting, waiting, stopped.
        case acknowledging
        case stopped
    }

    package struct Settings: Sendable, Equatable {
        /// Microseconds that a small batch waits for more messages.
        package var linger: Int64 = 1_000_000
        /// Bytes from which a batch is cut at once.
        package var fullBatch: Int = 1024 * 1024
        /// Microseconds for one request.
        package var requestTimeout: Int64 = 60_000_000
        /// Microseconds until a refused batch is sent again.
        package var refusedDelay: Int64 = 120_000_000
        /// Microseconds for the last attempt.
        package var shutdownTimeout: Int64 = 3_000_000

        package init() {}
    }

    package enum Verdict: Sendable, Equatable {
        case accepted
        /// The server cannot now.
        case tryAgain
        /// The server will not.
        case refused
    }

    package private(set) var state: State = .idle
    /// Attempts since the last batch that was accepted.
    package private(set) var attempts = 0
    private let settings: Settings
    private var backoff: Backoff
    /// Data was committed after the buffer was last asked for a cut.
    private var hasNews = false
    /// When the graceful shutdown ends.
    private var deadline: Int64?

    package init(settings: Settings = Settings(), backoff: Backoff = Backoff()) {
        self.settings = settings
        self.backoff = backoff
    }

    /// Only 200 means that the log has the messages.
    package static func verdict(on status: Int) -> Verdict {
        switch status {
        case 200: .accepted
        case 408, 429, 500...599: .tryAgain
        default: .refused
        }
    }

    /// A batch of an earlier run may be unanswered.
    package mutating func start() -> [Action] { cut() }

    package mutating func handle(
        _ event: Event, now: Int64, using generator: inout some RandomNumberGenerator
    ) -> [Action] {
        switch event {
        case .dataAvailable(let bytes): dataAvailable(bytes: bytes, now: now)
        case .cut(let isThere): cutAnswered(isThere, now: now)
        case .answer(let status, let retryAfter): answered(status, retryAfter, now: now, using: &generator)
        case .failure: if case .sending = state { wait(0, now: now, using: &generator) } else { [] }
        case .bufferFailed: bufferFailed(now: now, using: &generator)
        case .acknowledged(let bytes): acknowledged(bytes: bytes, now: now)
        case .timer: timer(now: now)
        case .shutdown: shutdown(now: now)
        }
    }

    private mutating func dataAvailable(bytes: Int, now: Int64) -> [Action] {
        switch state {
        case .idle:
            return lingerOrCut(bytes: bytes, now: now)
        case .lingering:
            return bytes >= settings.fullBatch ? cut() : []
        case .cutting, .sending, .waiting, .acknowledging:
            hasNews = true
            return []
        case .stopped:
            return []
        }
    }

    private mutating func cutAnswered(_ isThere: Bool, now: Int64) -> [Action] {
        guard case .cutting = state else { return [] }
        if isThere {
            attempts += 1
            state = .sending(attempt: attempts)
            let timeout = deadline.map { max($0 - now, 0) } ?? settings.requestTimeout
            return [.send(timeout: min(timeout, settings.requestTimeout))]
        }
        guard deadline == nil else { return stop() }
        guard hasNews else {
            state = .idle
            return []
        }
        return lingerOrCut(bytes: 0, now: now)
    }

    private mutating func answered(
        _ status: Int, _ retryAfter: Int64?, now: Int64, using generator: inout some RandomNumberGenerator
    ) -> [Action] {
        guard case .sending = state else { return [] }
        switch Self.verdict(on: status) {
        case .accepted:
            state = .acknowledging
            return [.acknowledge]
        case .tryAgain:
            return wait(retryAfter ?? 0, now: now, using: &generator)
        case .refused:
            return [.alarm(status: status)]
                + wait(max(settings.refusedDelay, retryAfter ?? 0), now: now, using: &generator)
        }
    }

    private mutating func bufferFailed(now: Int64, using generator: inout some RandomNumberGenerator) -> [Action] {
        switch state {
        case .cutting, .sending, .acknowledging: wait(0, now: now, using: &generator)
        case .idle, .lingering, .waiting, .stopped: []
        }
    }

    private mutating func acknowledged(bytes: Int, now: Int64) -> [Action] {
        guard case .acknowledging = state else { return [] }
        attempts = 0
        backoff.succeeded()
        guard deadline == nil else { return stop() }
        guard bytes > 0 || hasNews else {
            state = .idle
            return []
        }
        return lingerOrCut(bytes: bytes, now: now)
    }

    private mutating func timer(now: Int64) -> [Action] {
        if let deadline, now >= deadline, state != .stopped { return stop() }
        switch state {
        case .lingering(let until), .waiting(let until):
            return now >= until ? cut() : [.wake(at: until)]
        case .idle, .cutting, .sending, .acknowledging, .stopped:
            return []
        }
    }

    private mutating func shutdown(now: Int64) -> [Action] {
        guard deadline == nil, state != .stopped else { return [] }
        let deadline = now + settings.shutdownTimeout
        self.deadline = deadline
        switch state {
        case .idle, .lingering, .waiting: return cut() + [.wake(at: deadline)]
        case .cutting, .sending, .acknowledging: return [.wake(at: deadline)]
        case .stopped: return []
        }
    }

    private mutating func cut() -> [Action] {
        hasNews = false
        state = .cutting
        return [.cut]
    }

    private mutating func lingerOrCut(bytes: Int, now: Int64) -> [Action] {
        guard bytes < settings.fullBatch, settings.linger > 0 else { return cut() }
        state = .lingering(until: now + settings.linger)
        return [.wake(at: now + settings.linger)]
    }

    /// - Parameter atLeast: microseconds.
    private mutating func wait(
        _ atLeast: Int64, now: Int64, using generator: inout some RandomNumberGenerator
    ) -> [Action] {
        guard deadline == nil else { return stop() }
        let until = now + max(atLeast, backoff.next(using: &generator))
        state = .waiting(until: until)
        return [.wake(at: until)]
    }

    private mutating func stop() -> [Action] {
        state = .stopped
        return [.stop]
    }
}
