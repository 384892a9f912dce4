import NIOConcurrencyHelpers

/// Bounds what all requests together hold in memory.
final class InFlightGate: Sendable {
    private struct State {
        var batches = 0
        var bytes = 0
    }

    private let state = NIOLockedValueBox(State())
    private let maximumBatches: Int
    private let maximumBytes: Int

    init(maximumBatches: Int, maximumBytes: Int) {
        self.maximumBatches = maximumBatches
        self.maximumBytes = maximumBytes
    }

    var bytes: Int { state.withLockedValue { $0.bytes } }

    /// - Returns: `nil` when as many batches as allowed are in work.
    func enter() -> Pass? {
        let isAdmitted = state.withLockedValue { state in
            guard state.batches < maximumBatches else { return false }
            state.batches += 1
            return true
        }
        return isAdmitted ? Pass(gate: self) : nil
    }

    private func grow(by bytes: Int) -> Bool {
        state.withLockedValue { state in
            guard state.bytes + bytes <= maximumBytes else { return false }
            state.bytes += bytes
            return true
        }
    }

    private func leave(bytes: Int) {
        state.withLockedValue { state in
            state.batches -= 1
            state.bytes -= bytes
        }
    }

    /// One batch's share, given back when it ends.
    final class Pass: Sendable {
        private let gate: InFlightGate
        private let bytes = NIOLockedValueBox(0)

        fileprivate init(gate: InFlightGate) { self.gate = gate }

        deinit { gate.leave(bytes: bytes.withLockedValue { $0 }) }

        /// - Returns: `false` when the batches in work hold as much as allowed.
        func hold(_ total: Int) -> Bool {
            bytes.withLockedValue { bytes in
                guard total > bytes else { return true }
                guard gate.grow(by: total - bytes) else { return false }
                bytes = total
                return true
            }
        }
    }
}
