import Glibc
import Operations
import Synchronization

/// What the loops' threads and the rest share: each loop's counts, and the wish to stop.
final class SharedCounts: Sendable {
    private let slots: Mutex<[SimulationCounts]>
    private let stopping = Atomic(false)
    private let abandoned = Atomic(false)

    init(slots count: Int) {
        slots = Mutex(Array(repeating: SimulationCounts(), count: count))
    }

    func set(_ slot: Int, _ counts: SimulationCounts) {
        slots.withLock { $0[slot] = counts }
    }

    var sum: SimulationCounts {
        slots.withLock { $0.reduce(SimulationCounts(), +) }
    }

    var isStopping: Bool { stopping.load(ordering: .relaxed) }
    var isAbandoned: Bool { abandoned.load(ordering: .relaxed) }

    func stop() { stopping.store(true, ordering: .relaxed) }

    func abandon() {
        stop()
        abandoned.store(true, ordering: .relaxed)
    }
}

/// Many devices that publish what this host measures, through libmosquitto.
package final class Simulation: Sendable {
    private let plan: SimulationPlan
    private let journal: JournalWriter
    private let shared: SharedCounts
    private let ranges: [Range<Int>]

    package init(_ plan: SimulationPlan) throws(SimulationError) {
        try Self.check(plan)
        self.plan = plan
        ranges = Self.split(plan.devices.count, by: SimulatorLoop.capacity)
        shared = SharedCounts(slots: ranges.count)
        journal = try JournalWriter(path: plan.journal)
    }

    /// The counts of this moment.
    package var counts: SimulationCounts { shared.sum }

    /// Ends publishing; outstanding acknowledgements are still waited for. Safe on any thread, and more than once.
    package func stop() { shared.stop() }

    /// Ends publishing and waiting.
    package func abandon() { shared.abandon() }

    /// Runs the plan to its end, once.
    package func run() async throws(SimulationError) -> SimulationCounts {
        let failures = await withTaskGroup(of: SimulationError?.self) { group in
            for (slot, range) in ranges.enumerated() {
                group.addTask { await self.runLoop(slot: slot, range: range) }
            }
            return await group.reduce(into: [SimulationError]()) { if let failure = $1 { $0.append(failure) } }
        }
        journal.close()
        if let failure = failures.first { throw failure }
        return shared.sum
    }

    /// libmosquitto's connect and `poll` block, so a loop has a thread, and the caller's task waits for its end.
    private func runLoop(slot: Int, range: Range<Int>) async -> SimulationError? {
        let outcome = await JoinedThread.run { [plan, journal, shared] in
            do throws(SimulationError) {
                var loop = try SimulatorLoop(plan: plan, range: range, slot: slot, journal: journal, shared: shared)
                try loop.run()
                return nil as SimulationError?
            } catch {
                shared.abandon()
                return error
            }
        }
        switch outcome {
        case .success(let failure): return failure
        case .failure(let error):
            shared.abandon()
            return .thread(reason: String(cString: strerror(error.code)))
        }
    }

    static func split(_ count: Int, by capacity: Int) -> [Range<Int>] {
        stride(from: 0, to: count, by: capacity).map { $0..<min(count, $0 + capacity) }
    }

    static func check(_ plan: SimulationPlan) throws(SimulationError) {
        guard (1...100_000).contains(plan.devices.count) else {
            throw .plan("devices: 1 to 100000, not \(plan.devices.count)")
        }
        guard Set(plan.devices).count == plan.devices.count else { throw .plan("devices: an id stands there twice") }
        guard plan.rate > 0, plan.rate <= 10_000 else {
            throw .plan("rate: above 0, at most 10000 messages a second, not \(plan.rate)")
        }
        guard plan.seconds > 0, plan.seconds.isFinite else { throw .plan("seconds: above 0, not \(plan.seconds)") }
        guard plan.drainSeconds >= 0, plan.drainSeconds.isFinite else {
            throw .plan("drain seconds: 0 or above, not \(plan.drainSeconds)")
        }
        guard (1...65_535).contains(plan.port) else { throw .plan("port: 1 to 65535, not \(plan.port)") }
        guard (1...1000).contains(plan.inFlight) else { throw .plan("in flight: 1 to 1000, not \(plan.inFlight)") }
        guard plan.keepAlive >= 5 else { throw .plan("keep-alive: 5 s or above, not \(plan.keepAlive)") }
    }
}
