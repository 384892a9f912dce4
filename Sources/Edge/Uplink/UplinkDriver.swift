import Buffer
import Flow
import SyncModel

/// What comes back to the uplink's loop.
enum UplinkEvent: Sendable {
    case state(UplinkState.Event)
    case cut(Cut?)
    case data(WaitingData, UplinkDataCause)
    /// The cloud's answer to what was sent of the cut.
    case answer(UplinkState.Event, isAccepted: Bool)
    /// The message is a dead letter.
    case buried
    /// The buffer is closed or not to be trusted: nothing can be sent any more.
    case bufferLost(BufferError)
    case cancelled
}

/// Why the uplink looks at what waits.
enum UplinkDataCause: Sendable {
    case committed, acknowledged, liveStarted

    func event(_ waiting: UplinkState.Waiting) -> UplinkState.Event {
        switch self {
        case .committed: .dataAvailable(waiting)
        case .acknowledged: .acknowledged(waiting)
        case .liveStarted: .liveStarted(waiting)
        }
    }
}

extension UplinkState.Waiting {
    init(_ waiting: WaitingData) { self.init(live: waiting.live.bytes, backlog: waiting.backlog.bytes) }
}

/// What the uplink's loop holds between events.
struct UplinkDriver {
    var state: UplinkState
    /// The batch that the state speaks of.
    var cut: Cut?
    var status = UplinkStatus()
    private var forecast = DrainForecast()
    /// Bytes as sent for each byte of frames, as of the last batch that was taken.
    private var compression = 1.0
    let source: AsyncStream<UplinkEvent>.Continuation
    let client: SyncClient
    private var timer: Task<Void, Never>?
    private let start = ContinuousClock.now

    init(state: UplinkState, source: AsyncStream<UplinkEvent>.Continuation, client: SyncClient) {
        self.state = state
        self.source = source
        self.client = client
    }

    /// Microseconds on the monotonic clock, which goes on while the machine sleeps.
    var now: Int64 {
        let (seconds, attoseconds) = (ContinuousClock.now - start).components
        return seconds * 1_000_000 + attoseconds / 1_000_000_000_000
    }

    /// What waits, as the buffer said last.
    mutating func observe(_ waiting: WaitingData) {
        status.waiting = waiting
        forecast.observe(waiting.live.bytes + waiting.backlog.bytes, at: now)
    }

    mutating func answered(_ answer: UplinkState.Event, isAccepted: Bool) {
        guard isAccepted else {
            status.failures += 1
            status.failingSince = status.failingSince ?? .now
            return
        }
        (status.failures, status.failingSince) = (0, nil)
        status.lastSuccess = UplinkClock.secondsSince1970
        // Below, it measures the batch's own header; later attempts may have been a part of it.
        if case .answer(let said) = answer, let cut, cut.byteCount >= 1_024, state.attempt(in: cut.lane) == 1 {
            compression = min(1, Double(said.sentBytes) / Double(cut.byteCount))
        }
    }

    mutating func refreshStatus() {
        let now = now
        (status.bytesThisHour, status.bytesLastHour) = state.hours(at: now)
        status.breaker = state.breaker.state
        let (live, backlog) = (status.waiting.live.bytes, status.waiting.backlog.bytes)
        status.isHeldBack =
            (live > 0 && state.isHourSpent(.live, at: now)) || (backlog > 0 && state.isHourSpent(.backlog, at: now))
        status.drainSeconds = drainSeconds(live: live, backlog: backlog, at: now)
    }

    /// The forecast knows what was sent, not what may be sent: beyond the hour's bytes none can be told. Nor before the lane of
    /// a backlog is there, while the cloud is out of reach.
    private mutating func drainSeconds(live: Int, backlog: Int, at now: Int64) -> Double? {
        guard !status.isHeldBack, backlog > 0 || status.failures == 0 else { return nil }
        if let budget = status.bytesPerHour,
            Double(live + backlog) * compression > Double(budget - status.bytesThisHour)
        {
            return nil
        }
        if backlog == 0, live <= state.nextBatchBytes { return 0 }
        return forecast.seconds(at: now)
    }

    mutating func wake(at time: Int64) {
        timer?.cancel()
        let deadline = start.advanced(by: .microseconds(time))
        timer = Task { [source] in
            do {
                try await Task.sleep(until: deadline, clock: .continuous)
                source.yield(.state(.timer))
            } catch {
                // Cancelled: a later time replaced this one.
            }
        }
    }

    mutating func cancelTimer() {
        timer?.cancel()
        timer = nil
    }
}
