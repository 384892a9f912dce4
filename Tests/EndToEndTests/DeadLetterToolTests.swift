import EventLog
import Foundation
import Logging
import NIOCore
import SyncModel
import Testing

extension EndToEnd {
    /// `sluice dlq` as an operator runs it after an outage, on one machine with the embedded log and a folder of objects.
    @Suite(.serialized) struct DeadLetterToolTests {
        /// Of a range of the log that becomes one object.
        private static let range = 1_024
        /// Two whole ranges, and a part of one that stays in the log.
        private static let messages = 2 * range + 100
        /// Messages that PostgreSQL refuses: one in an object, one in the log's rest.
        private static let refused = [500, 2 * range + 50]

        private static func fill(_ path: String) async throws {
            let log = try EmbeddedEventLog.open(
                path: path, partitions: 1, retention: nil,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            try await log.append(
                (1...messages).map { number in
                    let entry = LogEntry.messages(
                        DeviceMessages(
                            gateway: "g1", epoch: Epoch(high: 1, low: 1), device: "d1", lane: .live,
                            messages: [
                                SyncedMessage(
                                    sequence: UInt64(number), number: UInt64(number), qos: 1,
                                    wallTime: Int64(Date().timeIntervalSince1970 * 1e6), topic: ByteBuffer(string: "t"),
                                    payload: ByteBuffer(string: "{\"n\":\(refused.contains(number) ? -666 : number)}"))
                            ]))
                    return LogRecord(key: entry.routingKey, value: entry.encoded())
                })
            await log.close()
        }

        /// Both kinds of dead letters are there afterwards, and the cloud has ended.
        private static func outage(_ cluster: Cluster) async throws {
            let file = cluster.cloudConfiguration
            try
                (String(contentsOf: file, encoding: .utf8)
                .replacingOccurrences(of: "partitions: 32", with: "partitions: 1")
                .replacingOccurrences(of: "openFor: 1s }", with: "openFor: 1s }, fallback: deadLetter")
                + "\nobjects: { folder: { path: \(objects(cluster)) } }\n")
                .write(to: file, atomically: true, encoding: .utf8)
            try await fill(log(cluster))
            try await cluster.query(
                """
                ALTER TABLE measurement ADD CONSTRAINT sane CHECK (value <> -666);
                CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$;
                CREATE TRIGGER no BEFORE INSERT ON measurement FOR EACH ROW EXECUTE FUNCTION no();
                """)
            try await cluster.startCloud(waiting: false)
            _ = try await eventually("objects are recorded", within: 60) { () -> Bool? in
                try await cluster.count("SELECT count(*) FROM dead_letter") == 2 ? true : nil
            }
            try await cluster.query("DROP TRIGGER no ON measurement")
            _ = try await eventually("the log is processed", within: 60) { () -> Bool? in
                try await cluster.count("SELECT next_offset FROM ingest_offset") == messages ? true : nil
            }
            #expect(try await cluster.stopCloud() == 0)
        }

        private static func log(_ cluster: Cluster) -> String { cluster.folder.path + "/cloud/log.db" }
        private static func objects(_ cluster: Cluster) -> String { cluster.folder.path + "/objects" }

        private func dlq(_ cluster: Cluster, _ arguments: String...) async throws -> ToolResult {
            try await run(
                Binaries.path("sluice"), ["dlq"] + arguments + ["--database", cluster.database], within: 60)
        }

        private func replay(_ cluster: Cluster, _ arguments: String...) async throws -> ToolResult {
            try await run(
                Binaries.path("sluice"),
                ["dlq", "replay", "--config", cluster.cloudConfiguration.path, "--database", cluster.database]
                    + arguments, within: 60)
        }

        private func json(_ result: ToolResult) throws -> [[String: Any]] {
            try #require(JSONSerialization.jsonObject(with: Data(result.bytes)) as? [[String: Any]], "\(result.output)")
        }

        private func audit(_ cluster: Cluster) async throws -> AuditResult {
            try AuditResult(
                await run(
                    Binaries.path("sluice"),
                    [
                        "audit", "--database", cluster.database, "--log", Self.log(cluster), "--partitions", "1",
                        "--config", cluster.cloudConfiguration.path, "--closed", "--json",
                    ], within: 60))
        }

        /// Rows, messages that have some, and messages that were refused.
        private func stored(_ cluster: Cluster) async throws -> [String] {
            try await cluster.query(
                """
                SELECT count(*), count(DISTINCT sequence), (SELECT count(*) FROM event WHERE kind = 9) FROM measurement
                """)[0]
        }

        @Test func listedCheckedReplayedOnceAndNothingIsLostOnTheWay() async throws {
            try await withCluster(.init(ownsPostgres: true)) { cluster in
                #expect(try await dlq(cluster, "list").output == "there are no dead letters\n")
                try await Self.outage(cluster)
                var audit = try await audit(cluster)
                #expect(audit.status == 0 && audit["deadLettersWaiting"] == 2 * Self.range, "\(audit)")
                try await listing(cluster)
                try await wrongRequests(cluster)
                try await replayWithoutTheDatabase(cluster)
                try await damaged(cluster)

                let rest = try await replay(cluster)
                #expect(rest.status == 0 && rest.output.contains("1024 messages, 0 had been stored before"), "\(rest)")
                let full = ["\(Self.messages - 2)", "\(Self.messages - 2)", "2"]
                #expect(try await stored(cluster) == full)
                // Again, by name and without: nothing is doubled, and that is no failure.
                let again = try await replay(cluster, "--id", "1", "--id", "2", "--json")
                let outcomes = try json(again).map { $0["outcome"] as? String }
                #expect(again.status == 0 && outcomes == ["not waiting", "not waiting"], "\(again)")
                let none = try await replay(cluster)
                #expect(none.status == 0 && none.output == "no dead letter waits\n", "\(none)")
                #expect(try await stored(cluster) == full)
                audit = try await self.audit(cluster)
                #expect(audit.status == 0 && audit["deadLettersWaiting"] == 0 && audit["lost"] == 0, "\(audit)")
                #expect(try json(await dlq(cluster, "list", "--kind", "message", "--json")).count == 2)
                #expect(try await dlq(cluster, "list", "--waiting").output == "no dead letter is as asked\n")
            }
        }

        private func listing(_ cluster: Cluster) async throws {
            let text = try await dlq(cluster, "list")
            #expect(text.status == 0 && text.output.contains("gateway g1, device d1, sequence 2098"), "\(text)")
            #expect(text.output.contains("3 of 3 dead letters; of these 2 wait for sluice dlq replay"), "\(text)")
            #expect(text.output.contains("no space") && text.output.contains("dead-letters/"), "\(text)")
            let all = try json(await dlq(cluster, "list", "--json"))
            #expect(all.map { $0["kind"] as? String } == ["message", "range", "range"])
            let ranges = try json(await dlq(cluster, "list", "--json", "--kind", "range", "--reason", "NO SPACE"))
            #expect(ranges.map { $0["firstOffset"] as? Int } == [Self.range, 0])
            #expect(try json(await dlq(cluster, "list", "--json", "--waiting", "--before", "tomorrow")).count == 2)
            #expect(try json(await dlq(cluster, "list", "--json", "--since", "tomorrow")).isEmpty)
            #expect(try json(await dlq(cluster, "list", "--json", "--reason", "100%")).isEmpty)
            let one = try await dlq(cluster, "list", "--limit", "1")
            #expect(one.output.contains("1 of 3 dead letters"), "\(one)")
            let wrong = try await dlq(cluster, "list", "--since", "whenever")
            #expect(wrong.status == 64 && wrong.output.contains("whenever"), "\(wrong)")
        }

        private func wrongRequests(_ cluster: Cluster) async throws {
            let before = try await stored(cluster)
            let dry = try await replay(cluster, "--dry-run")
            #expect(dry.status == 0 && dry.output.contains("readable  1024 records"), "\(dry)")
            let unknown = try await replay(cluster, "--id", "99")
            #expect(
                unknown.status == 1 && unknown.output.contains("99  failed: there is no such dead letter"), "\(unknown)"
            )
            let message = try await replay(cluster, "--id", "3")
            #expect(message.status == 1 && message.output.contains("in the table event, kind 9"), "\(message)")
            let bare = cluster.folder.appendingPathComponent("bare.yaml")
            try String(contentsOf: cluster.cloudConfiguration, encoding: .utf8)
                .split(separator: "\n").filter { !$0.hasPrefix("objects:") }.joined(separator: "\n")
                .replacingOccurrences(of: ", fallback: deadLetter", with: "")
                .write(to: bare, atomically: true, encoding: .utf8)
            let nowhere = try await run(
                Binaries.path("sluice"), ["dlq", "replay", "--config", bare.path, "--database", cluster.database])
            #expect(nowhere.status == 64 && nowhere.output.contains("names no object store"), "\(nowhere)")
            #expect(try await stored(cluster) == before)
        }

