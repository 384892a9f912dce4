import Buffer
import SyncModel

/// What comes back to the uplink's loop.
enum UplinkEvent: Sendable {
    case state(UplinkState.Event)
    case cut(Cut?)
    /// The buffer is closed or not to be trusted: nothing can be sent any more.
    case bufferLost(BufferError)
    case cancelled
}

/// What the uplink's loop holds between events.
struct UplinkDriver {
    var state: UplinkState
    /// The batch that the state speaks of.
    var cut: Cut?
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
