import Audit
import Database
import EventLog
import Foundation
import Logging
import NIOCore
import SyncModel
import Testing

/// What one thing explains must not hide the loss of another.
@Suite struct AuditBlindnessTests {
    private static let epoch = Epoch(high: 1, low: 2)

    private static func accounting(_ entries: [GatewayAccounting.EpochEntry]) -> GatewayAccounting {
        GatewayAccounting(gateway: "g", epochs: entries, bufferedMessages: 0, bufferedBytes: 0)
    }

    private func withLog(
        _ entries: [LogEntry], _ body: (EmbeddedEventLog) async throws -> Void
    ) async throws {
        let folder = NSTemporaryDirectory() + "sluice-audit-log-\(UInt64.random(in: 0...UInt64.max))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let log = try EmbeddedEventLog.open(path: folder + "/log.db", partitions: 1, logger: Logger(label: "test"))
        try await log.append(entries.map { LogRecord(key: $0.routingKey, value: $0.encoded()) })
        try await body(log)
        await log.close()
    }

    private static func messages(_ sequences: ClosedRange<UInt64>, gateway: String = "g", device: String) -> LogEntry {
        .messages(
            DeviceMessages(
                gateway: gateway, epoch: epoch, device: device, lane: .live,
                messages: sequences.map {
                    SyncedMessage(
                        sequence: $0, number: $0, qos: 1, wallTime: 0, topic: ByteBuffer(string: "t"),
                        payload: ByteBuffer(string: "1"))
                }))
    }

    private static func line(
        _ device: String, _ sequences: ClosedRange<UInt64>, numbers: ClosedRange<UInt64>
    ) -> LogEntry {
        .ledger(
            gateway: "g",
            LedgerLine(epoch: epoch, device: device, sequences: sequences, numbers: numbers, reason: .bufferFull))
    }

    // MARK: Journals

