import Atomics
import Synchronization

/// What a check found.
package enum HealthState: Sendable, Equatable {
    case good
    /// It works, but somebody should look.
    case degraded(String)
    case failed(String)
}

/// A sign that a loop makes progress.
package final class Heartbeat: Sendable {
    private let last: ManagedAtomic<Int64>
    /// Microseconds.
    let limit: Int64

    init(limit: Int64, now: Int64) {
        self.limit = limit
        last = ManagedAtomic(now)
    }

    package func beat() { last.store(SystemClock.monotonicMicroseconds(), ordering: .relaxed) }

    /// Microseconds since the last beat.
    func age(now: Int64) -> Int64 { now - last.load(ordering: .relaxed) }
}

/// What a daemon says of itself: live while its loops make progress, ready while its critical checks pass.
package final class HealthRegistry: Sendable {
    private struct Check: Sendable {
        var isCritical: Bool
        var limit: Duration
        var run: @Sendable () async -> HealthState
        /// Of the run that has not come back: one that outlived its limit is not started a second time.
        var started: Int64?
        /// Microseconds of the last run that came back.
        var duration: Int64 = 0
        /// What the last report says of it.
        var last: HealthState?
    }

    /// How one check does.
    package struct Timing: Sendable, Equatable {
        package var check: String
        package var seconds: Double
        package var isFailed: Bool
    }

    private struct Watched: Sendable {
        /// Microseconds.
        var limit: Int64
        var busyTime: @Sendable () -> Int64?
    }

    package struct Report: Sendable, Equatable {
        package var isGood: Bool
        /// By name.
        package var states: [String: HealthState]
    }

    private struct State {
        var checks: [String: Check] = [:]
        var heartbeats: [String: Heartbeat] = [:]
        var watched: [String: Watched] = [:]
        var cached: (report: Report, at: Int64)?
        var refresh: Task<Report, Never>?
    }

    private let state = Mutex(State())
    /// Microseconds that a report is good for.
    private let cacheLife: Int64

    package init(cacheLife: Duration = .seconds(1)) { self.cacheLife = cacheLife.microseconds }

    /// - Parameters:
    ///   - isCritical: a failure makes the daemon not ready.
    ///   - limit: a check that takes longer has failed.
    package func check(
        _ name: String, isCritical: Bool = true, limit: Duration = .milliseconds(500),
        run: @escaping @Sendable () async -> HealthState
    ) {
        state.withLock { $0.checks[name] = Check(isCritical: isCritical, limit: limit, run: run) }
    }

    /// - Parameter limit: without a beat for longer, the process does not make progress.
    package func heartbeat(_ name: String, limit: Duration) -> Heartbeat {
        let heartbeat = Heartbeat(limit: limit.microseconds, now: SystemClock.monotonicMicroseconds())
        state.withLock { $0.heartbeats[name] = heartbeat }
        return heartbeat
    }

    /// For a thread that waits for work, and so cannot beat: to be idle is progress.
    ///
    /// - Parameters:
    ///   - limit: of one piece of work; beyond it the process does not make progress.
    ///   - busyTime: microseconds since the thread began what it does now; `nil` while it waits.
    package func watch(_ name: String, limit: Duration, busyTime: @escaping @Sendable () -> Int64?) {
        state.withLock { $0.watched[name] = Watched(limit: limit.microseconds, busyTime: busyTime) }
    }

    package func live() -> Report {
        let now = SystemClock.monotonicMicroseconds()
        let (heartbeats, watched) = state.withLock { ($0.heartbeats, $0.watched) }
        func judge(_ age: Int64, _ limit: Int64) -> HealthState {
            guard age > limit else { return .good }
            return .failed("no progress for \(age / 1_000) ms, allowed are \(limit / 1_000) ms")
        }
        var states = heartbeats.mapValues { judge($0.age(now: now), $0.limit) }
        for (name, thread) in watched { states[name] = judge(thread.busyTime() ?? 0, thread.limit) }
        return Report(isGood: states.values.allSatisfy { $0 == .good }, states: states)
    }

    /// At most as old as the cache's life; checks run at the same time, and once for all who ask meanwhile.
    package func ready() async -> Report {
        enum Source {
            case cached(Report)
            case running(Task<Report, Never>)
        }
        let source = state.withLock { state -> Source in
            if let cached = state.cached, SystemClock.monotonicMicroseconds() - cached.at < cacheLife {
                return .cached(cached.report)
            }
            if let refresh = state.refresh { return .running(refresh) }
            let refresh = Task { await self.refresh() }
            state.refresh = refresh
            return .running(refresh)
        }
        switch source {
        case .cached(let report): return report
        case .running(let task): return await task.value
        }
    }

    /// What is known without waiting, for when `ready` has not answered in time: checks that are over their limit have
    /// failed, the others are as they were. Never good.
    package func overdue() -> Report {
        let now = SystemClock.monotonicMicroseconds()
        let checks = state.withLock { $0.checks }
        var report = Report(isGood: false, states: [:])
        for (name, check) in checks {
            if let started = check.started, now - started > check.limit.microseconds {
                report.states[name] = .failed("no answer for \((now - started) / 1_000) ms")
            } else {
                report.states[name] = check.last ?? .failed("it has not been run yet")
            }
        }
        report.states["health"] = .failed(
            "the checks did not end in time: the process is short of threads or processor")
        return report
    }

    /// By name.
    package var timings: [Timing] {
        let now = SystemClock.monotonicMicroseconds()
        return state.withLock { $0.checks }.sorted { $0.key < $1.key }.map { name, check in
            let running = check.started.map { now - $0 } ?? 0
            var isFailed = false
            if case .failed? = check.last { isFailed = true }
            return Timing(check: name, seconds: Double(max(running, check.duration)) / 1e6, isFailed: isFailed)
        }
    }

    private func refresh() async -> Report {
        let checks = state.withLock { $0.checks }
        var report = Report(isGood: true, states: [:])
        await withTaskGroup(of: (String, HealthState).self) { group in
            for (name, check) in checks { group.addTask { (name, await self.run(name, check)) } }
            for await (name, found) in group {
                report.states[name] = found
                if case .failed = found, checks[name]?.isCritical == true { report.isGood = false }
            }
        }
        let finished = report
        state.withLock { state in
            for (name, found) in finished.states { state.checks[name]?.last = found }
            state.cached = (finished, SystemClock.monotonicMicroseconds())
            state.refresh = nil
        }
        return finished
    }

    private func run(_ name: String, _ check: Check) async -> HealthState {
        let isStarted = state.withLock { state in
            guard let check = state.checks[name], check.started == nil else { return false }
            state.checks[name]?.started = SystemClock.monotonicMicroseconds()
            return true
        }
        guard isStarted else { return .failed("the check before has not come back yet") }
        let found = await withTimeLimit(check.limit) {
            let found = await check.run()
            self.state.withLock { state in
                guard let started = state.checks[name]?.started else { return }
                state.checks[name]?.duration = SystemClock.monotonicMicroseconds() - started
                state.checks[name]?.started = nil
            }
            return found
        }
        return found ?? .failed("no answer within \(check.limit.microseconds / 1_000) ms")
    }
}

