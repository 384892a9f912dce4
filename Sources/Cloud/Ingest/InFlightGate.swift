import NIOConcurrencyHelpers
import SyncModel

/// Bounds what all requests together hold in memory, and keeps their budget. Backlog has bounds of its own and takes
/// nothing of live data's, so that gateways that come back with weeks of data never make live batches fail. Times are
/// microseconds of the monotonic clock.
final class InFlightGate: Sendable {
    struct Limits: Sendable {
        var bytes: Int
        /// Of `bytes`, what backlog may hold.
        var backlogBytes: Int
    }

    private struct State {
        var budget: IngestBudget
        var bytes: [Lane: Int] = [:]

        var allBytes: Int { bytes.values.reduce(0, +) }
    }

    private let state: NIOLockedValueBox<State>
    private let limits: Limits

    init(_ limits: Limits, budget: IngestBudget) {
        self.limits = limits
        state = NIOLockedValueBox(State(budget: budget))
    }

    var bytes: Int { state.withLockedValue { $0.allBytes } }

    func enter(_ gateway: String, _ lane: Lane, at now: Int64) throws(IngestBudget.Refusal) -> Pass {
        let refusal = state.withLockedValue { state -> IngestBudget.Refusal? in
            do throws(IngestBudget.Refusal) {
                try state.budget.enter(gateway, lane, at: now)
                return nil
            } catch { return error }
        }
        if let refusal { throw refusal }
        return Pass(gate: self, gateway: gateway, lane: lane)
    }

    /// Takes a batch's messages from what may come in a second.
    func admit(_ messages: Int, of gateway: String, _ lane: Lane, at now: Int64) throws(IngestBudget.Refusal) {
        let refusal = state.withLockedValue { state -> IngestBudget.Refusal? in
            do throws(IngestBudget.Refusal) {
                try state.budget.take(messages, of: gateway, lane, at: now)
                return nil
            } catch { return error }
        }
        if let refusal { throw refusal }
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

    private func leave(_ gateway: String, _ lane: Lane, bytes: Int) {
        state.withLockedValue { state in
            state.budget.leave(gateway, lane)
            state.bytes[lane, default: 0] -= bytes
        }
    }

    /// One batch's share, given back when it ends.
    final class Pass: Sendable {
        let lane: Lane
        private let gateway: String
        private let gate: InFlightGate
        private let bytes = NIOLockedValueBox(0)

        fileprivate init(gate: InFlightGate, gateway: String, lane: Lane) {
            self.gate = gate
            self.gateway = gateway
            self.lane = lane
        }

        deinit { gate.leave(gateway, lane, bytes: bytes.withLockedValue { $0 }) }

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
