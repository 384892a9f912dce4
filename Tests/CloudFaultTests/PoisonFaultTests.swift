import Audit
import Database
import EventLog
import Foundation
import Logging
import NIOCore
import Processor
import SyncModel
import TestSupport
import Testing

extension CloudFaults {
    /// What PostgreSQL refuses, what nobody can read, and numbers at their limits: kept, and nobody else waits for it.
    @Suite(.serialized) struct PoisonFaultTests {
        enum Refusal: String, CaseIterable, Sendable {
            case check, trigger, deferredTrigger

            var sql: String {
                let function = """
                    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                    BEGIN IF NEW.value = -666 THEN RAISE EXCEPTION 'a value that nobody wants'; END IF; RETURN NEW; END $$;
                    """
                return switch self {
                case .check: "ALTER TABLE measurement ADD CHECK (value IS DISTINCT FROM -666)"
                case .trigger:
                    function
                        + "CREATE TRIGGER refuse BEFORE INSERT ON measurement FOR EACH ROW EXECUTE FUNCTION refuse()"
                case .deferredTrigger:
                    function + """
                        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON measurement DEFERRABLE INITIALLY DEFERRED
                        FOR EACH ROW EXECUTE FUNCTION refuse()
                        """
                }
            }
        }

        private func bench(_ file: EmbeddedFile) async throws -> Bench {
            Bench(
                database: try await Bench.database(on: try PostgresCluster.shared()), log: try file.open(partitions: 8))
        }

        @Test(arguments: Refusal.allCases) func rowsThatPostgreSQLRefuses(refusal: Refusal) async throws {
            let file = try EmbeddedFile()
            let bench = try await bench(file)
            try await bench.run(refusal.sql)
            let worker = Worker(bench.configuration(), log: bench.log)
            var traffic = Traffic(seed: 31)
            traffic.refusedEvery = 97
            let sent = try await bench.underLoad(traffic, before: .milliseconds(400), after: .zero) { _ in }
            #expect(sent.refused > 1)
            #expect(worker.status.state.stopped.isEmpty)
            await worker.stop()
            try await bench.expectExactlyOnce(sent)
            let reasons = try await bench.one(
                "SELECT count(*) FROM event WHERE kind = 9 AND reason LIKE '%PostgreSQL%'")
            #expect(reasons == String(sent.refused))
            await bench.log.close()
        }

        /// Not a message's row: nothing can stand for it, so its partition stops, and only this one.
        @Test func aLineThatPostgreSQLRefusesStopsItsPartitionAlone() async throws {
            let file = try EmbeddedFile()
            let bench = try await bench(file)
            try await bench.run("ALTER TABLE ledger ADD CONSTRAINT never CHECK (device <> 'cursed')")
            let partition = Murmur2.partition(of: "cursed", partitions: 8)
            let worker = Worker(bench.configuration(), log: bench.log)
            let load = Load(Traffic(seed: 32), into: bench.log)
            let running = Task { try await load.run() }
            let source = Epoch(high: 6, low: 6)
            let line = LedgerLine(epoch: source, device: "cursed", sequences: 1...3, numbers: 1...3, reason: .damaged)
            try await bench.log.append([.ledger(gateway: "lone", line)])
            try await eventually("it stops") { worker.status.state.stopped[partition] != nil }
            await load.stop()
            try await running.value
            try await eventually("the others go on") {
                let offsets = try await bench.offsets()
                return try await bench.log.bounds().allSatisfy {
                    $0.partition == partition || offsets[$0.partition] == $0.next
                }
            }
            #expect(Array(worker.status.state.stopped.keys) == [partition])
            await worker.stop()

            try await bench.run("ALTER TABLE ledger DROP CONSTRAINT never")
            let next = Worker(bench.configuration(), log: bench.log)
            try await bench.drained()
            await next.stop()
            #expect(try await bench.one("SELECT count(*) FROM ledger WHERE device = 'cursed'") == "1")
            try await bench.run(
                "DELETE FROM deduplication WHERE device = 'cursed'; DELETE FROM ledger WHERE device = 'cursed'")
            try await bench.expectExactlyOnce(await load.traffic)
            await bench.log.close()
        }