        private func replayWithoutTheDatabase(_ cluster: Cluster) async throws {
            let before = try await stored(cluster)
            try await Postgres.script("stop", cluster.postgres)
            let away = try await replay(cluster)
            #expect(away.status == 1 && away.output.contains("PostgreSQL"), "\(away)")
            try await Postgres.script("start", cluster.postgres)
            #expect(try await stored(cluster) == before)
        }

        /// The other one is replayed all the same; and this one, when its bytes are there again.
        private func damaged(_ cluster: Cluster) async throws {
            let object = try #require(
                try await cluster.query("SELECT object FROM dead_letter WHERE id = 2").first?.first)
            let path = Self.objects(cluster) + "/" + object
            let whole = try Data(contentsOf: URL(fileURLWithPath: path))
            var bytes = whole
            bytes[bytes.count / 2] ^= 0x55
            try bytes.write(to: URL(fileURLWithPath: path))
            let result = try await replay(cluster)
            #expect(result.status == 1, "\(result)")
            #expect(result.output.contains("1024 messages, 0 had been stored before, 1 of them refused"), "\(result)")
            #expect(result.output.contains("\(object)  failed: the object is damaged"), "\(result)")
            let unsound = try await audit(cluster)
            #expect(unsound.status == 1 && unsound.output.contains("damaged"), "\(unsound)")
            try FileManager.default.removeItem(atPath: path)
            let missing = try await replay(cluster, "--dry-run")
            #expect(missing.status == 1 && missing.output.contains("is not in the object store"), "\(missing)")
            try whole.write(to: URL(fileURLWithPath: path))
        }
    }
}
