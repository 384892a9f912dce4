import Database
import EventLog
import NIOCore
import Processor
import SyncModel
import TestSupport
import Testing

/// What births have told, and which of them data is read by.
@Suite struct SparkplugBirthTests {
    /// Sequence, name and value of what is measured.
    private static let values = """
        SELECT concat_ws(' ', e.sequence, m.path, e.value) AS line FROM measurement e
        JOIN metric m ON m.id = e.metric_id WHERE m.path <> 'online' ORDER BY e.source, e.sequence, e.part
        """

    /// After a restart the database is all that is known; an alias that no birth has named is not lost.
    @Test func aliasesOutliveTheProcessorAndUnknownOnesAreKept() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(1, "G/NBIRTH/E", payload(9, .init("t", alias: 1, datatype: 1, .int(0)))))
        try await warehouse.drain(log)
        await log.append(
            sparkplug(
                2, "G/NDATA/E",
                payload(1, .init(alias: 1, .int(255)), .init(alias: 18_446_744_073_709_551_615, .int(7)))),
            sparkplug(3, "G/DDATA/E/D", payload(1, .init(alias: 1, .int(255)))))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(SparkplugLog.numbers).dropFirst(2) == [
                "2 spBv1.0/G/E t -1 0 2 2", "2 spBv1.0/G/E alias:18446744073709551615 7 1 2 2",
                "3 spBv1.0/G/E/D alias:1 255 0 1 2",
            ])
    }

    /// What a gateway kept while it was offline comes after what is live: each is read by the births of its own time.
    @Test func dataIsReadByTheBirthBeforeIt() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(10, "G/NBIRTH/E", payload(10_000, .init("new", alias: 1, .int(0)))),
            sparkplug(11, "G/NDATA/E", payload(9_000, .init(alias: 1, .int(1)))))
        try await warehouse.drain(log)
        await log.append(
            sparkplug(
                1, "G/NDATA/E", lane: .backlog, payload(90_000, .init(alias: 1, .int(2)))),
            sparkplug(
                2, "G/NBIRTH/E", lane: .backlog, payload(80_000, .init("old", alias: 1, .int(0)))),
            sparkplug(
                3, "G/NDATA/E", lane: .backlog, payload(70_000, .init(alias: 1, .int(3)))),
            sparkplug(
                4, "G/NBIRTH/E", lane: .backlog, payload(60_000, .init("old", alias: 1, .int(0)))))
        try await warehouse.drain(log)
        let lines = try await warehouse.lines(
            """
            SELECT concat_ws(' ', e.sequence, m.path, e.value) AS line FROM measurement e
            JOIN metric m ON m.id = e.metric_id WHERE m.path <> 'online' ORDER BY e.sequence
            """)
        #expect(lines == ["1 alias:1 2", "2 old 0", "3 old 3", "4 old 0", "10 new 0", "11 new 1"])
        #expect(try await warehouse.one("SELECT count(*) AS n FROM sparkplug_birth") == "3")
        #expect(
            try await warehouse.one("SELECT count(*) AS n FROM sparkplug_definition") == "2",
            "what is said again is kept once")
    }

    /// X, Y, X, of which Y was kept while the gateway was offline: what is live is X still, in memory and in the database.
    @Test func aLateBirthDoesNotOutrankTheOneThatIsInForce() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(1, "G/NBIRTH/E", payload(90, .init("X", alias: 1, .int(0)))),
            sparkplug(9, "G/NBIRTH/E", payload(10, .init("X", alias: 1, .int(0)))))
        try await warehouse.drain(log)
        await log.append(
            sparkplug(
                5, "G/NBIRTH/E", lane: .backlog, payload(50, .init("Y", alias: 1, .int(0)))),
            sparkplug(6, "G/NDATA/E", lane: .backlog, payload(40, .init(alias: 1, .int(6)))),
            sparkplug(10, "G/NDATA/E", payload(5, .init(alias: 1, .int(10)))))
        try await warehouse.drain(log)
        await log.append(sparkplug(11, "G/NDATA/E", payload(4, .init(alias: 1, .int(11)))))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(Self.values) == ["1 X 0", "5 Y 0", "6 Y 6", "9 X 0", "10 X 10", "11 X 11"])
    }

    /// A node that boots in 1970, one that steps back, one without a timestamp: its clock has no part in it.
    @Test(arguments: [0, 1_000, 1_699_999_000_000, nil] as [UInt64?])
    func theNodesClockDecidesNothing(sent: UInt64?) async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(1, "G/NBIRTH/E", payload(0, .init("before", alias: 1, .int(0)))),
            sparkplug(
                2, "G/NBIRTH/E", SparkplugBytes.payload(timestamp: sent, seq: 0, [.init("now", alias: 1, .int(0))])),
            sparkplug(
                3, "G/NDATA/E", SparkplugBytes.payload(timestamp: sent, seq: 1, [.init(alias: 1, .int(7))])))
        try await warehouse.drain(log)
        #expect(try await warehouse.lines(Self.values) == ["1 before 0", "2 now 0", "3 now 7"])
    }

    /// The same names behind another gateway are other nodes; a gateway that was rebuilt counts from 1 again.
    @Test func gatewaysAndTheirRunsAreToldApart() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let rebuilt = Epoch(high: 2, low: 2)
        func birth(_ name: String) -> [UInt8] { payload(0, .init(name, alias: 1, .int(0))) }
        func data(_ value: UInt32) -> [UInt8] { payload(0, .init(alias: 1, .int(value))) }
        await log.append(
            sparkplug(900, "G/NBIRTH/E", at: SparkplugLog.now - 2_000_000, birth("old")),
            // A birth of the rebuilt gateway with a smaller number, and data before and after it.
            sparkplug(1, "G/NDATA/E", epoch: rebuilt, at: SparkplugLog.now - 1_000_000, data(1)),
            sparkplug(2, "G/NBIRTH/E", epoch: rebuilt, birth("rebuilt")),
            sparkplug(3, "G/NDATA/E", epoch: rebuilt, data(3)),
            // What the old run had kept comes last.
            sparkplug(901, "G/NDATA/E", lane: .backlog, at: SparkplugLog.now - 1_900_000, data(901)),
            sparkplug(1, "G/NDATA/E", gateway: "g2", epoch: Epoch(high: 3, low: 3), data(1)))
        try await warehouse.drain(log)
        let expected = ["900 old 0", "901 old 901", "1 old 1", "2 rebuilt 0", "3 rebuilt 3", "1 alias:1 1"]
        #expect(try await warehouse.lines(Self.values).sorted() == expected.sorted())
    }

    /// After a restart of the cloud the log gives everything again.
    @Test func aReplayChangesNothing() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let life = [
            sparkplug(1, "G/NBIRTH/E", payload(9, .init("a", alias: 1, .int(0)))),
            sparkplug(2, "G/NDATA/E", payload(8, .init(alias: 1, .int(2)))),
            sparkplug(3, "G/NBIRTH/E", payload(7, .init("b", alias: 1, .int(0)))),
        ]
        await log.append(life)
        try await warehouse.drain(log)
        await log.append(
            life + [sparkplug(4, "G/NDATA/E", payload(6, .init(alias: 1, .int(4))))])
        try await warehouse.drain(log)
        #expect(try await warehouse.lines(Self.values) == ["1 a 0", "2 a 2", "3 b 0", "4 b 4"])
        #expect(try await warehouse.one("SELECT count(*) AS n FROM sparkplug_birth") == "2")
    }

    /// A node that is another at each birth: what is new has its names, the database keeps what the bounds allow.
    @Test func aNewBirthWinsAtTheBoundsAndTheOldestGoes() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        for number in 1...300 as ClosedRange<UInt64> {
            await log.append(
                sparkplug(
                    2 * number - 1, "G/NBIRTH/E", payload(0, .init("n\(number)", alias: 1, .int(0)))),
                sparkplug(2 * number, "G/NDATA/E", payload(0, .init(alias: 1, .int(1)))))
        }
        try await warehouse.drain(log) { $0.maximumRecords = 50 }
        #expect(
            try await warehouse.one(
                """
                SELECT count(*) AS n FROM measurement d JOIN metric m ON m.id = d.metric_id
                WHERE m.path = 'n' || d.sequence / 2 AND d.sequence % 2 = 0
                """) == "300", "all data has the name that its birth gave it")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM sparkplug_birth") == "256")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM sparkplug_definition") == "256")
        #expect(try await warehouse.one("SELECT min(sequence) AS n FROM sparkplug_birth") == "89")
    }

    @Test func nodesThatWereNotHeardOfForLongestMakeRoom() async throws {
        let warehouse = try await Warehouse()
        func hours(_ count: Int64) -> Int64 { SparkplugLog.now + count * 3_600_000_000 }
        func birth(_ sequence: UInt64, _ node: String) -> LogEntry {
            sparkplug(sequence, "G/NBIRTH/\(node)", payload(0, .init("t", alias: 1, .int(0))))
        }
        let first = MemoryLog(partitions: 1)
        await first.append(birth(1, "a"), birth(2, "b"), birth(3, "c"))
        try await warehouse.drain(first) { $0.sparkplugEntities = 3 }
        // Hours later: a is heard of, d is new.
        let later = MemoryLog(partitions: 1, now: hours(3))
        await later.append(birth(1, "a"), birth(2, "b"), birth(3, "c"))
        await later.append(
            sparkplug(4, "G/NDATA/a", at: hours(3), payload(0, .init(alias: 1, .int(4)))),
            birth(5, "d"))
        let status = try await warehouse.drain(later) {
            $0.sparkplugEntities = 3
            $0.maximumRecords = 1
        }
        #expect(
            try await warehouse.lines("SELECT node FROM sparkplug_entity ORDER BY 1") == ["a", "c", "d"])
        #expect(status.state.forgottenEntities == 1)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM sparkplug_birth") == "3")
    }

    /// With hardly any room in memory each batch reads what it needs, and nothing else is different.
    @Test func whatIsNotInMemoryIsReadWhenItIsNeeded() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let nodes = (1...20 as ClosedRange<UInt64>)
        for node in nodes {
            await log.append(
                sparkplug(
                    node, "G/NBIRTH/E\(node)",
                    payload(0, .init("m\(node)", alias: 1, datatype: 1, .int(0)))))
        }
        for round in 1...3 as ClosedRange<UInt64> {
            for node in nodes {
                await log.append(
                    sparkplug(
                        round * 100 + node, "G/NDATA/E\(node)", payload(0, .init(alias: 1, .int(255)))))
            }
        }
        try await warehouse.drain(log) {
            $0.sparkplugMetricsInMemory = 40
            $0.maximumRecords = 7
        }
        #expect(
            try await warehouse.one(
                """
                SELECT count(*) AS n FROM measurement d JOIN metric m ON m.id = d.metric_id
                WHERE d.sequence > 100 AND d.value = -1 AND m.path = 'm' || d.sequence % 100
                """) == "60")
    }

    /// Data may leave out the type, whether it goes by a name or by an alias, or by an alias beside an empty name.
    @Test func theBirthsTypeCountsForNamesAndAliases() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(
                1, "G/NBIRTH/E",
                payload(
                    9, .init("byte", datatype: 1, .int(0)), .init("long", datatype: 4, .long(0)),
                    .init("plain", datatype: 7, .int(0)), .init("alias", alias: 5, datatype: 2, .int(0)))),
            sparkplug(
                2, "G/NDATA/E",
                payload(
                    8, .init("byte", .int(255)), .init("long", .long(.max)), .init("plain", .int(.max)),
                    .init("", alias: 5, .int(65_535)), .init("alias", .int(65_534)),
                    .init("byte", datatype: 5, .int(255)),
                    .init("new", .int(255)))),
            sparkplug(3, "G/DDATA/E/D", payload(7, .init("byte", .int(255)))))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(Self.values).dropFirst(4) == [
                "2 byte -1", "2 long -1", "2 plain 4294967295", "2 alias -1", "2 alias -2", "2 byte 255", "2 new 255",
                "3 byte 255",
            ])
    }

    /// A transaction that fails after a birth was read must not leave the birth out.
    @Test func aBirthWhoseTransactionFailedIsStoredWithTheNext() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        try await warehouse.execute(
            """
            CREATE SEQUENCE attempts;
            CREATE FUNCTION fail_first() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('attempts') <= 2 THEN RAISE EXCEPTION 'not yet' USING ERRCODE = '40001'; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER fail_first BEFORE INSERT ON sparkplug_birth FOR EACH ROW EXECUTE FUNCTION fail_first();
            """)
        await log.append(
            sparkplug(1, "G/NBIRTH/E", payload(9, .init("t", alias: 1, .int(0)))),
            sparkplug(2, "G/NDATA/E", payload(1, .init(alias: 1, .int(5)))))
        try await warehouse.drain(log)
        #expect(try await warehouse.one("SELECT name FROM sparkplug_metric") == "t")
        #expect(try await warehouse.lines(SparkplugLog.numbers).last == "2 spBv1.0/G/E t 5 0 1 2")
        #expect(try await warehouse.one("SELECT last_value >= 3 AS l FROM attempts") == "true")
    }

    /// Commands come from a host, on another partition than the node's births, which another processor may have stored.
    @Test func commandsAreReadByWhatTheDatabaseKnows() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(1, "G/NBIRTH/E", payload(9, .init("first", alias: 4, datatype: 3, .int(0)))),
            sparkplug(2, "G/NCMD/E", device: "host", payload(8, .init(alias: 4, .int(2)))))
        let isDone = try await warehouse.process(log) { status in
            if status.state.messages == 2, await log.bounds()[0].next == 2 {
                // Another processor stores a birth.
                try await warehouse.execute(
                    """
                    INSERT INTO sparkplug_definition
                    SELECT id, sha256('second'), '{second}', '{4}', '{3}' FROM sparkplug_entity;
                    INSERT INTO sparkplug_birth
                    SELECT entity_id, source, 3, wall_time, monotonic_time, boot, sha256('second'), 1 FROM sparkplug_birth
                    """)
                await log.append(sparkplug(4, "G/NCMD/E", device: "host", payload(7, .init(alias: 4, .int(3)))))
            }
            return status.state.messages == 3
        }
        #expect(isDone)
        #expect(try await warehouse.lines(Self.values).suffix(2) == ["2 first 2", "4 second 3"])
    }

    /// A device of which more is known than fits: its data has no names, and everything goes on.
    @Test func whatIsTooMuchToReadIsStoredWithoutNames() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        func birth(_ sequence: UInt64, _ node: String, _ count: UInt64) -> LogEntry {
            sparkplug(
                sequence, "G/NBIRTH/\(node)",
                SparkplugBytes.payload(
                    timestamp: SparkplugLog.sent,
                    (1...count).map { .init("\(node)\($0)", alias: $0, datatype: 3, .int(0)) }))
        }
        await log.append(birth(1, "big", 30), birth(2, "a", 8), birth(3, "b", 8), birth(4, "c", 8))
        try await warehouse.drain(log)
        func data(_ sequence: UInt64, _ node: String) -> LogEntry {
            sparkplug(sequence, "G/NDATA/\(node)", payload(0, .init(alias: 2, .int(5))))
        }
        await log.append(data(5, "a"), data(6, "big"), data(7, "b"), data(8, "c"), data(9, "none"))
        let status = try await warehouse.drain(log) { $0.sparkplugMetricsInMemory = 20 }
        #expect(
            try await warehouse.lines(Self.values).suffix(5) == [
                "5 a2 5", "6 alias:2 5", "7 b2 5", "8 c2 5", "9 alias:2 5",
            ], "all together are too much as well, one after the other they are not")
        #expect(status.state.unresolved == 1)
    }

    /// The time limit of a statement that reads births: the batch is halved as where it is stored.
    @Test func readingThatTakesTooLongIsCutInHalves() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        for node in 1...4 as ClosedRange<UInt64> {
            await log.append(
                sparkplug(node, "G/NBIRTH/n\(node)", payload(0, .init("m\(node)", alias: 1, .int(0)))))
        }
        try await warehouse.drain(log)
        // Each definition costs its time; more than two are more than the limit.
        try await warehouse.execute(
            """
            ALTER TABLE sparkplug_definition RENAME TO stored_definition;
            CREATE FUNCTION slow(names text[]) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
            BEGIN PERFORM pg_sleep(0.5); RETURN names; END $$;
            CREATE VIEW sparkplug_definition AS
                SELECT entity_id, digest, slow(names) AS names, aliases, datatypes FROM stored_definition;
            """)
        for node in 1...4 as ClosedRange<UInt64> {
            await log.append(
                sparkplug(10 + node, "G/NDATA/n\(node)", payload(0, .init(alias: 1, .int(1)))))
        }
        try await warehouse.drain(log) { $0.statementTimeout = .milliseconds(1_500) }
        #expect(
            try await warehouse.lines(Self.values).suffix(4) == (1...4).map { "\($0 + 10) m\($0) 1" })
    }

    /// Live data overtakes the birth that it belongs to: it is not read again, but somebody is told.
    @Test func aBirthThatComesAfterItsDataIsCounted() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(1, "G/NBIRTH/E", payload(0, .init("X", alias: 1, .int(0)))),
            sparkplug(9, "G/NDATA/E", payload(0, .init(alias: 1, .int(9)))),
            sparkplug(2, "G/NBIRTH/E", lane: .backlog, payload(0, .init("X", alias: 1, .int(0)))),
            sparkplug(3, "G/NBIRTH/E", lane: .backlog, payload(0, .init("Y", alias: 1, .int(0)))),
            sparkplug(10, "G/NDATA/E", payload(0, .init(alias: 1, .int(10)))))
        let status = try await warehouse.drain(log) { $0.maximumRecords = 1 }
        #expect(try await warehouse.lines(Self.values) == ["1 X 0", "2 X 0", "3 Y 0", "9 X 9", "10 Y 10"])
        #expect(status.state.lateBirths == 1)
    }
}

extension Warehouse {
    fileprivate func execute(_ sql: String) async throws { try await Self.run(sql, connection) }

    private static func run(_ sql: String, _ connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.run(sql)
    }
}
