/// Whether what waits for a slow reader still gets less. A reader that takes anything at all within the time may be as slow
/// as its link; one that takes nothing is not there.
///
/// Times are microseconds of any monotonic clock.
package struct DrainWatch: Sendable, Equatable {
    private var least: Int
    private var since: Int64

    /// The socket took no more at this moment.
    package init(pending: Int, at now: Int64) {
        least = pending
        since = now
    }

    /// - Parameter pending: bytes that wait now.
    /// - Returns: whether nothing has left for `timeout`.
    package mutating func isStuck(pending: Int, at now: Int64, timeout: Int64) -> Bool {
        if pending < least {
            least = pending
            since = now
        }
        return now - since >= timeout
    }
}
