import Database
import Glibc
import Lifecycle
import ServiceLifecycle
import TestSupport
import Testing

@Suite struct HangingServerTests {
    /// The server's machine hangs while a statement runs: its kernel goes on acknowledging, and nobody answers.
    @Test func aShutdownEndsAPassWhoseServerHangs() async throws {
        let warehouse = try await Warehouse()
        guard try PostgresCluster.shared().folder != nil else { return }
        let other = try await warehouse.connect()
        try await other.run("BEGIN; LOCK TABLE rollup_progress")
        let service = warehouse.service(at: march) { $0.lockTimeout = 600_000 }
        let group = ServiceGroup(
            configuration: .init(
                services: [.init(service: service, successTerminationBehavior: .gracefullyShutdownGroup)],
                logger: silent))
        let running = Task { try await group.run() }
        var pid: Int32?
        #expect(
            try await wait {
                pid = Int32(
                    try await warehouse.one(
                        """
                        SELECT pid FROM pg_stat_activity WHERE application_name = 'sluice-lifecycle'
                            AND datname = current_database() AND wait_event_type = 'Lock'
                        """))
                return pid != nil
            })
        let stopped = try #require(pid)
        kill(stopped, SIGSTOP)
        defer { kill(stopped, SIGCONT) }
        let started = ContinuousClock.now
        await group.triggerGracefulShutdown()
        let ended = Task { try? await running.value }
        let isOver = await withTaskGroup(of: Bool.self) { group in
            group.addTask {
                await ended.value
                return true
            }
            group.addTask {
                try? await Task.sleep(for: .seconds(15))
                // Whatever waits for the server can go on, so that the test ends.
                kill(stopped, SIGCONT)
                return false
            }
            let first = await group.next() ?? false
            group.cancelAll()
            return first
        }
        #expect(isOver && ContinuousClock.now - started < .seconds(15))
        try await other.run("COMMIT")
    }
}
