import Flow

/// What the uplink does next. One batch is under way at a time, so that the order per device in the log is the buffer's,
/// lane by lane.
///
/// It keeps no batch: after each wait it asks the buffer for the oldest unanswered cut of a lane, which is the same one
/// until it was acknowledged. Live data goes first; a backlog beside it gets its share of the time, or of the bandwidth
/// where that has a cap, so that neither waits for ever. Times are microseconds on a monotonic clock.
package struct UplinkState: Sendable {
    package enum State: Sendable, Equatable {
        /// Nothing to do before that time, or before something comes. Can transition to cutting, idle, stopped.
        case idle(until: Int64?)
        /// The buffer draws the line between backlog and live. Can transition to cutting, idle, stopped.
        case starting
        /// The buffer makes or finds the lane's oldest cut. Can transition to sending, burying, acknowledging, cutting,
        /// idle, stopped.
        case cutting(Lane)
        /// Can transition to acknowledging, cutting, idle, stopped.
        case sending(Lane, attempt: Int)
        /// A message of a split batch becomes a dead letter. Can transition to cutting, idle, stopped.
        case burying(Lane)
        /// Can transition to starting, cutting, idle, stopped.
        case acknowledging(Lane)
        case stopped
    }

    package private(set) var state: State = .idle(until: nil)
    /// Attempts of each lane since its last batch that was accepted.
    private var attempts: [Lane: Int] = [:]
    private let settings: Settings
    private var backoffs: [Lane: Backoff]
    package private(set) var breaker: CircuitBreaker
    private var permit: CircuitBreaker.Permit?
    private var schedule: UplinkSchedule
    private var splits: [Lane: BatchSplit] = [:]
    private var burials = RateWindow(seconds: 3_600)
    private var waiting = Waiting()
    /// Since when live data waits to be cut.
    private var liveSince: Int64?
    /// Data was committed after the buffer was last asked for a live cut.
    private var hasNews = false
    /// The cloud could not be reached since the last batch that it took, or since the start.
    private var isReturning = true
    /// When the batch under way was asked for, and when it was sent.
    private var cutAt: Int64 = 0
    private var sentAt: Int64 = 0
    private var cut: CutSize?
    /// When the graceful shutdown ends.
    private var deadline: Int64?

    package init(
        settings: Settings = Settings(), backoff: Backoff = Backoff(),
        breaker: CircuitBreaker.Settings = CircuitBreaker.Settings(), now: Int64 = 0
    ) {
        self.settings = settings
        backoffs = [.live: backoff, .backlog: backoff]
        var breaker = breaker
        breaker.probeTimeout = max(breaker.probeTimeout, settings.requestTimeout)
        self.breaker = CircuitBreaker(breaker)
        schedule = UplinkSchedule(settings, at: now)
    }

    package func attempt(in lane: Lane) -> Int { attempts[lane] ?? 0 }

    /// Compressed bytes that were sent in this hour and in the one before.
    package mutating func hours(at now: Int64) -> (current: Int, previous: Int) { schedule.hours(at: now) }

    /// What the lane has waits for the next hour.
    package mutating func isHourSpent(_ lane: Lane, at now: Int64) -> Bool { schedule.isHourSpent(lane, at: now) }

    /// Of frames that the next batch takes at most.
    package var nextBatchBytes: Int { schedule.maximumBytes }

    /// A batch of an earlier run may be unanswered.
    package mutating func start(now: Int64 = 0) -> [Action] { cut(.live, now: now) }

    package mutating func handle(
        _ event: Event, now: Int64, using generator: inout some RandomNumberGenerator
    ) -> [Action] {
        switch event {
        case .dataAvailable(let waiting): dataAvailable(waiting, now: now)
        case .liveStarted(let waiting): liveStarted(waiting, now: now)
        case .cut(let size): cutAnswered(size, now: now, using: &generator)
        case .answer(let answer): answered(answer, nil, now: now, using: &generator)
        case .refused(let answer, let refusal): answered(answer, refusal, now: now, using: &generator)
        case .failure(let bytes, let pieces, let isTooSlow):
            failed(bytes, pieces, isTooSlow: isTooSlow, now: now, using: &generator)
        case .bufferFailed: bufferFailed(now: now, using: &generator)
        case .acknowledged(let waiting): acknowledged(waiting, now: now)
        case .buried: buried(now: now)
        case .gone: gone(now: now)
        case .timer: timer(now: now)
        case .shutdown: shutdown(now: now)
        }
    }

    // MARK: Data

    private mutating func dataAvailable(_ waiting: Waiting, now: Int64) -> [Action] {
        guard state != .stopped else { return [] }
        self.waiting = waiting
        guard case .idle = state else {
            hasNews = true
            return []
        }
        let before = state
        liveSince = liveSince ?? now
        let actions = next(now: now)
        // The timer is set already.
        return state == before ? [] : actions
    }

    private mutating func liveStarted(_ waiting: Waiting, now: Int64) -> [Action] {
        guard case .starting = state else { return [] }
        self.waiting = waiting
        // A live cut from before may wait for its answer.
        liveSince = now - settings.linger
        return next(now: now)
    }

    private mutating func cutAnswered(
        _ size: CutSize?, now: Int64, using generator: inout some RandomNumberGenerator
    ) -> [Action] {
        guard case .cutting(let lane) = state else { return [] }
        cut = size
        guard let size else {
            splits[lane] = nil
            guard deadline == nil else { return stop() }
            if lane == .backlog { waiting.backlog = 0 } else { waiting.live = 0 }
            return next(now: now)
        }
        if let split = splits[lane], split.cut != size.id { splits[lane] = nil }
        guard let split = splits[lane] else { return send(.whole, lane, now: now, using: &generator) }
        switch split.next(mayBury: burials.total(at: now) < settings.burialsPerHour) {
        case .probe: return send(.probe, lane, now: now, using: &generator)
        case .send(let pieces): return send(.pieces(pieces), lane, now: now, using: &generator)
        case .bury(let suspect):
            state = .burying(lane)
            return [.bury(suspect)]
        case .done:
            state = .acknowledging(lane)
            return [.acknowledge]
        case .giveUp(let status):
            splits[lane] = nil
            return [.alarm(status: status)] + wait(lane, settings.refusedDelay, now: now, using: &generator)
        }
    }

    // MARK: Sending

    private mutating func send(
        _ content: Content, _ lane: Lane, now: Int64, using generator: inout some RandomNumberGenerator
    ) -> [Action] {
        var actions: [Action] = []
        if let deadline {
            permit = nil
            attempts[lane, default: 0] += 1
            state = .sending(lane, attempt: attempt(in: lane))
            return [.send(content, timeout: min(max(deadline - now, 0), settings.requestTimeout))]
        }
        let (decision, transition) = breaker.acquire(at: now)
        if let transition { actions.append(.breaker(transition.to)) }
        switch decision {
        case .refused(let retryAfter):
            schedule.hold(until: now + max(retryAfter ?? settings.requestTimeout, 1))
            if lane == .live { liveSince = liveSince ?? now - settings.linger }
            return actions + next(now: now)
        case .permitted(let permit):
            self.permit = permit
            attempts[lane, default: 0] += 1
            sentAt = now
            state = .sending(lane, attempt: attempt(in: lane))
            return actions + [.send(content, timeout: settings.requestTimeout)]
        }
    }

    private mutating func answered(
        _ answer: Answer, _ refusal: Refusal?, now: Int64, using generator: inout some RandomNumberGenerator
    ) -> [Action] {
        guard case .sending(let lane, _) = state else { return [] }
        schedule.charge(lane, bytes: answer.sentBytes, time: now - cutAt, at: now)
        switch Self.verdict(on: answer.status) {
        case .accepted:
            let actions = complete(.success, now: now)
            if splits[lane] != nil {
                splits[lane]?.accepted(wasQuick: now - sentAt < UplinkSchedule.quickPart)
                return actions + next(now: now)
            }
            if let cut { schedule.sent(bytes: cut.bytes, time: now - sentAt) }
            state = .acknowledging(lane)
            return actions + [.acknowledge]
        case .tryAgain:
            // Too much at once is no outage, and concerns its lane alone.
            let isBusy = answer.status == 429
            let actions = complete(isBusy ? .cancelled : .failure, now: now)
            if !isBusy || lane == .live { isReturning = true }
            return actions
                + wait(isBusy ? lane : nil, from: lane, answer.retryAfter ?? 0, now: now, using: &generator)
        case .malformed:
            let actions = complete(.success, now: now)
            if splits[lane] != nil {
                splits[lane]?.refused(status: answer.status, reason: refusal?.reason ?? "")
                return actions + next(now: now)
            }
            if let refusal, !refusal.pieces.isEmpty, let cut {
                splits[lane] = BatchSplit(cut: cut.id, pieces: refusal.pieces, status: answer.status)
                return actions + next(now: now)
            }
            return actions + refused(answer, lane, now: now, using: &generator)
        case .refused:
            return complete(.success, now: now) + refused(answer, lane, now: now, using: &generator)
        }
    }

    private mutating func refused(
        _ answer: Answer, _ lane: Lane, now: Int64, using generator: inout some RandomNumberGenerator
    ) -> [Action] {
        [.alarm(status: answer.status)]
            + wait(lane, max(settings.refusedDelay, answer.retryAfter ?? 0), now: now, using: &generator)
    }

    private mutating func failed(
        _ bytes: Int, _ pieces: [BatchSplit.Piece], isTooSlow: Bool, now: Int64,
        using generator: inout some RandomNumberGenerator
    ) -> [Action] {
        guard case .sending(let lane, _) = state else { return [] }
        schedule.charge(lane, bytes: bytes, time: now - cutAt, at: now)
        if isTooSlow || now - sentAt >= settings.slowAttempt { tookTooLong(lane, pieces, now: now) }
        isReturning = true
        // A cloud that says so is there.
        let actions = complete(isTooSlow ? .cancelled : .failure, now: now)
        return actions + wait(nil, from: lane, 0, now: now, using: &generator)
    }

    /// A cut keeps its size until it is answered: where the link does not take it at once, it goes in parts, each of which the
    /// cloud keeps. A batch that is begun anew from its first byte each time would never arrive.
    private mutating func tookTooLong(_ lane: Lane, _ pieces: [BatchSplit.Piece], now: Int64) {
        guard splits[lane] == nil else {
            splits[lane]?.tookTooLong()
            return
        }
        guard let cut, pieces.messages > 1 else { return }
        schedule.tookTooLong(bytes: cut.bytes, time: now - sentAt)
        let perByte = Double(pieces.messages) / Double(max(cut.bytes, 1))
        splits[lane] = BatchSplit(
            cut: cut.id, pieces: pieces,
            maximumMessages: Int(perByte * Double(min(schedule.maximumBytes, cut.bytes / 2))),
            fewest: Int(perByte * Double(UplinkSchedule.smallestPart)))
    }

    private mutating func complete(_ outcome: CircuitBreaker.Outcome, now: Int64) -> [Action] {
        guard let permit else { return [] }
        self.permit = nil
        return breaker.complete(permit, outcome, at: now).map { [.breaker($0.to)] } ?? []
    }

    // MARK: The buffer

    private mutating func bufferFailed(now: Int64, using generator: inout some RandomNumberGenerator) -> [Action] {
        switch state {
        case .cutting(let lane), .sending(let lane, _), .acknowledging(let lane), .burying(let lane):
            let actions = complete(.cancelled, now: now)
            if lane == .live { liveSince = liveSince ?? now }
            return actions + wait(lane, 0, now: now, using: &generator)
        case .starting:
            // The next answer finds the lanes as they are now.
            isReturning = true
            return next(now: now)
        case .idle, .stopped: return []
        }
    }

    private mutating func acknowledged(_ waiting: Waiting, now: Int64) -> [Action] {
        guard case .acknowledging(let lane) = state else { return [] }
        self.waiting = waiting
        attempts[lane] = 0
        splits[lane] = nil
        backoffs[lane]?.succeeded()
        guard deadline == nil else { return stop() }
        if waiting.live > 0 || hasNews { liveSince = liveSince ?? now }
        let hadReturned = isReturning
        isReturning = false
        if hadReturned, schedule.isBacklog(waiting.live) {
            state = .starting
            return [.startLive]
        }
        return next(now: now)
    }

    private mutating func buried(now: Int64) -> [Action] {
        guard case .burying(let lane) = state else { return [] }
        burials.add(at: now)
        splits[lane]?.buried()
        return next(now: now)
    }

    private mutating func gone(now: Int64) -> [Action] {
        switch state {
        case .sending(let lane, _):
            let actions = complete(.cancelled, now: now)
            splits[lane]?.partIsGone()
            return actions + next(now: now)
        case .burying(let lane):
            splits[lane]?.suspectIsGone()
            return next(now: now)
        default: return []
        }
    }

    // MARK: What next

    private mutating func timer(now: Int64) -> [Action] {
        if let deadline, now >= deadline, state != .stopped { return stop() }
        guard case .idle(let until) = state, let until else { return [] }
        return now >= until ? next(now: now) : [.wake(at: until)]
    }

    private mutating func shutdown(now: Int64) -> [Action] {
        guard deadline == nil, state != .stopped else { return [] }
        let deadline = now + settings.shutdownTimeout
        self.deadline = deadline
        switch state {
        case .idle: return cut(.live, now: now) + [.wake(at: deadline)]
        case .starting, .cutting, .sending, .acknowledging, .burying: return [.wake(at: deadline)]
        case .stopped: return []
        }
    }

    private mutating func cut(_ lane: Lane, now: Int64) -> [Action] {
        if lane == .live {
            hasNews = false
            liveSince = nil
        }
        cutAt = now
        state = .cutting(lane)
        return [.cut(lane, maximumBytes: schedule.maximumBytes)]
    }

    /// The lane whose turn it is, or the time at which one may have it.
    private mutating func next(now: Int64) -> [Action] {
        guard deadline == nil else { return stop() }
        // It came while another lane's batch was under way, which may have failed since.
        if hasNews { liveSince = liveSince ?? now }
        var due: [Lane: Int64] = [:]
        if splits[.live] != nil {
            due[.live] = now
        } else if let liveSince {
            due[.live] = waiting.live >= settings.fullBatch ? now : liveSince + settings.linger
        }
        if waiting.backlog > 0 || splits[.backlog] != nil { due[.backlog] = now }
        switch schedule.turn(due: due, at: now) {
        case .lane(let lane): return cut(lane, now: now)
        case .at(let time):
            state = .idle(until: time)
            return [.wake(at: time)]
        case .none:
            state = .idle(until: nil)
            return []
        }
    }

    /// - Parameters:
    ///   - held: the lane that waits; `nil`: both.
    ///   - lane: whose backoff it is.
    ///   - atLeast: microseconds.
    private mutating func wait(
        _ held: Lane?, from lane: Lane? = nil, _ atLeast: Int64, now: Int64,
        using generator: inout some RandomNumberGenerator
    ) -> [Action] {
        guard deadline == nil else { return stop() }
        let lane = held ?? lane ?? .live
        let drawn = backoffs[lane]?.next(using: &generator) ?? 0
        schedule.hold(held, until: now + max(atLeast, drawn))
        if lane == .live { liveSince = liveSince ?? now - settings.linger }
        return next(now: now)
    }

    private mutating func stop() -> [Action] {
        state = .stopped
        return [.stop]
    }
}
