import Synchronization

/// What a check found.
package enum HealthState: Sendable, Equatable {
    case passing
    /// In a person's words.
    case failing(String)
}

package struct HealthReport: Sendable, Equatable {
    package struct Entry: Sendable, Equatable, Encodable {
        package var name: String
        package var passing: Bool
        package var critical: Bool
        package var reason: String?
        package var seconds: Double
    }

    package var entries: [Entry]

    /// All critical entries pass.
    package var isPassing: Bool { entries.allSatisfy { $0.passing || !$0.critical } }
}

/// Told by a part of the process that it makes progress.
package final class Heartbeat: Sendable {
    let name: String
    /// Seconds without a beat after which the process does not count as alive.
    let limit: Double
    private let last: Atomic<Int64>

    init(name: String, limit: Double) {
        self.name = name
        self.limit = limit
        last = Atomic(SystemClock.monotonicTime())
    }

    package func beat() { last.store(SystemClock.monotonicTime(), ordering: .relaxed) }

    /// Seconds since the last beat.
    var age: Double { Double(SystemClock.monotonicTime() - last.load(ordering: .relaxed)) / 1e6 }
}

/// Answers the two questions an orchestrator asks: does the process make progress (live), and can it do its work (ready)?
package final class HealthRegistry: Sendable {
    package struct Check: Sendable {
        package var name: String
        package var isCritical: Bool
        package var run: @Sendable () async -> HealthState
    }

    /// Each check has so much time; `/health/ready` answers within a second whatever a dependency does.
    package static let checkTimeout = Duration.milliseconds(700)
    /// Microseconds for which an answer is given again, so that probes cannot become load.
    static let cacheTime: Int64 = 500_000

    private struct State {
        var heartbeats: [Heartbeat] = []
        var checks: [Check] = []
        var cached: (report: HealthReport, at: Int64)?
    }

    private let state = Mutex(State())

    package init() {}

    package func heartbeat(_ name: String, limit: Double) -> Heartbeat {
        let heartbeat = Heartbeat(name: name, limit: limit)
        state.withLock { $0.heartbeats.append(heartbeat) }
        return heartbeat
    }

    package func addCheck(
        _ name: String, isCritical: Bool = true, _ run: @escaping @Sendable () async -> HealthState
    ) {
        state.withLock { $0.checks.append(Check(name: name, isCritical: isCritical, run: run)) }
    }

    package func live() -> HealthReport {
        let heartbeats = state.withLock { $0.heartbeats }
        return HealthReport(
            entries: heartbeats.map { heartbeat in
                let age = heartbeat.age
                let isPassing = age <= heartbeat.limit
                return .init(
                    name: heartbeat.name, passing: isPassing, critical: true,
                    reason: isPassing ? nil : "no progress for \(age) s, allowed are \(heartbeat.limit) s", seconds: age
                )
            })
    }

    package func ready() async -> HealthReport {
        let now = SystemClock.monotonicTime()
        let (checks, cached) = state.withLock { ($0.checks, $0.cached) }
        if let cached, now - cached.at < Self.cacheTime { return cached.report }
        var entries = live().entries
        await withTaskGroup(of: (Int, HealthReport.Entry).self) { group in
            for (index, check) in checks.enumerated() {
                group.addTask { (index, await Self.run(check)) }
            }
            var found: [(Int, HealthReport.Entry)] = []
            for await result in group { found.append(result) }
            entries += found.sorted { $0.0 < $1.0 }.map(\.1)
        }
        let report = HealthReport(entries: entries)
        state.withLock { $0.cached = (report, now) }
        return report
    }

    /// A check that does not come back in time goes on without us; its answer is not waited for.
    private static func run(_ check: Check) async -> HealthReport.Entry {
        let started = SystemClock.monotonicTime()
        let outcome = await firstOf(check.run, within: checkTimeout)
        let seconds = Double(SystemClock.monotonicTime() - started) / 1e6
        switch outcome {
        case .passing?:
            return .init(name: check.name, passing: true, critical: check.isCritical, reason: nil, seconds: seconds)
        case .failing(let reason)?:
            return .init(name: check.name, passing: false, critical: check.isCritical, reason: reason, seconds: seconds)
        case nil:
            return .init(
                name: check.name, passing: false, critical: check.isCritical,
                reason: "no answer within \(checkTimeout)",
                seconds: seconds)
        }
    }

    private static func firstOf(
        _ body: @escaping @Sendable () async -> HealthState, within limit: Duration
    ) async -> HealthState? {
        let (stream, continuation) = AsyncStream.makeStream(of: HealthState?.self, bufferingPolicy: .bufferingOldest(1))
        let working = Task { continuation.yield(await body()) }
        let timing = Task {
            try? await Task.sleep(for: limit)
            continuation.yield(nil)
        }
        defer {
            working.cancel()
            timing.cancel()
            continuation.finish()
        }
        for await first in stream { return first }
        return nil
    }
}
