import Audit
import Database
import DeadLetters
import EventLog
import Flow
import Logging
import NIOCore
import ObjectStore
import Processor
import SyncModel
import TestSupport
import Testing

private let length = Int(DeadLetterRange.length)

/// Objects in memory, which may be away for a while.
private actor MemoryObjects: ObjectStore {
    private(set) var objects: [String: ByteBuffer] = [:]
    private(set) var repeated = 0
    private(set) var refused = 0
    private var isAway = false

    func be(away: Bool) { isAway = away }
    func damage(_ key: String) { objects[key]?.setInteger(UInt8(0x55), at: 40) }
    func keys() -> [String] { objects.keys.sorted() }

    func create(_ key: String, _ bytes: ByteBuffer) async throws(ObjectStoreError) -> Bool {
        if isAway {
            refused += 1
            throw .unavailable("it is away")
        }
        if objects[key] != nil {
            repeated += 1
            return false
        }
        objects[key] = bytes
        return true
    }

    func read(_ key: String, maximumBytes: Int) async throws(ObjectStoreError) -> ByteBuffer? {
        if isAway { throw .unavailable("it is away") }
        return objects[key]
    }

    func list(prefix: String, after: String?, maximum: Int) async throws(ObjectStoreError) -> [StoredObject] { [] }
    func delete(_ key: String) async throws(ObjectStoreError) { objects[key] = nil }
}

/// The embedded log, a database of its own that can be cut off, and objects.
private final class Plant: Sendable {
    let url: String
    let name: String
    let connection: PostgresConnection
    let administration: PostgresConnection
    let log: EmbeddedEventLog
    let objects = MemoryObjects()
    let lines = LogLines()

