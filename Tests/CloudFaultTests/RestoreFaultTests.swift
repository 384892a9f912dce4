import EventLog
import Foundation
import Logging
import Processor
import TestSupport
import Testing

extension CloudFaults {
    /// The database comes back as it was some time ago.
    @Suite(.serialized) struct RestoreFaultTests {
        /// Nobody else may be connected to a database that is copied or renamed.
        private func alone(_ bench: Bench, _ statements: [String]) async throws {
            let cluster = try PostgresCluster.shared()
            let name = bench.databaseName
            try await Bench.administration(
                cluster,
                [
                    "ALTER DATABASE \(name) ALLOW_CONNECTIONS false",
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '\(name)'",
                ])
            try await eventually("it is alone") {
                try await Bench.rows("SELECT pid FROM pg_stat_activity WHERE datname = '\(name)'", cluster.url).isEmpty
            }
            try await Bench.administration(cluster, statements + ["ALTER DATABASE \(name) ALLOW_CONNECTIONS true"])
        }

        /// - Parameter takesOver: a second processor claims the partitions between backup and restore.
        @Test(arguments: [false, true])
        func itStopsWithAClearMessageAndRefillsFromTheLog(takesOver: Bool) async throws {
            let file = try EmbeddedFile()
            let bench = Bench(
                database: try await Bench.database(on: try PostgresCluster.shared()), log: try file.open())
            let name = bench.databaseName
            let configuration = bench.configuration { $0.maintenanceInterval = .milliseconds(200) }
            var worker = Worker(configuration, log: bench.log)
            var traffic = Traffic(seed: 61)
            for _ in 0..<10 { try await bench.log.append(traffic.next(40)) }
            try await bench.drained()
            try await alone(bench, ["CREATE DATABASE \(name)_backup TEMPLATE \(name)"])
            if takesOver {
                await worker.stop()
                worker = Worker(configuration, log: bench.log)
            }
            for _ in 0..<10 { try await bench.log.append(traffic.next(40)) }
            try await bench.log.append(traffic.rest())
            try await bench.drained()
            let stored = try await bench.one("SELECT count(*) FROM measurement")

            try await alone(
                bench, ["DROP DATABASE \(name)", "ALTER DATABASE \(name)_backup RENAME TO \(name)"])
            // Nothing comes any more, and it is noticed all the same, wherever the database had been ahead.
            let offsets = try await bench.offsets()
            let ahead = try await bench.log.bounds().filter { takesOver || offsets[$0.partition] != $0.next }
            #expect(ahead.count > 4)
            try await eventually("the restore is noticed") {
                Set(worker.status.state.stopped.keys) == Set(ahead.map(\.partition))
            }
            #expect(worker.lines.contains(.critical, "was the database restored to an earlier point?"))
            let less = try await bench.one("SELECT count(*) FROM measurement")
            #expect(Int(less) ?? 0 < Int(stored) ?? 0)
            await worker.stop()

            let next = Worker(bench.configuration("three"), log: bench.log)
            try await bench.drained()
            await next.stop()
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
        }
    }
}
