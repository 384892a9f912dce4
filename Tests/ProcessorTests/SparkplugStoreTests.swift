import Database
import NIOCore
import Sparkplug
import TestSupport
import Testing

@testable import Processor

@Suite struct SparkplugStoreTests {
    private static func store(
        _ changes: SparkplugChanges, maximum: Int, _ connection: isolated PostgresConnection
    ) throws(PostgresError) {
        _ = try connection.transaction { () throws(PostgresError) in
            try SparkplugStore.store(changes, maximum: maximum, on: connection)
        }
    }

    private static func run(_ sql: String, _ connection: isolated PostgresConnection) throws(PostgresError) {
        try connection.run(sql)
    }

    private static func read(
        _ requests: [SparkplugStore.Request], maximum: Int = 1_000, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> SparkplugStore.Reading {
        try SparkplugStore.read(
            requests, loaded: SparkplugBirthCache(maximumWeight: 0), maximum: maximum, on: connection)
    }

    /// Data that is called by its alias alone.
    private func data(at birth: SparkplugTold) -> (position: GatewayPosition, payload: ByteBuffer) {
        (birth.birth.position, ByteBuffer(bytes: payload(0, .init(alias: 1, .int(0)))))
    }

    private func key(_ node: Int) -> SparkplugKey {
        SparkplugKey(gateway: ExactName("g"), entity: SparkplugEntity(group: "G".utf8, node: "n\(node)".utf8))
    }

    private func birth(_ node: Int, _ sequence: Int64, _ names: Int...) -> SparkplugTold {
        SparkplugTold(
            key: key(node),
            position: GatewayPosition(
                run: 1, sequence: sequence, wallTime: -5, monotonicTime: sequence, bootHigh: 1 << 63, bootLow: 7),
            definition: SparkplugDefinition(
                names.map {
                    .init(name: Array("name \($0)".utf8), alias: $0 == 0 ? nil : .max, datatype: 4_294_967_295)
                })
        )
    }

    private func warehouse() async throws -> Warehouse {
        let warehouse = try await Warehouse()
        try await Self.run("INSERT INTO gateway (name) VALUES ('g')", warehouse.connection)
        return warehouse
    }

    @Test func whatIsStoredIsReadAsItWas() async throws {
        let warehouse = try await warehouse()
        let births = [birth(1, 1, 1, 0), birth(1, 2), birth(1, 3, 1, 0), birth(1, 4, 5)]
        var changes = SparkplugChanges()
        changes.births = births
        changes.time = 77
        try await Self.store(changes, maximum: 9, warehouse.connection)
        let found = try await Self.read(
            [.init(key: key(2)), .init(key: key(1), messages: births.prefix(3).map(data))], warehouse.connection)
        let entries = found.entries.map(\.entry)
        #expect(found.entries.map(\.key) == [key(2), key(1)])
        #expect(entries[0].births.count == 0 && entries[0].usedAt == nil)
        #expect(entries[1].births.count == 4 && entries[1].usedAt == 77 && entries[1].births.metricCount == 3)
        for birth in births { #expect(entries[1].births.birth(at: birth.birth.position) == birth.birth) }
        #expect(Set(found.definitions.map(\.metrics)) == Set(births.prefix(3).map(\.definition.metrics)))
        #expect(
            found.definitions.allSatisfy { SparkplugDigest(of: $0.metrics) == $0.digest }
                && found.definitions.count == 2,
            "what is needed, and nothing else")
        let sameBoot = GatewayPosition(
            run: 9, sequence: 1, wallTime: -9, monotonicTime: 9, bootHigh: 1 << 63, bootLow: 7)
        #expect(entries[1].births.birth(at: sameBoot) == births[3].birth)
    }

    /// The births of a batch say what they say; what is named and typed by itself asks nobody.
    @Test func onlyWhatDataNeedsIsRead() async throws {
        let warehouse = try await warehouse()
        var changes = SparkplugChanges()
        changes.births = [birth(1, 1, 1), birth(1, 5, 2), birth(2, 1, 1)]
        changes.time = 1
        try await Self.store(changes, maximum: 9, warehouse.connection)
        func read(_ requests: SparkplugStore.Request..., maximum: Int = 1_000) async throws -> [[UInt8]] {
            let found = try await Self.read(requests, maximum: maximum, warehouse.connection)
            return found.definitions.flatMap { $0.metrics.map(\.name) }
        }
        let whole = ByteBuffer(bytes: payload(0, .init("a", datatype: 3, .int(0))))
        #expect(try await read(.init(key: key(1), messages: [(birth(1, 9).birth.position, whole)])).isEmpty)
        let new = birth(1, 7, 3)
        #expect(try await read(.init(key: key(1), births: [new.birth], messages: [data(at: birth(1, 8))])).isEmpty)
        let first = SparkplugStore.Request(key: key(1), messages: [data(at: birth(1, 2))])
        let second = SparkplugStore.Request(key: key(2), messages: [data(at: birth(2, 2))])
        #expect(try await read(first, second) == [Array("name 1".utf8)], "two that say the same")
        let third = SparkplugStore.Request(
            key: key(1), births: [new.birth], messages: [data(at: birth(1, 2)), data(at: birth(1, 6))])
        #expect(try await read(third).count == 2)
        #expect(try await read(third, maximum: 3).count == 1, "two births and one metric")
        #expect(try await read(third, maximum: 2).isEmpty)
    }

    /// Nodes that are there already do not make others go.
    @Test func roomIsMadeWhereANodeIsNew() async throws {
        let warehouse = try await warehouse()
        func store(_ births: SparkplugTold..., time: Int64) async throws -> String {
            var changes = SparkplugChanges()
            changes.births = births
            changes.time = time
            try await Self.store(changes, maximum: 2, warehouse.connection)
            return try await warehouse.lines("SELECT node FROM sparkplug_entity ORDER BY 1").joined(separator: " ")
        }
        try await Self.run(
            """
            INSERT INTO sparkplug_entity (gateway_id, group_name, node, device, used_at)
            SELECT id, 'G', 'n' || n, '', n FROM gateway, generate_series(1, 4) n
            """, warehouse.connection)
        #expect(try await store(birth(1, 1, 1), time: 5) == "n1 n2 n3 n4")
        #expect(try await store(birth(1, 2, 1), birth(7, 1, 1), time: 6) == "n1 n7")
    }

    /// Two processors that store births of the same nodes while others make room: nobody waits in a circle, and nothing
    /// that is referred to is missing, which would stop a partition.
    @Test func processorsDoNotDisturbEachOther() async throws {
        let warehouse = try await warehouse()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for processor in 0..<3 {
                let connection = try await PostgresConnection.connect(
                    .init(url: warehouse.url, applicationName: "processor \(processor)"))
                group.addTask {
                    var state = UInt64(processor) &* 77 &+ 1
                    func random(_ below: Int) -> Int {
                        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                        return Int(state >> 33) % below
                    }
                    for round in 1...60 {
                        var changes = SparkplugChanges()
                        changes.time = Int64(round)
                        for _ in 0..<6 {
                            let node = random(12)
                            let key = self.key(node)
                            changes.births.append(self.birth(node, Int64(random(20)), random(3)))
                            changes.removed.append((key, self.birth(node, Int64(random(20))).birth.position))
                            changes.used.append(self.key(random(12)))
                        }
                        try await Self.store(changes, maximum: 5, connection)
                    }
                    await connection.close()
                }
            }
            try await group.waitForAll()
        }
        #expect(try await warehouse.one("SELECT count(*) BETWEEN 1 AND 12 AS n FROM sparkplug_entity") == "true")
        #expect(
            try await warehouse.one(
                """
                SELECT count(*) AS n FROM sparkplug_birth b WHERE NOT EXISTS (
                    SELECT FROM sparkplug_definition d WHERE (d.entity_id, d.digest) = (b.entity_id, b.digest))
                """) == "0")
        var last = SparkplugChanges()
        last.births = [birth(99, 1, 1)]
        last.time = 1_000
        try await Self.store(last, maximum: 5, warehouse.connection)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM sparkplug_entity") == "5")
    }
}