        @Test func tooManyGapsStopThePartitionAlone() async throws {
            let file = try EmbeddedFile()
            let bench = try await bench(file)
            let partition = Murmur2.partition(of: "gappy", partitions: 8)
            let worker = Worker(bench.configuration { $0.maximumRanges = 200 }, log: bench.log)
            let load = Load(Traffic(seed: 33), into: bench.log)
            let running = Task { try await load.run() }
            let odd = (0..<300).map { UInt64($0 * 2 + 1) }
            try await bench.log.append(odd.map { .one(of: "gappy", $0, bytes: [49]) })
            try await eventually("it stops") { worker.status.state.stopped[partition] != nil }
            #expect(worker.lines.contains(.critical, "device gappy has more than 200 gaps"))
            await load.stop()
            try await running.value
            try await eventually("the others go on") {
                let offsets = try await bench.offsets()
                return try await bench.log.bounds().allSatisfy {
                    $0.partition == partition || offsets[$0.partition] == $0.next
                }
            }
            #expect(Array(worker.status.state.stopped.keys) == [partition])
            await worker.stop()

            // The gaps are filled, and the bound is raised.
            try await bench.log.append(odd.map { .one(of: "gappy", $0 + 1, bytes: [49]) })
            let next = Worker(bench.configuration(), log: bench.log)
            try await bench.drained()
            await next.stop()
            let report = try await Audit(database: bench.database, log: bench.log).run()
            #expect(report.closed, "\(report)")
            #expect(report.stored == UInt64(await load.traffic.messageCount) + 600)
            await bench.log.close()
        }

        @Test func recordsThatCannotBeDecodedAreKeptAndHoldNobodyUp() async throws {
            let file = try EmbeddedFile()
            let bench = try await bench(file)
            let worker = Worker(bench.configuration(), log: bench.log)
            var random = Traffic.Seeded(34)
            let good = LogEntry.one(of: "d", 1, bytes: [49]).encoded()
            let sent = try await bench.underLoad(Traffic(seed: 34)) { _ in
                for number in 0..<50 {
                    // Noise, the beginning of an entry, nothing at all, an entry with something behind it.
                    let value =
                        switch number % 4 {
                        case 0: ByteBuffer(bytes: (0..<30).map { _ in UInt8.random(in: 0x80...0xFF, using: &random) })
                        case 1: good.getSlice(at: 0, length: Int.random(in: 1..<good.readableBytes, using: &random))!
                        case 2: ByteBuffer()
                        default: ByteBuffer(bytes: Array(good.readableBytesView) + [0xFF])
                        }
                    try await bench.log.append([LogRecord(key: "d\(number)", value: value)])
                }
            }
            #expect(worker.lines.contains(.critical, "Records of the log cannot be decoded"))
            await worker.stop()
            #expect(try await bench.one("SELECT count(*) FROM rejected_record WHERE reason <> ''") == "50")
            let report = try await Audit(database: bench.database, log: bench.log, accounting: { sent.accounting })
                .run()
            #expect(
                report.problems == ["50 records of the event log could not be decoded: see the table rejected_record"])
            #expect(report.lost == 0 && report.duplicated == 0 && report.stored == UInt64(sent.messageCount))
            try await bench.run("DELETE FROM rejected_record")
            try await bench.expectExactlyOnce(sent)
            await bench.log.close()
        }

