/// Decides when a group of messages is handed to the writer: as soon as the writer is free, with whatever arrived while
/// the last commit ran. No timer, no artificial wait; a failed commit is tried again, whole, after a pause.
///
/// States and transitions:
/// - `idle` → `scheduled` when something is pending, → `committing` when the cycle's input is read
/// - `committing` → `idle` or `scheduled` on success, → `pausing` on a failure that may pass, → `stopped` on one that may not
/// - `pausing` → `committing` when the pause is over
package struct CommitPipeline: Sendable, Equatable {
    package enum State: Sendable, Equatable {
        case idle
        case scheduled
        case committing
        /// Microseconds on the monotonic clock.
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
        /// Try again at this monotonic time, in microseconds.
        case pause(until: Int64)
        /// The file is not trusted any more: nothing is acknowledged again, the daemon must end.
        case stop
    }

    package private(set) var state: State = .idle

    /// Pauses between attempts, in microseconds: the disk may be full for hours, the answer must be quick when it is not.
    package static let pauseBetweenAttempts: Int64 = 200_000

    package init() {}

    package var isIdle: Bool { state == .idle }

    /// Something was appended to the open group.
    package mutating func pending() -> Action {
        guard state == .idle else { return .none }
        state = .scheduled
        return .scheduleHandOver
    }

    /// The event-loop cycle in which `scheduleHandOver` was asked for has read its input.
    package mutating func cycleEnded() -> Action {
        guard state == .scheduled else { return .none }
        state = .committing
        return .handOver
    }

    package mutating func committed(hasMore: Bool) -> Action {
        guard state == .committing else { return .none }
        state = hasMore ? .committing : .idle
        return hasMore ? .handOver : .none
    }

    package mutating func failed(mayPass: Bool, now: Int64) -> Action {
        guard state == .committing else { return .none }
        guard mayPass else {
            state = .stopped
            return .stop
        }
        let until = now + Self.pauseBetweenAttempts
        state = .pausing(until: until)
        return .pause(until: until)
    }

    package mutating func pauseEnded(now: Int64) -> Action {
        guard case .pausing(let until) = state, now >= until else { return .none }
        state = .committing
        return .retry
    }
}
