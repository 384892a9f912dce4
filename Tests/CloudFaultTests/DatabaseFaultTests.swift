import Database
import EventLog
import Foundation
import Glibc
import Logging
import Processor
import TestSupport
import Testing

extension CloudFaults {
    /// PostgreSQL goes away, hangs, refuses, fills, forgets.
    @Suite(.serialized) struct DatabaseFaultTests {
        /// One for all tests here; each leaves it running.
        private static let server = Task { try await FaultyPostgres.start() }

        private func bench(on cluster: PostgresCluster, _ file: EmbeddedFile) async throws -> Bench {
            Bench(database: try await Bench.database(on: cluster), log: try file.open())
        }

        @Test(arguments: [SIGINT, SIGQUIT, SIGKILL])
        func theServerEndsAndComesBack(signal: Int32) async throws {
            let server = try await Self.server.value
            let file = try EmbeddedFile()
            let bench = try await bench(on: server.cluster, file)
            let worker = Worker(bench.configuration(), log: bench.log)
            let traffic = try await bench.underLoad { _ in
                try await server.stop(signal)
                try await eventually("the outage is noticed") { !worker.status.state.isDatabaseReachable }
                #expect(worker.status.problems.contains("the database cannot be reached"))
                try await server.startAgain()
                try await eventually("it goes on") { worker.status.problems.isEmpty }
            }
            await worker.stop()
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
        }

        /// The kernel of a server that hangs acknowledges what is sent: no statement timeout and no limit of TCP ends the wait.
        @Test func aServerThatHangsIsGivenUpAndComesBack() async throws {
            let server = try await Self.server.value
            let file = try EmbeddedFile()
            let bench = try await bench(on: server.cluster, file)
            let configuration = bench.configuration {
                $0.statementTimeout = .milliseconds(600)
                $0.answerGrace = .milliseconds(300)
            }
            let worker = Worker(configuration, log: bench.log)
            let traffic = try await bench.underLoad { _ in
                server.freeze()
                defer { server.thaw() }
                try await eventually("the silence is noticed", within: 5) { !worker.status.state.isDatabaseReachable }
                #expect(worker.lines.contains(.error, "the server did not answer within 900 ms"))
                try await Task.sleep(for: .milliseconds(500))
            }
            await worker.stop()
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
        }

        @Test func whileTheServerHangsTheProcessorCanEnd() async throws {
            let server = try await Self.server.value
            let file = try EmbeddedFile()
            let bench = try await bench(on: server.cluster, file)
            let configuration = bench.configuration {
                $0.statementTimeout = .milliseconds(600)
                $0.answerGrace = .milliseconds(300)
            }
            let worker = Worker(configuration, log: bench.log)
            var next: Worker?
            let traffic = try await bench.underLoad { _ in
                server.freeze()
                let start = ContinuousClock.now
                await worker.stop()
                #expect(ContinuousClock.now - start < .seconds(10))
                server.thaw()
                next = Worker(configuration, log: bench.log)
            }
            await next?.stop()
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
        }

        /// A role that may have no connection more: what a server without connections answers, for this role alone.
        @Test func noConnectionsAreLeft() async throws {
            let cluster = try PostgresCluster.shared()
            let url = try await blocking { try cluster.makeDatabase() }
            let name = try #require(URLComponents(string: url)?.path.dropFirst())
            let role = "loader_\(name)"
            try await Bench.administration(
                cluster, ["CREATE ROLE \(role) LOGIN", "ALTER DATABASE \(name) OWNER TO \(role)"])
            try await Bench.run("ALTER SCHEMA public OWNER TO \(role)", url)
            var parts = try #require(URLComponents(string: url))
            parts.user = role
            let file = try EmbeddedFile()
            let own = try #require(parts.string)
            try await Bench.migrate(own)
            let bench = Bench(database: own, log: try file.open())
            let asSuperuser = Bench(database: url, log: bench.log)
            let worker = Worker(bench.configuration(), log: bench.log)
            let load = Load(Traffic(seed: 4), into: bench.log)
            let running = Task { try await load.run() }
            try await eventually("it runs") { worker.status.state.messages > 100 }
            try await Bench.administration(cluster, ["ALTER ROLE \(role) CONNECTION LIMIT 0"])
            try await asSuperuser.cutConnections()
            try await eventually("it is refused") { worker.lines.contains(.error, "too many connections for role") }
            #expect(worker.status.problems.contains("the database cannot be reached"))
            try await Bench.administration(cluster, ["ALTER ROLE \(role) CONNECTION LIMIT -1"])
            await load.stop()
            try await running.value
            try await asSuperuser.drained()
            await worker.stop()
            try await asSuperuser.expectExactlyOnce(await load.traffic)
            await bench.log.close()
        }

