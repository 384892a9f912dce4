import NIOConcurrencyHelpers

#if canImport(Musl)
    import Musl
#else
    import Glibc
#endif

/// Ends a connection from whichever thread, while libpq waits in another for as long as the server is silent.
final class SocketCut: Sendable {
    private struct State {
        /// `nil` while there is none, and once it may be another's.
        var socket: Int32?
        var hasCut = false
    }

    /// A lock, because whoever cuts does not wait for the connection's queue; held for moments, and while the socket is shut
    /// down.
    private let state = NIOLockedValueBox(State())

    /// - Returns: whether it was cut before.
    func opened(_ socket: Int32) -> Bool {
        state.withLockedValue { state in
            if !state.hasCut { state.socket = socket }
            return state.hasCut
        }
    }

    var hasCut: Bool { state.withLockedValue { $0.hasCut } }

    func cut() {
        state.withLockedValue { state in
            state.hasCut = true
            // Whoever waits for this socket is woken, and finds the connection closed.
            if let socket = state.socket { _ = shutdown(socket, Int32(SHUT_RDWR)) }
        }
    }

    /// Before the socket is closed.
    func forget() { state.withLockedValue { $0.socket = nil } }
}
