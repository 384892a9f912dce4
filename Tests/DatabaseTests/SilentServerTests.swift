import Database
import Glibc
import NIOCore
import TestSupport
import Testing

/// A server whose machine hangs acknowledges what is sent, and never answers.
@Suite struct SilentServerTests {
    private func connection() async throws -> PostgresConnection? {
        guard try PostgresCluster.shared().folder != nil else { return nil }
        return try await PostgresConnection.connect(
            .unlimited(url: try PostgresCluster.shared().makeDatabase(), applicationName: "tests"))
    }

    /// Runs `body` beside a clock that wakes the server, so that a test that fails ends.
    private func within(
        _ seconds: Int, of pid: Int32, _ body: @escaping @Sendable () async -> Void
    ) async -> Bool {
        let waking = Task {
            try await Task.sleep(for: .seconds(seconds))
            kill(pid, SIGCONT)
        }
        let started = ContinuousClock.now
        await body()
        waking.cancel()
        return ContinuousClock.now - started < .seconds(seconds)
    }

    @Test func rowsThatStopComingAreGivenUp() async throws {
        guard let connection = try await connection() else { return }
        await connection.expectAnswers(within: 500)
        try await connection.startCopyOut("COPY (SELECT generate_series(1, 10000000)) TO STDOUT")
        #expect(try await connection.readCopyOut(maximumBytes: 1_000).isLast == false)
        let pid = await connection.backendPID
        kill(pid, SIGSTOP)
        defer { kill(pid, SIGCONT) }
        let isInTime = await within(15, of: pid) {
            let error = await #expect(throws: PostgresError.self) {
                // What had come before is read first.
                while try await !connection.readCopyOut(maximumBytes: 1 << 20).isLast {}
            }
            #expect(error?.message.contains("did not answer within 500 ms") == true, "\(String(describing: error))")
        }
        #expect(isInTime)
        #expect(await connection.isUsable == false)
    }

    @Test func aCopyThatDoesNotBeginIsGivenUp() async throws {
        guard let connection = try await connection() else { return }
        await connection.expectAnswers(within: 500)
        let pid = await connection.backendPID
        kill(pid, SIGSTOP)
        defer { kill(pid, SIGCONT) }
        let isInTime = await within(15, of: pid) {
            let error = await #expect(throws: PostgresError.self) {
                try await connection.startCopyOut("COPY (SELECT 1) TO STDOUT")
            }
            #expect(error?.isConnectionProblem == true)
        }
        #expect(isInTime)
    }

    /// The limit is of silence: rows that come slowly may take as long as they do, and so may their reader.
    @Test func slowRowsAreWaitedFor() async throws {
        guard let connection = try await connection() else { return }
        await connection.expectAnswers(within: 800)
        // A server sends 8 KiB at a time.
        try await connection.startCopyOut(
            "COPY (SELECT repeat('x', 9000) || pg_sleep(0.2)::text FROM generate_series(1, 8)) TO STDOUT")
        var (rows, isLast) = (0, false)
        while !isLast {
            let chunk = try await connection.readCopyOut(maximumBytes: 1)
            rows += chunk.rows.readableBytes / 9_001
            isLast = chunk.isLast
            if rows == 4 { try await Task.sleep(for: .milliseconds(1_500)) }
        }
        #expect(rows == 8)
        #expect(try await connection.scalar("SELECT 1") == "1")
    }

    @Test func aCallThatWaitsCanBeEnded() async throws {
        guard let connection = try await connection() else { return }
        let pid = await connection.backendPID
        let waiting = Task { try await connection.run("SELECT pg_sleep(60)") }
        try await Task.sleep(for: .milliseconds(100))
        kill(pid, SIGSTOP)
        defer { kill(pid, SIGCONT) }
        let isInTime = await within(15, of: pid) {
            connection.interrupt()
            let result = await waiting.result
            let error = #expect(throws: PostgresError.self) { try result.get() }
            #expect(error?.message == "the connection was ended from here" && error?.isConnectionProblem == true)
        }
        #expect(isInTime)
        #expect(await connection.isUsable == false)
    }

    @Test func aStatementsLimitCanBeChanged() async throws {
        guard let connection = try await connection() else { return }
        try await connection.limitStatements(to: 100)
        let error = await #expect(throws: PostgresError.self) { try await connection.run("SELECT pg_sleep(5)") }
        #expect(error?.isTimeout == true)
        try await connection.limitStatements(to: 0)
        try await connection.run("SELECT pg_sleep(0.3)")
    }
}
