import Dispatch
import NIOConcurrencyHelpers

#if canImport(Musl)
    import Musl
#else
    import Glibc
#endif

/// Ends a connection whose server says nothing for too long. libpq's calls wait without a bound: a server whose machine
/// hangs acknowledges what is sent, so TCP's own limits do not see it, and its statement timeout does not run.
final class AnswerWatch {
    private struct State {
        /// `nil` once the socket may be another's.
        var socket: Int32?
        /// Milliseconds; `nil`: it is waited for without a bound.
        var limit: Int?
        /// `nil` while nothing is asked.
        var deadline: DispatchTime?
        var hasCut = false
    }

    private let timer: any DispatchSourceTimer
    /// A lock, because the timer looks while libpq waits; held for moments, and while the socket is shut down.
    private let state: NIOLockedValueBox<State>

    /// - Parameter limit: milliseconds from a question to its answer; what is late by less than a quarter may be let through.
    init(socket: Int32, limit: Int?) {
        let state = NIOLockedValueBox(State(socket: socket))
        self.state = state
        timer = DispatchSource.makeTimerSource(queue: .global(qos: .utility))
        timer.setEventHandler {
            state.withLockedValue { state in
                guard let socket = state.socket, let deadline = state.deadline, deadline <= .now() else { return }
                state.deadline = nil
                state.hasCut = true
                // Whoever waits for this socket is woken, and finds the connection closed.
                _ = shutdown(socket, Int32(SHUT_RDWR))
            }
        }
        schedule(limit)
        timer.resume()
    }

    deinit { timer.cancel() }

    /// Milliseconds. While nothing is asked.
    var limit: Int? {
        get { state.withLockedValue { $0.limit } }
        set { if newValue != limit { schedule(newValue) } }
    }

    private func schedule(_ limit: Int?) {
        state.withLockedValue { $0.limit = limit }
        guard let limit else { return timer.schedule(deadline: .distantFuture) }
        let interval = DispatchTimeInterval.milliseconds(max(10, limit / 4))
        timer.schedule(deadline: .now() + interval, repeating: interval, leeway: .milliseconds(10))
    }

    var hasCut: Bool { state.withLockedValue { $0.hasCut } }

    func begin() {
        state.withLockedValue { state in state.deadline = state.limit.map { .now() + .milliseconds($0) } }
    }

    func end() { state.withLockedValue { $0.deadline = nil } }

    /// Before the socket is closed.
    func forget() { state.withLockedValue { $0.socket = nil } }
}
