import Flow
import NIOConcurrencyHelpers
import SyncModel

/// Bounds what all requests together hold in memory. Backlog has bounds of its own and takes nothing of live data's slots,
/// so that gateways that come back with weeks of data never make live batches fail. Times are microseconds of the
/// monotonic clock.
final class InFlightGate: Sendable {
    struct Limits: Sendable {
        var batches: Int
        var bytes: Int
        var backlogBatches: Int
        /// Of `bytes`, what backlog may hold.
        var backlogBytes: Int
        /// Messages; `nil`: unlimited.
        var backlogMessagesPerSecond: Int?
    }

    private struct State {
        var batches: [Lane: Int] = [:]
        var bytes: [Lane: Int] = [:]
        var bucket: TokenBucket?

        var allBytes: Int { bytes.values.reduce(0, +) }
    }

    private let state: NIOLockedValueBox<State>
    private let limits: Limits

    init(_ limits: Limits, at now: Int64) {
        self.limits = limits
        state = NIOLockedValueBox(
            State(
                bucket: limits.backlogMessagesPerSecond.map {
                    TokenBucket(rate: Double($0), burst: Int64($0), at: now)
                }))
    }

    var bytes: Int { state.withLockedValue { $0.allBytes } }

    /// - Returns: `nil` when as many batches of the lane as allowed are in work.
    func enter(_ lane: Lane) -> Pass? { take(lane) ? Pass(gate: self, lane: lane) : nil }

    /// Takes a backlog's messages from what all backlogs may have in a second.
    ///
    /// - Returns: `nil`, or the seconds after which it should come again.
    func admitBacklog(messages: Int, at now: Int64) -> Int? {
        state.withLockedValue { state in
            guard case .wait(let time)? = state.bucket?.take(Int64(messages), at: now) else { return nil }
            return Int((time + 999_999) / 1_000_000)
        }
    }

    private func take(_ lane: Lane) -> Bool {
        state.withLockedValue { state in
            let maximum = lane == .live ? limits.batches : limits.backlogBatches
            guard state.batches[lane, default: 0] < maximum else { return false }
            state.batches[lane, default: 0] += 1
            return true
        }
    }

    private func grow(_ lane: Lane, by bytes: Int) -> Bool {
        state.withLockedValue { state in
            guard state.allBytes + bytes <= limits.bytes,
                lane == .live || state.bytes[.backlog, default: 0] + bytes <= limits.backlogBytes
            else { return false }
            state.bytes[lane, default: 0] += bytes
            return true
        }
    }

    private func leave(_ lane: Lane, bytes: Int) {
        state.withLockedValue { state in
            state.batches[lane, default: 0] -= 1
            state.bytes[lane, default: 0] -= bytes
        }
    }

    /// One batch's share, given back when it ends.
    final class Pass: Sendable {
        let lane: Lane
        private let gate: InFlightGate
        private let bytes = NIOLockedValueBox(0)

        fileprivate init(gate: InFlightGate, lane: Lane) {
            self.gate = gate
            self.lane = lane
        }

        deinit { gate.leave(lane, bytes: bytes.withLockedValue { $0 }) }

        /// - Returns: `false` when the batches in work hold as much as allowed.
        func hold(_ total: Int) -> Bool {
            bytes.withLockedValue { bytes in
                guard total > bytes else { return true }
                guard gate.grow(lane, by: total - bytes) else { return false }
                bytes = total
                return true
            }
        }
    }
}