        /// The database's files lie on a file system of a few megabytes, which another program fills.
        @Test(.enabled(if: SmallDisk.isPossible, "needs the right to mount"))
        func theDatabasesDiskIsFull() async throws {
            // Of this process's children: others may not see what it mounts.
            let cluster = try await blocking { try PostgresCluster.local() }
            let disk = try SmallDisk(bytes: 40 << 20)
            let place = try disk.folderOfPostgres("tablespace")
            let name = "small_\(getpid())"
            try await Bench.administration(
                cluster,
                [
                    "CREATE TABLESPACE \(name) LOCATION '\(place)'", "CREATE DATABASE \(name) TABLESPACE \(name)",
                ])
            var parts = try #require(URLComponents(string: cluster.url))
            parts.path = "/\(name)"
            let file = try EmbeddedFile()
            let bench = Bench(database: try #require(parts.string), log: try file.open())
            try await Bench.migrate(bench.database)
            let worker = Worker(bench.configuration(), log: bench.log)
            let traffic = try await bench.underLoad(Traffic(seed: 5), pause: .milliseconds(2)) { _ in
                try disk.fill()
                try await eventually("the full disk is noticed") { worker.lines.contains(.error, "PostgreSQL 53100") }
                #expect(worker.status.problems.contains("the database cannot be reached"))
                try disk.free()
            }
            await worker.stop()
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
            try await Bench.administration(
                cluster, ["DROP DATABASE \(name) WITH (FORCE)", "DROP TABLESPACE \(name)"])
        }

        /// Without room for its log PostgreSQL panics, and ends for good where it cannot recover either.
        @Test(.enabled(if: SmallDisk.isPossible, "needs the right to mount"))
        func theDiskOfTheDatabasesLogIsFull() async throws {
            let disk = try SmallDisk(bytes: 24 << 20)
            let log = try disk.folderOfPostgres("wal")
            let server = try await FaultyPostgres.start(["-X", log, "--wal-segsize=1"])
            let file = try EmbeddedFile()
            let bench = try await bench(on: server.cluster, file)
            let worker = Worker(bench.configuration(), log: bench.log)
            let traffic = try await bench.underLoad(Traffic(seed: 9), pause: .milliseconds(2)) { _ in
                try disk.fill()
                try await eventually("the server has panicked", within: 30) { server.log.contains("PANIC") }
                try await eventually("the outage is noticed") { !worker.status.state.isDatabaseReachable }
                #expect(worker.status.problems.contains("the database cannot be reached"))
                try disk.free()
                try await server.recover()
                try await eventually("it goes on") { worker.status.problems.isEmpty }
            }
            await worker.stop()
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
            try await server.stop()
        }

        /// At each statement of the transaction in turn, for any user.
        @Test(arguments: ["53100", "57014", "40P01", "XX000"])
        func theServerCannotGoOn(state: String) async throws {
            let file = try EmbeddedFile()
            let bench = try await bench(on: try PostgresCluster.shared(), file)
            try await bench.run(
                """
                CREATE SEQUENCE refusals;
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF nextval('refusals') % 11 < 2 THEN RAISE EXCEPTION 'on purpose' USING ERRCODE = '\(state)'; END IF;
                    RETURN NULL;
                END $$;
                DO $$ DECLARE t text; BEGIN
                    FOREACH t IN ARRAY ARRAY['ingest_offset', 'deduplication', 'measurement', 'event', 'ledger'] LOOP
                        EXECUTE format('CREATE TRIGGER refuse AFTER INSERT OR UPDATE ON %I FOR EACH STATEMENT '
                            'EXECUTE FUNCTION refuse()', t);
                    END LOOP;
                END $$
                """)
            let worker = Worker(bench.configuration { $0.backoffCap = .milliseconds(30) }, log: bench.log)
            let traffic = try await bench.underLoad(Traffic(seed: 6), before: .zero, after: .milliseconds(200)) { _ in }
            #expect(Int(try await bench.one("SELECT last_value FROM refusals")) ?? 0 > 11)
            #expect(worker.status.state.stopped.isEmpty)
            await worker.stop()
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
        }

        @Test func transactionsAreKilledAtRandomMoments() async throws {
            let file = try EmbeddedFile()
            let bench = try await bench(on: try PostgresCluster.shared(), file)
            let worker = Worker(bench.configuration { $0.maximumRecords = 60 }, log: bench.log)
            var random = Traffic.Seeded(20)
            let traffic = try await bench.underLoad(Traffic(seed: 7), pause: .milliseconds(4)) { _ in
                for _ in 0..<20 {
                    try await Task.sleep(for: .microseconds(.random(in: 5_000..<100_000, using: &random)))
                    try await bench.cutConnections()
                }
            }
            #expect(worker.lines.all.count { $0.contains("trying again") } >= 5)
            await worker.stop()
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
        }

        /// A COMMIT whose answer is lost takes effect after the processor has cut its batch in halves.
        @Test func aLostCommitOfALargerBatchIsNoContradiction() async throws {
            let file = try EmbeddedFile()
            let bench = try await bench(on: try PostgresCluster.shared(), file)
            // PostgreSQL's statement timeout does not hold for a COMMIT. One
            // outlasts its processor's patience, and is carried out all the same.
            try await bench.run(
                """
                CREATE SEQUENCE commits;
                CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF nextval('commits') = 3 THEN PERFORM pg_sleep(1.3); END IF;
                    RETURN NULL;
                END $$;
                CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON ingest_offset DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION late();
                """)
            let worker = Worker(
                bench.configuration {
                    $0.statementTimeout = .milliseconds(300)
                    $0.answerGrace = .milliseconds(200)
                }, log: bench.log)
            let traffic = try await bench.underLoad(Traffic(seed: 8)) { _ in
                try await eventually("the answer is late") {
                    worker.lines.contains(.error, "the server did not answer within 500 ms")
                }
            }
            #expect(worker.status.state.stopped.isEmpty)
            await worker.stop()
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
        }
    }
}