    init() async throws {
        let cluster = try PostgresCluster.shared()
        url = try cluster.makeDatabase()
        connection = try await PostgresConnection.connect(.init(url: url, applicationName: "tests"))
        administration = try await PostgresConnection.connect(.init(url: cluster.url, applicationName: "tests"))
        _ = try await Migrator(path: MigrationFile.directory(given: nil)).up(on: connection)
        name = try await Self.one("SELECT current_database()::text", connection)
        let path = "/tmp/sluice-letters-\(UInt64.random(in: 0...UInt64.max))"
        log = try EmbeddedEventLog.open(
            path: path, partitions: 2, retention: nil, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    }

    static func one(
        _ sql: String, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> String {
        let rows = try connection.query(sql)
        return rows.rowCount > 0 ? rows.string(0, 0) : ""
    }

    func one(_ sql: String) async throws -> String { try await Self.one(sql, connection) }

    /// Messages of a record each; devices share the partitions.
    func append(_ numbers: ClosedRange<Int>, device: String = "d1") async throws {
        try await log.append(
            numbers.map { number in
                let entry = LogEntry.messages(
                    DeviceMessages(
                        gateway: "g1", epoch: Epoch(high: 1, low: UInt64(device.utf8.last ?? 0)), device: device,
                        lane: .live,
                        messages: [
                            SyncedMessage(
                                sequence: UInt64(number), number: UInt64(number), qos: 1,
                                wallTime: 1_700_000_000_000_000, topic: ByteBuffer(string: "t"),
                                payload: ByteBuffer(string: "{\"n\":\(number)}"))
                        ]))
                return LogRecord(key: entry.routingKey, value: entry.encoded())
            })
    }

    /// No new connections, and none of the processor's that were there.
    func cut() async throws {
        try await administration.run("ALTER DATABASE \(name) ALLOW_CONNECTIONS false")
        try await administration.run(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = '\(name)' AND application_name = 'sluice-processor'
            """)
    }

    func mend() async throws { try await administration.run("ALTER DATABASE \(name) ALLOW_CONNECTIONS true") }

    func configuration(waitInOpen: Int64 = 100_000) -> ProcessorConfiguration {
        var configuration = ProcessorConfiguration(database: url, member: "test")
        configuration.pollTimeout = .milliseconds(5)
        configuration.backoffBase = .milliseconds(2)
        configuration.backoffCap = .milliseconds(20)
        configuration.reclaimDelay = .milliseconds(50)
        configuration.fallback.mode = .deadLetter
        configuration.fallback.breaker.waitInOpen = waitInOpen
        return configuration
    }

    func processor(
        _ status: ProcessorStatus, log: (any EventLog)? = nil, waitInOpen: Int64 = 100_000
    ) -> Processor {
        Processor(
            configuration: configuration(waitInOpen: waitInOpen), log: log ?? self.log, status: status,
            objects: objects, logger: lines.logger)
    }

    func until(_ condition: () async throws -> Bool) async throws -> Bool {
        for _ in 0..<4_000 {
            if try await condition() { return true }
            try await Task.sleep(for: .milliseconds(5))
        }
        return false
    }

    /// Everything of the log is processed, in one way or the other.
    func isDrained() async throws -> Bool {
        for bounds in try await log.bounds() {
            let next = try await one(
                "SELECT next_offset FROM ingest_offset WHERE partition = \(bounds.partition)")
            if next != String(bounds.next) { return false }
        }
        return true
    }

    @discardableResult
    func replay(onlyOne: Bool = false) async throws -> [DeadLetterReplay.Outcome] {
        let connection = try await PostgresConnection.connect(.init(url: url, applicationName: "replay"))
        let replay = DeadLetterReplay(configuration: configuration(), files: DeadLetterFiles(store: objects))
        var outcomes: [DeadLetterReplay.Outcome] = []
        for (id, entry) in try await DeadLetterTable.waiting(on: connection).prefix(onlyOne ? 1 : .max) {
            outcomes.append(try await replay.replay(id, entry, on: connection))
        }
        return outcomes
    }

    func audit() async throws -> AuditReport { try await Audit(database: url, log: log, objects: objects).run() }

    func stored() async throws -> String {
        try await one("SELECT concat_ws(' ', count(*), count(DISTINCT (source, sequence))) FROM measurement")
    }

    func running<Value>(_ processor: Processor, _ body: () async throws -> Value) async throws -> Value {
        let task = Task { await processor.run() }
        do {
            let value = try await body()
            task.cancel()
            await task.value
            return value
        } catch {
            task.cancel()
            await task.value
            throw error
        }
    }
}

@Suite(.serialized) struct DeadLetterFlowTests {
    /// Stored before, as dead letters, and afterwards: each message once, and the audit closes at every stage.
    @Test func anOutageBecomesObjectsAndAReplayMakesThemRows() async throws {
        let plant = try await Plant()
        try await plant.append(1...300)
        let status = ProcessorStatus()
        try await plant.running(plant.processor(status, waitInOpen: 1_000_000)) {
            #expect(try await plant.until { status.state.messages == 300 })
            try await plant.cut()
            try await plant.append(301...2 * length + 500)
            #expect(try await plant.until { await plant.objects.keys().count == 2 })
            #expect(status.problems.joined().contains("circuit breaker"))
            #expect(plant.lines.contains(.error, "ranges of the event log become dead letters"))
            // Nothing moves before the database knows of the objects.
            #expect(try await plant.one("SELECT sum(next_offset) FROM ingest_offset") == "300")
            try await plant.mend()
            #expect(try await plant.until { try await plant.isDrained() })
        }
        // Of a range that was not whole, the rest waited in the log. 300 of the objects' were stored before.
        #expect(try await plant.stored() == "800 800")
        var report = try await plant.audit()
        #expect(report.closed && report.deadLettersWaiting == UInt64(2 * length - 300), "\(report)")
        #expect(try await plant.replay().count == 2)
        #expect(try await plant.stored() == "\(2 * length + 500) \(2 * length + 500)")
        report = try await plant.audit()
        #expect(report.closed && report.deadLettersWaiting == 0 && report.lost == 0, "\(report)")
        #expect(try await plant.replay().isEmpty)
    }

    @Test func twoReplaysAtOnceStoreEachMessageOnce() async throws {
        let plant = try await Plant()
        try await outage(plant, messages: 3 * length)
        async let first = plant.replay()
        async let second = plant.replay()
        let outcomes = try await first + second
        let replayed = outcomes.filter { if case .replayed = $0 { true } else { false } }
        #expect(replayed.count == 3)
        #expect(try await plant.stored() == "\(3 * length) \(3 * length)")
        #expect(try await plant.audit().closed)
    }

    /// The objects are there, and the process dies before the database knows of them.
    @Test func whatACrashLeftIsFoundAgain() async throws {
        let plant = try await Plant()
        try await plant.append(1...10)
        let first = ProcessorStatus()
        try await plant.running(plant.processor(first, waitInOpen: 60_000_000)) {
            #expect(try await plant.until { first.state.messages == 10 })
            try await plant.cut()
            try await plant.append(11...2 * length)
            #expect(
                try await plant.until { await plant.objects.keys().count == 2 }, "\(plant.lines.all.suffix(8))")
        }
        try await plant.mend()
        // The next process gets its claims, and loses the database before it has stored anything.
        try await plant.connection.run(
            """
            CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$;
            CREATE TRIGGER no BEFORE INSERT ON measurement FOR EACH ROW EXECUTE FUNCTION no();
            """)
        let second = ProcessorStatus()
        let isDrained = try await plant.running(plant.processor(second)) {
            try await plant.until { try await plant.isDrained() }
        }
        #expect(isDrained)
        #expect(await plant.objects.repeated >= 2)
        #expect(await plant.objects.keys().count == 2)
        try await plant.connection.run("DROP TRIGGER no ON measurement")
        #expect(try await plant.audit().closed)
        _ = try await plant.replay()
        #expect(try await plant.stored() == "\(2 * length) \(2 * length)")
    }

    /// The partitions were claimed by another while dead letters were written: its offsets stay as they are.
    @Test func aZombieRecordsNothing() async throws {
        let plant = try await Plant()
        try await plant.append(1...10)
        let status = ProcessorStatus()
        try await plant.running(plant.processor(status, waitInOpen: 500_000)) {
            #expect(try await plant.until { status.state.messages == 10 })
            try await plant.cut()
            try await plant.append(11...length)
            #expect(try await plant.until { await plant.objects.keys().count == 1 })
            try await plant.connection.run("UPDATE ingest_offset SET epoch = epoch + 5")
            try await plant.mend()
            #expect(try await plant.until { try await plant.isDrained() })
        }
        #expect(try await plant.one("SELECT count(*) FROM dead_letter") == "0")
        #expect(try await plant.stored() == "\(length) \(length)")
        #expect(try await plant.audit().closed)
    }

    /// The answer to the transaction that records them is lost: it is asked again, and moves nothing twice.
    @Test func aLostAnswerIsHarmless() async throws {
        let plant = try await Plant()
        try await plant.append(1...10)
        let status = ProcessorStatus()
        try await plant.running(plant.processor(status, waitInOpen: 200_000)) {
            #expect(try await plant.until { status.state.messages == 10 })
            // Deferred, so at the commit.
            try await plant.connection.run(
                """
                CREATE SEQUENCE cuts;
                CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF nextval('cuts') <= 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                    RETURN NULL;
                END $$;
                CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON dead_letter DEFERRABLE INITIALLY DEFERRED
                    FOR EACH ROW EXECUTE FUNCTION cut();
                """)
            try await plant.cut()
            try await plant.append(11...length + 5)
            #expect(try await plant.until { await plant.objects.keys().count == 1 })
            try await plant.mend()
            #expect(try await plant.until { try await plant.isDrained() })
        }
        #expect(try await plant.one("SELECT count(*) FROM dead_letter") == "1")
        #expect(try await plant.audit().closed)
        _ = try await plant.replay()
        #expect(try await plant.stored() == "\(length + 5) \(length + 5)")
    }

    @Test func withoutTheObjectStoreMessagesWaitInTheLog() async throws {
        let plant = try await Plant()
        try await plant.append(1...10)
        let status = ProcessorStatus()
        try await plant.running(plant.processor(status, waitInOpen: 1_000_000)) {
            #expect(try await plant.until { status.state.messages == 10 })
            await plant.objects.be(away: true)
            try await plant.cut()
            try await plant.append(11...length + 7)
            #expect(try await plant.until { await plant.objects.refused > 2 })
            #expect(plant.lines.contains(.error, "A dead letter cannot be written"))
            await plant.objects.be(away: false)
            #expect(try await plant.until { await plant.objects.keys().count == 1 })
            await plant.objects.be(away: true)
            try await plant.mend()
            #expect(try await plant.until { try await plant.isDrained() })
        }
        await plant.objects.be(away: false)
        #expect(try await plant.audit().closed)
        _ = try await plant.replay()
        #expect(try await plant.stored() == "\(length + 7) \(length + 7)")
    }

    @Test func aReplayWhileTheDatabaseIsAwayChangesNothing() async throws {
        let plant = try await Plant()
        try await outage(plant, messages: length)
        let connection = try await PostgresConnection.connect(.init(url: plant.url, applicationName: "replay"))
        let letters = try await DeadLetterTable.waiting(on: connection)
        await connection.close()
        let replay = DeadLetterReplay(
            configuration: plant.configuration(), files: DeadLetterFiles(store: plant.objects))
        for (id, entry) in letters {
            await #expect(throws: DeadLetterReplay.Failure.self) {
                _ = try await replay.replay(id, entry, on: connection)
            }
        }
        #expect(try await plant.one("SELECT count(*) FROM dead_letter WHERE state = 'stored'") == "1")
        #expect(try await plant.replay().count == 1)
        #expect(try await plant.audit().closed)
    }

    /// Neither replayed nor counted: the row keeps what the bytes were.
    @Test func aDamagedObjectIsNoticed() async throws {
        let plant = try await Plant()
        try await outage(plant, messages: length)
        for key in await plant.objects.keys() { await plant.objects.damage(key) }
        await #expect(throws: DeadLetterReplay.Failure.self) { try await plant.replay() }
        let report = try await plant.audit()
        #expect(!report.sound && report.problems.joined().contains("damaged"), "\(report)")
        for key in await plant.objects.keys() { try await plant.objects.delete(key) }
        #expect(try await plant.audit().problems.joined().contains("not in the object store"))
    }

    /// All messages are in dead letters afterwards, but those of the first record.
    private func outage(_ plant: Plant, messages: Int) async throws {
        try await plant.append(1...1)
        let status = ProcessorStatus()
        try await plant.running(plant.processor(status, waitInOpen: 1_000_000)) {
            #expect(try await plant.until { status.state.messages == 1 })
            try await plant.cut()
            try await plant.append(2...messages)
            #expect(
                try await plant.until { await plant.objects.keys().count == messages / length },
                "\(plant.lines.all.suffix(8))")
            try await plant.mend()
            #expect(try await plant.until { try await plant.isDrained() })
        }
    }
}
