import EventLog
import Flow
import Processor
import TestSupport
import Testing

extension CloudFaults {
    /// What is stored while the database is too slow for all, by several processors, and through their ends.
    @Suite(.serialized) struct SampleFaultTests {
        /// A processor that dies in the middle of a complement is, to the database, a connection that ends in its transaction;
        /// to the log, a reader that leaves. Both happen here again and again.
        @Test func twoProcessorsSampleAndStoreTheRestThroughTheirEnds() async throws {
            let kafka = try FaultyKafka(partitions: 4, brokers: 1)
            let log = try kafka.open()
            let bench = Bench(database: try await Bench.database(on: try PostgresCluster.shared()), log: log)
            let start = { (name: String) in
                Worker(
                    bench.configuration(name) {
                        $0.fallback.mode = .sample
                        $0.fallback.breaker.waitInOpen = 1_000_000
                        $0.fallback.slowCall = 100_000
                        $0.sampleInterval = .milliseconds(1)
                        $0.maintenanceInterval = .milliseconds(500)
                    }, log: log)
            }
            var workers = [start("one"), start("two")]
            try await eventually("both have partitions") {
                workers.allSatisfy { !$0.status.state.offsets.isEmpty }
            }
            let traffic = try await bench.underLoad(pause: .milliseconds(40), drainedWithin: 90) { _ in
                // The rest is stored slowly at its end, so that it is met there. A switch, since dropping a trigger of a
                // partitioned table deadlocks with its writers.
                try await bench.run(
                    """
                    CREATE TABLE switch (is_slow boolean); INSERT INTO switch VALUES (true);
                    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
                    BEGIN
                        IF (SELECT is_slow FROM switch) THEN PERFORM pg_sleep(0.004); END IF;
                        RETURN NEW;
                    END $$;
                    CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
                    BEGIN PERFORM pg_sleep(0.01); RETURN OLD; END $$;
                    CREATE TRIGGER late BEFORE DELETE ON sample_range FOR EACH ROW EXECUTE FUNCTION late();
                    """)
                try await bench.run(
                    "CREATE TRIGGER slow BEFORE INSERT ON measurement FOR EACH ROW EXECUTE FUNCTION slow()")
                try await eventually("samples of several partitions are stored", within: 40) {
                    let found = try await bench.rows(
                        "SELECT count(*)::int8 AS n, count(DISTINCT partition)::int8 AS p FROM sample_range")
                    return Int(found[0][0]) ?? 0 > 10 && Int(found[0][1]) ?? 0 > 1
                }
                try await bench.run("UPDATE switch SET is_slow = false")
                for round in 0..<3 {
                    try await eventually("a complement is under way", within: 40) {
                        try await Self.isComplementing(bench)
                    }
                    try await bench.cutConnections()
                    guard round == 1 else { continue }
                    await workers[0].stop()
                    workers[0] = start("one")
                }
                try await bench.run("DROP TRIGGER late ON sample_range")
            }
            try await eventually("the rest is stored", within: 60) {
                try await bench.one("SELECT count(*)::int8 FROM sample_range") == "0"
            }
            for worker in workers { await worker.stop() }
            try await bench.expectExactlyOnce(traffic)
            try await FaultyKafka.expectNothingForgotten(log)
            await log.close()
        }

        private static func isComplementing(_ bench: Bench) async throws -> Bool {
            try await bench.one(
                """
                SELECT count(*)::int8 FROM pg_stat_activity WHERE datname = current_database()
                    AND application_name = 'sluice-processor' AND wait_event = 'PgSleep' AND query LIKE '%sample_range%'
                """) != "0"
        }
    }
}