    /// 13 and 14 of d never had a sequence; another device's two were dropped.
    @Test func whatWasDroppedOfOneDeviceExplainsNoneOfAnother() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            """
            INSERT INTO ledger (source, device, sequences, numbers, reason) VALUES (1, 'e', '[13,14]', '[1,2]', 6);
            INSERT INTO deduplication (source, device, numbers) VALUES (1, 'e', '{[1,3)}');
            UPDATE gateway_epoch SET last_sequence = 14;
            """)
        let file = try TemporaryFile(journal(1...14))
        var report = try await warehouse.audit(journals: [file.path])
        #expect(report.lost == 2 && !report.sound, "\(report)")
        let fewer = try TemporaryFile(journal(1...12))
        #expect(try await warehouse.audit(journals: [fewer.path]).closed)
        // A salvage may not know whose they were.
        try await warehouse.connection.run("UPDATE ledger SET device = '#' WHERE device = 'e'")
        report = try await warehouse.audit(journals: [file.path])
        #expect(report.closed, "\(report.problems)")
    }

    @Test func whatIsInTheLogOfOneDeviceExplainsNoneOfAnother() async throws {
        let warehouse = try await Warehouse()
        let file = try TemporaryFile(journal(1...14))
        try await withLog([Self.messages(13...14, device: "e")]) { log in
            let report = try await Audit(database: warehouse.url, journals: [file.path], log: log).run()
            #expect(report.lost == 2 && report.inLog == 2, "\(report)")
        }
        try await withLog([Self.messages(13...13, device: "d"), Self.line("d", 14...14, numbers: 14...14)]) { log in
            let report = try await Audit(database: warehouse.url, journals: [file.path], log: log).run()
            #expect(report.sound && report.inLog == 1, "\(report)")
        }
    }

    @Test func whatPostgreSQLRefusedOfOneDeviceExplainsNoneOfAnother() async throws {
        let warehouse = try await Warehouse()
        func refuse(_ device: Int) -> String {
            """
            INSERT INTO event (time, sequence, device_id, source, part, parts, flags, kind, topic, bytes, reason)
                VALUES ('2026-01-01', 13, \(device), 1, 0, 1, 0, 9, 't', '\\x00', 'refused');
            """
        }
        try await warehouse.connection.run(
            """
            INSERT INTO device (name, generation) VALUES ('e', 1); UPDATE gateway_epoch SET last_sequence = 13;
            INSERT INTO deduplication (source, device, numbers) VALUES (1, 'e', '{[1,2)}'); \(refuse(2))
            """)
        let file = try TemporaryFile(journal(1...13))
        #expect(try await warehouse.audit(journals: [file.path]).lost == 1)
        try await warehouse.connection.run(
            """
            DELETE FROM deduplication WHERE device = 'e'; UPDATE deduplication SET numbers = '{[1,14)}';
            DELETE FROM event WHERE kind = 9; \(refuse(1))
            """)
        let report = try await warehouse.audit(journals: [file.path])
        #expect(report.closed, "\(report.problems)")
    }

    /// The archive does not say whose its messages were; deduplication says how many of each device there are.
    @Test func archivedMessagesAreNotMissedAndExplainNoOthers() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            """
            DELETE FROM measurement; DELETE FROM event;
            INSERT INTO archive_day (day, manifests, measurement_rows, event_rows, bytes, archived_at, checked_at)
                VALUES ('2026-01-01', 1, 20, 10, 1, now(), now());
            INSERT INTO archive_manifest (day, number, digest, dropped_at) VALUES ('2026-01-01', 0, '', now());
            INSERT INTO archive_range (day, source, first_sequence, last_sequence, manifest)
                VALUES ('2026-01-01', 1, 1, 10, 0);
            """)
        let whole = try TemporaryFile(journal(1...12))
        var report = try await warehouse.audit(journals: [whole.path])
        #expect(report.closed && report.archived == 10, "\(report.problems)")
        let more = try TemporaryFile(journal(1...14))
        #expect(try await warehouse.audit(journals: [more.path]).lost == 2)
        try await warehouse.connection.run(
            """
            INSERT INTO archive_range (day, source, first_sequence, last_sequence, manifest)
                VALUES ('2026-01-01', 1, 13, 14, 0);
            INSERT INTO deduplication (source, device, numbers) VALUES (1, 'e', '{[1,3)}');
            UPDATE gateway_epoch SET last_sequence = 14;
            """)
        report = try await warehouse.audit(journals: [more.path])
        #expect(report.lost == 2 && report.archived == 12, "\(report)")
    }

    /// Its rows of one day were dropped, and kept one by one, as the message is of several days.
    @Test func messagesOfWhichSomeRowsWereDroppedAreNotMissed() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run(
            """
            INSERT INTO retired_row SELECT source, sequence, part, parts, '2026-01-01' FROM measurement
                WHERE sequence = 5 AND part = 0;
            DELETE FROM measurement WHERE sequence = 5 AND part = 0;
            """)
        let file = try TemporaryFile(journal(1...12))
        let report = try await warehouse.audit(journals: [file.path])
        #expect(report.closed, "\(report.problems)")
    }

    // MARK: Buffers that were put back

    /// 13 to 20 were committed and went with the disk; the copy of the buffer that was put back knows of 5.
    @Test func aBufferThatWasPutBackHidesNothing() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run("UPDATE gateway_epoch SET last_sequence = 20, closed = false")
        let old = GatewayAccounting.EpochEntry(epoch: Warehouse.epoch, lastSequence: 5, buffered: [[1, 5]])
        let report = try await warehouse.audit(accounting: [Self.accounting([old])])
        #expect(report.lost == 8 && report.gaps.map(\.first) == [13], "\(report)")
        #expect(report.problems.contains { $0.contains("put back") })
        // A file may be older than the tables, and says so of no open epoch.
        let audit = Audit(database: warehouse.url, accountings: [Self.accounting([old])])
        #expect(try await audit.run().sound)
    }

    /// The gateway goes on while it is audited: what it commits meanwhile is in its buffer.
    @Test func aGatewayThatGoesOnLosesNothing() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run("UPDATE gateway_epoch SET last_sequence = 20")
        let asked = Counter()
        let audit = Audit(
            database: warehouse.url,
            accounting: {
                let last: UInt64 = await asked.next() == 1 ? 12 : 30
                let buffered = last == 12 ? [] : [[13, last]]
                return [Self.accounting([.init(epoch: Warehouse.epoch, lastSequence: last, buffered: buffered)])]
            })
        let report = try await audit.run()
        #expect(report.sound, "\(report.problems)")
        #expect(await asked.count == 2)
    }
}

private actor Counter {
    private(set) var count = 0

    func next() -> Int {
        count += 1
        return count
    }
}

extension AuditBlindnessTests {
    // MARK: Ledger lines

    /// 13 and 14 were dropped, 15 and 16 are lost; the line came twice, and its first copy is stored.
    @Test func aLedgerLineThatComesTwiceCountsOnce() async throws {
        let warehouse = try await Warehouse()
        let line = Self.line("e", 1...20, numbers: 1...2)
        try await warehouse.connection.run("UPDATE gateway_epoch SET last_sequence = 16")
        try await withLog([line, line]) { log in
            let report = try await Audit(database: warehouse.url, log: log).run()
            #expect(report.lost == 2, "\(report)")
        }
        try await warehouse.connection.run(
            """
            INSERT INTO ledger (source, device, sequences, numbers, reason) VALUES (1, 'e', '[1,20]', '[1,2]', 1);
            INSERT INTO deduplication (source, device, numbers) VALUES (1, 'e', '{[1,3)}');
            """)
        try await withLog([line]) { log in
            let report = try await Audit(database: warehouse.url, log: log).run()
            #expect(report.lost == 2, "\(report)")
            try await warehouse.connection.run("UPDATE gateway_epoch SET last_sequence = 14")
            #expect(try await Audit(database: warehouse.url, log: log).run().closed)
        }
    }

