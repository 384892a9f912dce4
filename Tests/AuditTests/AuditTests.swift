import Audit
import Database
import EventLog
import Foundation
import Logging
import NIOCore
import SyncModel
import TestSupport
import Testing

/// A migrated database with the rows of a few messages, written as the processor writes them.
struct Warehouse {
    let url: String
    let connection: PostgresConnection
    static let epoch = "00000000000000010000000000000002"

    init() async throws {
        url = try PostgresCluster.shared().makeDatabase()
        connection = try await PostgresConnection.connect(.init(url: url, applicationName: "tests"))
        _ = try await Migrator(path: MigrationFile.directory(given: nil)).up(on: connection)
        // Messages 1 to 10 of device d: a number n, a number m, and an event; 11 and 12 were dropped.
        try await connection.run(
            """
            SELECT ensure_partitions('2026-01-01');
            INSERT INTO gateway (name) VALUES ('g');
            INSERT INTO source (gateway_id, epoch) VALUES (1, '\(Self.epoch)');
            INSERT INTO device (name, generation) VALUES ('d', 1);
            INSERT INTO metric (device_id, topic, path) VALUES (1, 't', 'n'), (1, 't', 'm');
            INSERT INTO measurement (time, sequence, value, device_id, metric_id, source, part, parts, flags)
                SELECT '2026-01-01', s, s, 1, m, 1, m - 1, 3, 0 FROM generate_series(1, 10) s, generate_series(1, 2) m;
            INSERT INTO event (time, sequence, device_id, source, part, parts, flags, kind, topic, body)
                SELECT '2026-01-01', s, 1, 1, 2, 3, 0, 1, 't', '{"s": "x"}' FROM generate_series(1, 10) s;
            INSERT INTO ledger (source, device, sequences, numbers, reason) VALUES (1, 'd', '[11,12]', '[11,12]', 1);
            INSERT INTO deduplication (source, device, numbers) VALUES (1, 'd', '{[1,13)}');
            INSERT INTO gateway_epoch (source, last_sequence, closed) VALUES (1, 12, true);
            """)
    }

    func audit(journals: [String] = [], accounting: [GatewayAccounting] = []) async throws -> AuditReport {
        try await Audit(database: url, journals: journals, accounting: { accounting }).run()
    }
}

/// A file that goes with the test.
final class TemporaryFile {
    let path = NSTemporaryDirectory() + "sluice-audit-\(UInt64.random(in: 0...UInt64.max))"

