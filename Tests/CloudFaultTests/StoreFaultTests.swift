import Database
import DeadLetters
import EventLog
import Flow
import Foundation
import Logging
import ObjectStore
import Operations
import Processor
import TestSupport
import Testing

extension CloudFaults {
    /// The object store is away too while the database is, over S3's protocol.
    @Suite(.enabled(if: S3Server.shared != nil, "\(S3Server.reason)")) struct StoreFaultTests {
        @Test func theStoreIsDownWhileTheBreakerIsOpen() async throws {
            let server = try #require(S3Server.shared)
            let link = CutLink(to: try #require(URLComponents(string: server.endpoint)?.port))
            let file = try EmbeddedFile()
            var s3 = CloudConfiguration.S3(bucket: server.bucket)
            s3.endpoint = "http://127.0.0.1:\(try await link.open())"
            s3.region = server.region
            s3.prefix = "letters-\(UUID().uuidString)/"
            s3.credentialsFile = file.folder + "/keys"
            try server.writeKeys(to: s3.credentialsFile ?? "")
            let objects = try S3ObjectStore(s3)

            let postgres = try await FaultyPostgres.start()
            let bench = Bench(
                database: try await Bench.database(on: postgres.cluster), log: try file.open(partitions: 2))
            let configuration = bench.configuration { $0.fallback.mode = .deadLetter }
            let worker = Worker(configuration, log: bench.log, objects: objects)
            let traffic = try await bench.underLoad { _ in
                try await postgres.stop()
                link.cut()
                try await eventually("objects are refused") {
                    worker.lines.contains(.error, "A dead letter cannot be written")
                }
                #expect(worker.status.state.breaker != nil)
                link.mend()
                try await eventually("objects are written") { try await Self.letters(objects) > 1 }
                link.cut()
                try await postgres.startAgain()
                try await eventually("messages are stored again, without the store") {
                    guard worker.status.state.breaker == nil else { return false }
                    return Int(try await bench.one("SELECT count(*)::int8 FROM dead_letter")) ?? 0 > 1
                }
            }
            await worker.stop()
            link.mend()
            let stored = try await Self.replay(configuration, objects)
            #expect(stored > 1_000)
            try await bench.expectExactlyOnce(traffic)
            #expect(try await Self.replay(configuration, objects) == 0)
            await link.close()
            await bench.log.close()
            try await postgres.stop()
        }

        private static func letters(_ objects: S3ObjectStore) async throws -> Int {
            try await objects.list(prefix: "", after: nil, maximum: 100).count { !$0.key.hasSuffix("/") }
        }

        /// - Returns: how many messages were stored.
        private static func replay(
            _ configuration: ProcessorConfiguration, _ objects: S3ObjectStore
        ) async throws -> Int {
            let connection = try await PostgresConnection.connect(
                .unlimited(url: configuration.database, applicationName: "replay"))
            let replay = DeadLetterReplay(configuration: configuration, files: DeadLetterFiles(store: objects))
            var stored = 0
            for (id, entry) in try await DeadLetterTable.waiting(on: connection) {
                guard case .replayed(let messages, _, _) = try await replay.replay(id, entry, on: connection) else {
                    Issue.record("\(id) was not replayed")
                    continue
                }
                stored += messages
            }
            await connection.close()
            return stored
        }
    }
}
