/// Decides when a group of messages is handed to the writer: as soon as the writer is free, with whatever arrived while
/// the last commit ran, and not before `spacing` has passed since the last hand-over. A failed commit is tried again,
/// whole, after a pause.
///
/// The spacing trades the time to an acknowledgement for writes to the flash. A message that comes alone does not wait,
/// nor does a group that is large enough to be worth its writes.
///
/// States and transitions:
/// - `idle` → `scheduled` when something is pending, → `committing` when the cycle's input is read
/// - `idle` → `spacing` when something is pending too soon, → `scheduled` or `committing` when the time has come
/// - `committing` → `idle`, `spacing` or `committing` on success, → `pausing` on a failure that may pass, → `stopped` on
///   one that may not
/// - `pausing` → `committing` when the pause is over
package struct CommitPipeline: Sendable, Equatable {
    package enum State: Sendable, Equatable {
        case idle
        /// Microseconds on the monotonic clock, as all times here.
        case spacing(until: Int64)
        case scheduled
        case committing
        case pausing(until: Int64)
        case stopped
    }

    package enum Action: Sendable, Equatable {
        case none
        /// Hand the open group over at the end of this event-loop cycle.
        case scheduleHandOver
        /// Take the open group and give it to the writer now.
        case handOver
        /// Give the same group to the writer again.
        case retry
        /// Come with `timer` at that time.
        case wake(at: Int64)
        /// The file is not trusted any more: nothing is acknowledged again, the daemon must end.
        case stop
    }

    package private(set) var state: State = .idle
    private let spacing: Int64
    private var lastHandOver = Int64.min / 2

    /// The pause between attempts: the disk may be full for hours, the answer must be quick when it is not.
    package static let pauseBetweenAttempts: Int64 = 200_000

    /// - Parameter spacing: microseconds from one hand-over to the next.
    package init(spacing: Int64 = 0) { self.spacing = spacing }

    package var isIdle: Bool { state == .idle }

    /// Whether the driver has to tell what waits in the open group.
    package var takesPending: Bool {
        switch state {
        case .idle, .spacing: true
        default: false
        }
    }

    /// Something is in the open group.
    package mutating func pending(isLarge: Bool, now: Int64) -> Action {
        guard takesPending else { return .none }
        if isLarge || now >= lastHandOver + spacing {
            state = .scheduled
            return .scheduleHandOver
        }
        return state == .idle ? space() : .none
    }

    /// The event-loop cycle in which `scheduleHandOver` was asked for has read its input.
    package mutating func cycleEnded(now: Int64) -> Action {
        guard state == .scheduled else { return .none }
        return handOver(now)
    }

    package mutating func committed(hasMore: Bool, isLarge: Bool, now: Int64) -> Action {
        guard state == .committing else { return .none }
        guard hasMore else {
            state = .idle
            return .none
        }
        return isLarge || now >= lastHandOver + spacing ? handOver(now) : space()
    }

    package mutating func failed(mayPass: Bool, now: Int64) -> Action {
        guard state == .committing else { return .none }
        guard mayPass else {
            state = .stopped
            return .stop
        }
        let until = now + Self.pauseBetweenAttempts
        state = .pausing(until: until)
        return .wake(at: until)
    }

    package mutating func timer(now: Int64) -> Action {
        switch state {
        case .pausing(let until) where now >= until:
            state = .committing
            return .retry
        case .spacing(let until) where now >= until:
            return handOver(now)
        default:
            return .none
        }
    }

    private mutating func handOver(_ now: Int64) -> Action {
        state = .committing
        lastHandOver = now
        return .handOver
    }

    private mutating func space() -> Action {
        state = .spacing(until: lastHandOver + spacing)
        return .wake(at: lastHandOver + spacing)
    }
}
