import NIOConcurrencyHelpers

/// What the processor says of itself, for health checks and the status page. Written by the processor, read by anyone.
package final class ProcessorStatus: Sendable {
    package struct State: Sendable, Equatable {
        /// The last attempt to reach the database succeeded.
        package var isDatabaseReachable = false
        /// The last attempt to read the log succeeded.
        package var isLogReachable = false
        /// Partitions that need an operator, and why.
        package var stopped: [Int32: String] = [:]
        /// Of these, the ones whose log is not the one whose offsets the database has.
        package var ofOtherLog: Set<Int32> = []
        /// Next offset of each partition that this processor has.
        package var offsets: [Int32: Int64] = [:]
        /// The circuit breaker is not closed: what was wrong when it opened.
        package var breaker: String?
        package var messages: UInt64 = 0
        package var duplicates: UInt64 = 0
        /// Nodes and devices of Sparkplug whose births made room for others'.
        package var forgottenEntities: UInt64 = 0
        /// Births of Sparkplug that came after data which they would have named otherwise.
        package var lateBirths: UInt64 = 0
        /// Messages of Sparkplug that were stored without the names of their births, which were too much to read.
        package var unresolved: UInt64 = 0
    }

    // A lock, because health checks ask from other threads while the processor is busy; never held over a call.
    private let box = NIOLockedValueBox(State())

    package init() {}

    /// Why nothing more should be acknowledged into the event log; `nil`: it may.
    package var otherLog: String? {
        let state = self.state
        return state.ofOtherLog.min().flatMap { state.stopped[$0] }
    }

    package var state: State { box.withLockedValue { $0 } }

    /// Why this processor is not ready; empty: it is.
    package var problems: [String] {
        let state = self.state
        var problems: [String] = []
        if !state.isDatabaseReachable { problems.append("the database cannot be reached") }
        if let reason = state.breaker { problems.append("the circuit breaker of the database is open: \(reason)") }
        if !state.isLogReachable { problems.append("the event log cannot be read") }
        for (partition, reason) in state.stopped.sorted(by: { $0.key < $1.key }) {
            problems.append("partition \(partition) stopped: \(reason)")
        }
        return problems
    }

    func update(_ body: (inout State) -> Void) { box.withLockedValue { body(&$0) } }
}