    /// What it names is stored: it will end nothing.
    @Test func aLedgerLineOfStoredMessagesExplainsNoOthers() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run("UPDATE gateway_epoch SET last_sequence = 14")
        try await withLog([Self.line("d", 1...20, numbers: 9...10)]) { log in
            let report = try await Audit(database: warehouse.url, log: log).run()
            #expect(report.lost == 2, "\(report)")
        }
    }

    @Test func aLedgerLineInTheLogIsOnItsWay() async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run("UPDATE gateway_epoch SET last_sequence = 14")
        try await withLog([Self.line("e", 1...20, numbers: 1...2)]) { log in
            let report = try await Audit(database: warehouse.url, log: log).run()
            #expect(report.sound && !report.closed, "\(report)")
        }
    }

    // MARK: One gateway

    @Test func theLogsEntriesOfOtherGatewaysAreLeftOut() async throws {
        let warehouse = try await Warehouse()
        let entries = [Self.messages(3...3, gateway: "h", device: "x"), Self.messages(13...13, device: "d")]
        try await withLog(entries) { log in
            let report = try await Audit(database: warehouse.url, gateway: "g", log: log).run()
            #expect(report.sound && report.inLog == 1, "\(report)")
            #expect(try await Audit(database: warehouse.url, log: log).run().lost == 2)
        }
    }

    /// Somebody mistyped it: an audit over nothing closes, and proves nothing.
    @Test func aGatewayThatNobodyKnowsIsAProblem() async throws {
        let warehouse = try await Warehouse()
        let report = try await Audit(database: warehouse.url, gateway: "nobody").run()
        #expect(!report.sound && report.problems.joined().contains("nothing is known of a gateway nobody"), "\(report)")
        #expect(try await Audit(database: warehouse.url, gateway: "g").run().problems.isEmpty)
    }

    // MARK: Claims that cannot be true

    private static let other = "00000000000000010000000000000003"

    @Test(arguments: [
        """
        INSERT INTO source (gateway_id, epoch) VALUES (2, '\(other)'), (2, '\(Warehouse.epoch)');
        INSERT INTO gateway_epoch (source, last_sequence)
            SELECT id, 9223372036854775806 FROM source WHERE gateway_id = 2
        """,
        """
        INSERT INTO source (gateway_id, epoch) VALUES (2, '\(other)');
        INSERT INTO ledger (source, device, sequences, numbers, reason)
            SELECT 2, device, '[1,9223372036854775806]', '[1,9223372036854775806]', reason
                FROM unnest(ARRAY['x', 'y', 'z']) device, generate_series(1, 2) reason;
        INSERT INTO deduplication (source, device, numbers)
            SELECT 2, device, '{[1,9223372036854775807)}' FROM unnest(ARRAY['x', 'y', 'z']) device;
        INSERT INTO event (time, sequence, device_id, source, part, parts, flags, kind, topic, body)
            VALUES ('2026-01-01', 1, 1, 2, 0, 1, 0, 1, 't', '{}')
        """,
    ])
    func aGatewayThatClaimsTheImpossibleIsNamed(change: String) async throws {
        let warehouse = try await Warehouse()
        try await warehouse.connection.run("INSERT INTO gateway (name) VALUES ('liar'); " + change)
        for file in [nil, try TemporaryFile(journal(1...12))] {
            let report = try await warehouse.audit(journals: file.map { [$0.path] } ?? [])
            #expect(!report.sound && report.problems.contains { $0.contains("liar") && $0.contains("cannot be true") })
            #expect(!report.problems.contains { $0.contains("gateway g") }, "\(report.problems)")
        }
    }

    @Test(arguments: [
        GatewayAccounting.EpochEntry(epoch: Warehouse.epoch, lastSequence: .max, buffered: [[1, .max]]),
        .init(epoch: Warehouse.epoch, lastSequence: 12, buffered: [[5, 13]]),
        .init(epoch: Warehouse.epoch, lastSequence: 1 << 62, buffered: [[13, 1 << 62]]),
    ])
    func anAccountingThatCannotBeTrueIsNamed(entry: GatewayAccounting.EpochEntry) async throws {
        let warehouse = try await Warehouse()
        let report = try await warehouse.audit(accounting: [Self.accounting([entry])])
        #expect(!report.sound && report.problems.contains { $0.contains("gateway g") }, "\(report.problems)")
    }
}
