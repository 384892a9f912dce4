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
        forecast.observe(waiting.backlog.bytes, at: now)
    }

    /// What the forecast says of a backlog; before its lane is there, while the cloud is out of reach, none can be told.
    mutating func refreshStatus() {
        let now = now
        (status.bytesThisHour, status.bytesLastHour) = state.hours(at: now)
        status.breaker = state.breaker.state
        let isBehind = status.waiting.backlog.bytes > 0
        status.drainSeconds = isBehind || status.failures == 0 ? forecast.seconds(at: now) : nil
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