    init(_ lines: [String]) throws {
        try (lines.joined(separator: "\n") + "\n").write(toFile: path, atomically: true, encoding: .utf8)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

func journal(_ numbers: ClosedRange<Int>, acknowledged: Bool = true) -> [String] {
    let events = acknowledged ? ["publish", "acknowledge"] : ["publish"]
    return numbers.flatMap { n in events.map { #"{"event":"\#($0)","device":"d","n":\#(n),"qos":1,"at":0}"# } }
}

@Suite struct AuditTests {
    @Test func aWholeDatabaseCloses() async throws {
        let warehouse = try await Warehouse()
        let report = try await warehouse.audit()
        #expect(report.closed, "\(report.problems)")
        #expect(report.stored == 10 && report.rows == 30 && report.dropped == ["bufferFull": 2])
        #expect(report.acknowledged == 12)
        let json = try JSONSerialization.jsonObject(with: JSONEncoder().encode(report)) as? [String: Any]
        for key in [
            "acknowledged", "buffered", "inLog", "stored", "rows", "deadLettered", "dropped", "redelivered",
            "duplicated", "lost", "gaps", "closed",
        ] {
            #expect(json?[key] != nil, "\(key)")
        }
    }

    @Test(arguments: [
        "DELETE FROM measurement WHERE sequence = 5 AND part = 1", "DELETE FROM event WHERE sequence = 10",
        "DELETE FROM measurement WHERE sequence = 7; DELETE FROM event WHERE sequence = 7",
        "DELETE FROM ledger", "UPDATE gateway_epoch SET last_sequence = 13",
    ])
    func anythingDeletedIsFound(change: String) async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(change)
        let report = try await warehouse.audit()
        #expect(report.lost >= 1 && !report.sound)
        #expect(!report.gaps.isEmpty)
    }

    @Test(arguments: [
        "INSERT INTO measurement SELECT * FROM measurement WHERE sequence = 5 AND part = 1",
        "INSERT INTO event SELECT * FROM event WHERE sequence = 10",
        "UPDATE measurement SET sequence = 4 WHERE sequence = 5 AND part = 0",
    ])
    func anythingDoubledIsFound(change: String) async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(change)
        let report = try await warehouse.audit()
        #expect(report.duplicated == 1 && !report.sound)
    }

    @Test func journalsAreComparedByTheirNumbers() async throws {
        let warehouse = try await Warehouse()
        let whole = try TemporaryFile(journal(1...10))
        var report = try await warehouse.audit(journals: [whole.path])
        #expect(report.closed && report.published == 10 && report.acknowledged == 10)
        // Two were dropped with a reason: two acknowledged ones without a row are explained, a third is not.
        let explained = try TemporaryFile(journal(1...12))
        #expect(try await warehouse.audit(journals: [explained.path]).closed)
        let more = try TemporaryFile(journal(1...13))
        report = try await warehouse.audit(journals: [more.path])
        #expect(report.lost == 1 && !report.sound)
        let less = try TemporaryFile(journal(1...9))
        #expect(try await warehouse.audit(journals: [less.path]).sound == false, "n 10 was never published")
        // The same number under another sequence, without and with a resend.
        try await warehouse.connection.run("UPDATE measurement SET value = 3 WHERE sequence = 4 AND part = 0")
        let three = journal(1...3) + journal(4...4, acknowledged: false) + journal(5...10)
        let once = try TemporaryFile(three)
        #expect(try await warehouse.audit(journals: [once.path]).duplicated == 1)
        let again = try TemporaryFile(three + [#"{"event":"resend","device":"d","n":3,"qos":1,"at":0}"#])
        report = try await warehouse.audit(journals: [again.path])
        #expect(report.redelivered == 1 && report.duplicated == 0 && report.closed, "\(report.problems)")
    }

    @Test func numbersOfMessagesThatBecameEventsAreFound() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            """
            DELETE FROM measurement WHERE sequence = 5; DELETE FROM event WHERE sequence = 5;
            INSERT INTO event (time, sequence, device_id, source, part, parts, flags, kind, topic, body)
                VALUES ('2026-01-01', 5, 1, 1, 0, 1, 0, 4, 't', '{"n": 5}');
            DELETE FROM measurement WHERE sequence = 6; DELETE FROM event WHERE sequence = 6;
            INSERT INTO event (time, sequence, device_id, source, part, parts, flags, kind, topic, bytes, reason)
                VALUES ('2026-01-01', 6, 1, 1, 0, 1, 0, 9, 't', '\\x00', 'refused');
            """)
        let file = try TemporaryFile(journal(1...10))
        let report = try await warehouse.audit(journals: [file.path])
        #expect(report.closed && report.deadLettered == 1, "\(report.problems)")
    }

    @Test func theGatewaysBufferCounts() async throws {
        let warehouse = try await Warehouse()
        let entry = GatewayAccounting.EpochEntry(epoch: Warehouse.epoch, lastSequence: 15, buffered: [[13, 15]])
        let accounting = GatewayAccounting(gateway: "g", epochs: [entry], bufferedMessages: 3, bufferedBytes: 9)
        let report = try await warehouse.audit(accounting: [accounting])
        #expect(report.sound && !report.closed && report.buffered == 3)
        let broken = GatewayAccounting(
            gateway: "g", epochs: [.init(epoch: "none", lastSequence: 1, buffered: [])], bufferedMessages: 0,
            bufferedBytes: 0)
        #expect(try await warehouse.audit(accounting: [broken]).sound == false)
    }

    @Test func whatIsInTheLogIsOnItsWay() async throws {
        let warehouse = try await Warehouse()
        let folder = NSTemporaryDirectory() + "sluice-audit-log-\(UInt64.random(in: 0...UInt64.max))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let log = try EmbeddedEventLog.open(path: folder + "/log.db", partitions: 1, logger: Logger(label: "test"))
        func entry(_ sequence: UInt64) -> LogRecord {
            let message = SyncedMessage(
                sequence: sequence, number: sequence, qos: 1, wallTime: 0, topic: ByteBuffer(string: "t"),
                payload: ByteBuffer(string: "1"))
            let entry = LogEntry.messages(
                DeviceMessages(
                    gateway: "g", epoch: Epoch(high: 1, low: 2), device: "d", lane: .live, messages: [message]))
            return LogRecord(key: entry.routingKey, value: entry.encoded())
        }
        let dropped = LogEntry.ledger(
            gateway: "g",
            LedgerLine(
                epoch: Epoch(high: 1, low: 2), device: "d", sequences: 15...15, numbers: 15...15, reason: .damaged))
        try await log.append([entry(10), entry(13), entry(14), LogRecord(key: "d", value: dropped.encoded())])
        let accounting = GatewayAccounting(
            gateway: "g", epochs: [.init(epoch: Warehouse.epoch, lastSequence: 15, buffered: [])], bufferedMessages: 0,
            bufferedBytes: 0)
        let audit = Audit(database: warehouse.url, log: log, accounting: { [accounting] })
        var report = try await audit.run()
        #expect(report.sound && report.inLog == 2 && !report.closed, "\(report.problems)")
        // The first two are said to be stored: 13 is not.
        let incarnation = try await log.incarnation()
        try await warehouse.connection.run("INSERT INTO ingest_offset VALUES (0, 2, 1, '\(incarnation)')")
        report = try await audit.run()
        #expect(report.lost == 1 && report.inLog == 1 && report.gaps.map(\.first) == [13])
        try await warehouse.connection.run("UPDATE ingest_offset SET next_offset = 9")
        #expect(try await audit.run().problems.contains { $0.contains("holds 0 to 4, but 9") })
        try await warehouse.connection.run("UPDATE ingest_offset SET incarnation = 'another'")
        #expect(try await audit.run().problems.contains { $0.contains("is another one") })
        await log.close()
    }

    @Test func waitingEndsWhenNothingCanChange() async throws {
        let warehouse = try await Warehouse()
        let entry = GatewayAccounting.EpochEntry(epoch: Warehouse.epoch, lastSequence: 13, buffered: [])
        let accounting = GatewayAccounting(gateway: "g", epochs: [entry], bufferedMessages: 0, bufferedBytes: 0)
        let audit = Audit(database: warehouse.url, accounting: { [accounting] })
        let connection = warehouse.connection
        async let report = audit.run(patience: .seconds(20))
        try await Task.sleep(for: .milliseconds(100))
        try await connection.run(
            """
            BEGIN; UPDATE deduplication SET numbers = '{[1,14)}';
            INSERT INTO event (time, sequence, device_id, source, part, parts, flags, kind, topic, body)
                VALUES ('2026-01-01', 13, 1, 1, 0, 1, 0, 1, 't', '{}'); COMMIT
            """)
        #expect(try await report.closed)
        try await connection.run("DELETE FROM event WHERE sequence = 13")
        let start = ContinuousClock.now
        #expect(try await audit.run(patience: .seconds(60)).lost == 1)
        #expect(ContinuousClock.now - start < .seconds(30))
    }

    @Test func undecodableRecordsKeepItFromClosing() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            "INSERT INTO rejected_record (incarnation, partition, log_offset, key, value, reason) VALUES ('i', 0, 1, '', '', 'r')"
        )
        #expect(try await warehouse.audit().sound == false)
    }

    @Test func badInputIsAClearError() async throws {
        let warehouse = try await Warehouse()
        let bad = try TemporaryFile(["{}"])
        await #expect(throws: JournalAudit.Failure.self) { try await warehouse.audit(journals: [bad.path]) }
        await #expect(throws: JournalAudit.Failure.self) { try await warehouse.audit(journals: ["/nowhere"]) }
        let empty = try PostgresCluster.shared().makeDatabase()
        let error = await #expect(throws: TableAudit.Failure.self) { try await Audit(database: empty).run() }
        #expect("\(error!)".contains("sluice migrate"))
    }
}