        @Test func payloadsOfEveryKindAndNumbersAtTheirLimits() async throws {
            let file = try EmbeddedFile()
            let bench = try await bench(file)
            let worker = Worker(
                bench.configuration {
                    $0.metricsPerMessage = 3
                    $0.metricsPerDevice = 4
                }, log: bench.log)
            let long = String(repeating: "k", count: 600)
            // Payload and the kind of its event (decision 8); 0: rows of numbers alone.
            let payloads: [(String, Int)] = [
                ("{\"a\":1}", 0), ("{\"a\":1,\"s\":\"x\"}", 1), ("[1]", 1), ("", 2), ("no json", 2),
                ("{\"a\":1,\"b\":2,\"c\":3,\"d\":4}", 3), ("{\"b\":1,\"c\":2,\"d\":3}", 0), ("{\"e\":1,\"f\":2}", 4),
                (String(repeating: "[", count: 100), 5), ("{\"a\":1,\"a\":2}", 6), ("{\"a\":\"\\u0000\"}", 7),
                ("{\"\(long)\":1}", 8), ("{\"a\":9007199254740993}", 0), ("{\"a\":1e999}", 0), ("{\"a\":1e-999}", 0),
                ("{\"a\":-9223372036854775808}", 0), ("{\"a\":\(String(repeating: "9", count: 3_000))}", 0),
            ]
            let limit = UInt64(Int64.max - 1)
            let sent = try await bench.underLoad(Traffic(seed: 35)) { _ in
                for (index, payload) in payloads.enumerated() {
                    try await bench.log.append([.one(of: "kinds", UInt64(index + 1), bytes: Array(payload.0.utf8))])
                }
                let far = Epoch(high: .max, low: .max)
                try await bench.log.append([
                    .one(of: "far", limit, gateway: "limits", epoch: far, bytes: [49]),
                    .one(of: "near", 1, gateway: "limits", epoch: far, bytes: [49]),
                    .ledger(
                        gateway: "limits",
                        LedgerLine(
                            epoch: far, device: "near", sequences: 1...limit, numbers: 1...limit, reason: .damaged)),
                    .account(gateway: "limits", EpochAccount(epoch: far, lastSequence: limit, isClosed: true)),
                    .correction(
                        gateway: "limits",
                        ClockCorrection(
                            epoch: far, sequences: 1...limit, offset: SyncLimits.clockOffsets.upperBound)),
                ])
            }
            #expect(worker.status.problems.isEmpty)
            await worker.stop()
            let kinds = try await bench.rows(
                "SELECT sequence, kind FROM event e JOIN source s ON s.id = e.source JOIN gateway g ON g.id = s.gateway_id "
                    + "WHERE g.name = 'lone' ORDER BY sequence")
            let expected = payloads.enumerated().filter { $1.1 > 0 }.map { ["\($0 + 1)", "\($1.1)"] }
            #expect(kinds == expected)
            #expect(
                try await bench.rows(
                    "SELECT sequence FROM measurement e JOIN source s ON s.id = e.source JOIN gateway g ON g.id = s.gateway_id "
                        + "WHERE g.name = 'limits' ORDER BY sequence") == [["1"], ["\(limit)"]])
            for gateway in ["plant-0", "plant-1", "plant-2", "lone"] {
                let report = try await Audit(
                    database: bench.database, gateway: gateway, accounting: { sent.accounting }
                ).run()
                #expect(report.closed, "\(gateway): \(report)")
            }
            await bench.log.close()
        }

        /// By hand, or by a schedule that thought nobody would write there any more.
        @Test func aDaysPartitionDroppedUnderLoadIsMadeAgain() async throws {
            let file = try EmbeddedFile()
            let bench = try await bench(file)
            let worker = Worker(bench.configuration(), log: bench.log)
            let before = LogEntry.one(of: "d", 1, bytes: [49])
            try await bench.log.append([before])
            try await eventually("it is stored") { worker.status.state.messages == 1 }
            let tables = try await bench.rows(
                "SELECT c.oid::regclass FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
                    + "WHERE i.inhparent IN ('measurement'::regclass, 'event'::regclass) AND c.relkind = 'r'")
            #expect(!tables.isEmpty)
            for table in tables { try await bench.run("DROP TABLE \(table[0])") }
            try await bench.log.append([.one(of: "d", 2, bytes: [50])])
            try await bench.log.append([.one(of: "d", 3, bytes: Array("text".utf8))])
            try await bench.drained()
            #expect(worker.status.problems.isEmpty)
            await worker.stop()
            #expect(try await bench.one("SELECT count(*) FROM measurement") == "1")
            #expect(try await bench.one("SELECT kind FROM event") == "2")
            await bench.log.close()
        }
    }
}
