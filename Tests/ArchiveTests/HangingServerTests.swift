import Database
import Glibc
import NIOConcurrencyHelpers
import TestSupport
import Testing

@testable import Archive

/// The database's machine hangs in the middle of a run: its kernel goes on acknowledging, and nobody answers.
@Suite struct HangingServerTests {
    /// Stops the archiver's server processes at a step, once.
    private final class Freezer: Sendable {
        private let house: Warehouse
        private let stopped = NIOLockedValueBox<[Int32]>([])

        init(_ house: Warehouse) { self.house = house }

        func freeze() async throws {
            guard stopped.withLockedValue({ $0.isEmpty }) else { return }
            let pids = try await house.one(
                """
                SELECT string_agg(pid::text, ' ') FROM pg_stat_activity
                WHERE application_name = 'sluice-archive' AND datname = current_database()
                """
            ).split(separator: " ").compactMap { Int32($0) }
            for pid in pids { kill(pid, SIGSTOP) }
            stopped.withLockedValue { $0 = pids }
        }

        var hasFrozen: Bool { stopped.withLockedValue { !$0.isEmpty } }

        func thaw() { for pid in stopped.withLockedValue({ $0 }) { kill(pid, SIGCONT) } }
    }

    private func run(
        _ house: Warehouse, _ freezer: Freezer, at step: Archiver.Step,
        _ change: @escaping @Sendable (inout Archiver.Settings) -> Void
    ) -> Task<String, Never> {
        let archiver = house.archiver(
            step: { reached async throws(ArchiveError) in
                guard reached == step else { return }
                do { try await freezer.freeze() } catch { throw .badRow("\(error)") }
            }, change)
        return Task {
            do { return "\(String(describing: try await archiver.run(now: march)))" } catch { return "\(error)" }
        }
    }

    /// - Returns: `nil`: it has not ended in time.
    private func end(of task: Task<String, Never>, _ freezer: Freezer) async -> String? {
        await withTaskGroup(of: String?.self) { group in
            group.addTask { await task.value }
            group.addTask {
                try? await Task.sleep(for: .seconds(15))
                // Whatever waits for the server can go on, so that the test ends.
                if !Task.isCancelled { freezer.thaw() }
                return nil
            }
            let first = await group.next() ?? nil
            group.cancelAll()
            return first
        }
    }

    /// While a day is read, and between two statements of the state.
    @Test(arguments: [Archiver.Step.fileWritten, .manifestWritten, .manifestAdopted])
    func aServerThatHangsIsGivenUp(step: Archiver.Step) async throws {
        guard try PostgresCluster.shared().folder != nil else { return }
        let house = try await Warehouse()
        defer { house.remove() }
        let freezer = Freezer(house)
        defer { freezer.thaw() }
        let running = run(house, freezer, at: step) {
            $0.statementLimit = 400
            $0.answerGrace = 100
        }
        let outcome = try #require(await end(of: running, freezer), "it waits for the server")
        #expect(freezer.hasFrozen && outcome.contains("did not answer within 500 ms"), "\(outcome)")
        freezer.thaw()
        #expect(try await eventually { try await house.archive() != nil }, "the lock is free")
        for day in 0..<3 { #expect(try await house.isComplete(day)) }
    }

    /// The limits are far, as they are in service.
    @Test(arguments: [Archiver.Step.fileWritten, .manifestAdopted])
    func aShutdownDoesNotWaitForIt(step: Archiver.Step) async throws {
        guard try PostgresCluster.shared().folder != nil else { return }
        let house = try await Warehouse()
        defer { house.remove() }
        let freezer = Freezer(house)
        defer { freezer.thaw() }
        let running = run(house, freezer, at: step) { _ in }
        #expect(try await eventually { freezer.hasFrozen })
        running.cancel()
        let outcome = try #require(await end(of: running, freezer), "it waits for the server")
        #expect(outcome.contains("interrupted"), "\(outcome)")
        freezer.thaw()
        #expect(try await eventually { try await house.archive() != nil }, "the lock is free")
    }

    private func eventually(_ condition: () async throws -> Bool) async throws -> Bool {
        for _ in 0..<2_000 {
            if try await condition() { return true }
            try await Task.sleep(for: .milliseconds(5))
        }
        return false
    }
}