extension HealthRegistry.Report {
    /// `{"status":"good","checks":{"buffer":{"status":"failed","reason":"…"}}}`
    package func json() -> String {
        var bytes: [UInt8] = []
        bytes.append(contentsOf: "{\"status\":\"\(isGood ? "good" : "failed")\",\"checks\":{".utf8)
        for (position, (name, state)) in states.sorted(by: { $0.key < $1.key }).enumerated() {
            if position > 0 { bytes.append(UInt8(ascii: ",")) }
            JSONText.append(name, to: &bytes)
            switch state {
            case .good: bytes.append(contentsOf: ":{\"status\":\"good\"}".utf8)
            case .degraded(let reason): Self.append("degraded", reason, to: &bytes)
            case .failed(let reason): Self.append("failed", reason, to: &bytes)
            }
        }
        bytes.append(contentsOf: "}}\n".utf8)
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func append(_ status: String, _ reason: String, to bytes: inout [UInt8]) {
        bytes.append(contentsOf: ":{\"status\":\"\(status)\",\"reason\":".utf8)
        JSONText.append(reason, to: &bytes, maximum: 1_024)
        bytes.append(UInt8(ascii: "}"))
    }
}

extension Duration {
    var microseconds: Int64 { components.seconds * 1_000_000 + components.attoseconds / 1_000_000_000_000 }
}

/// The operation's value, or `nil` after the limit. The operation is cancelled then, but not waited for: it may be
/// stuck in something that does not heed cancellation.
func withTimeLimit<Value: Sendable>(
    _ limit: Duration, _ operation: @escaping @Sendable () async -> Value
) async -> Value? {
    let first = FirstResult<Value>()
    return await withCheckedContinuation { continuation in
        first.wait(continuation)
        let work = Task { first.finish(await operation()) }
        let alarm = Task {
            do {
                try await Task.sleep(for: limit)
                if first.finish(nil) { work.cancel() }
            } catch {
                // The operation was first and has cancelled the alarm.
            }
        }
        first.onFinish { alarm.cancel() }
    }
}

/// Resumes its continuation once, with whichever result comes first; never under the lock.
private final class FirstResult<Value: Sendable>: Sendable {
    private struct State {
        var continuation: CheckedContinuation<Value?, Never>?
        var isFinished = false
        var cleanup: (@Sendable () -> Void)?
    }

    private let state = Mutex(State())

    func wait(_ continuation: CheckedContinuation<Value?, Never>) {
        state.withLock { $0.continuation = continuation }
    }

    func onFinish(_ cleanup: @escaping @Sendable () -> Void) {
        let isLate = state.withLock { state in
            if !state.isFinished { state.cleanup = cleanup }
            return state.isFinished
        }
        if isLate { cleanup() }
    }

    @discardableResult
    func finish(_ value: Value?) -> Bool {
        let (continuation, cleanup) = state.withLock { state in
            defer {
                state.continuation = nil
                state.cleanup = nil
                state.isFinished = true
            }
            return (state.continuation, state.cleanup)
        }
        cleanup?()
        continuation?.resume(returning: value)
        return continuation != nil
    }
}
