import Database
import NIOCore
import Sparkplug
import SyncModel

/// Reads and writes `sparkplug_entity`, `sparkplug_definition` and `sparkplug_birth`.
enum SparkplugStore {
    // MARK: Reading

    /// What a batch has of a node or device.
    struct Request: Sendable {
        var key: SparkplugKey
        /// Those that the database may not have yet.
        var births: [SparkplugBirth] = []
        /// What is to be read, in the gateway's order, whatever it is.
        var messages: [(position: GatewayPosition, payload: ByteBuffer)] = []
    }

    struct Reading: Sendable {
        /// Empty where nothing is stored. Those that were too much are not in it.
        var entries: [(key: SparkplugKey, entry: SparkplugBirthCache.Entry)] = []
        /// Those that the messages need, as far as they were not too much.
        var definitions: [SparkplugDefinition] = []
    }

    /// Nodes and devices of one statement; each has at most some hundred births.
    private static let entitiesPerStatement = 500
    /// Metrics of the definitions of one statement, where more than one is read.
    private static let metricsPerStatement = 50_000

    /// A definition that messages need, and a node or device that has it.
    private struct Wanted {
        var entity: Int64
        var digest: SparkplugDigest
        var metricCount: Int
    }

    /// Births first, which are small, then what the messages need of that which they say; all as of one moment.
    ///
    /// - Parameter maximum: births and metrics; what is more is not read.
    static func read(
        _ requests: [Request], loaded: SparkplugBirthCache, maximum: Int, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Reading {
        try connection.transaction(.readOnlySnapshot) { () throws(PostgresError) in
            var reading = Reading()
            var wanted: [Wanted] = []
            var known: Set<SparkplugDigest> = []
            var total = 0
            for start in stride(from: 0, to: requests.count, by: entitiesPerStatement) where total <= maximum {
                let slice = requests[start..<min(start + entitiesPerStatement, requests.count)]
                for (request, found) in zip(slice, try births(of: slice.map(\.key), on: connection)) {
                    reading.entries.append((request.key, found.entry))
                    total += found.entry.births.count
                    for birth in needed(by: request, found.entry.births)
                    where !loaded.knows(birth.digest) && known.insert(birth.digest).inserted {
                        wanted.append(Wanted(entity: found.id, digest: birth.digest, metricCount: birth.metricCount))
                    }
                }
            }
            wanted = wanted.filter { definition in
                guard total + definition.metricCount <= maximum else { return false }
                total += definition.metricCount
                return true
            }
            while !wanted.isEmpty {
                var metrics = 0
                let slice = wanted.prefix { definition in
                    defer { metrics += definition.metricCount + 1 }
                    return metrics == 0 || metrics + definition.metricCount < metricsPerStatement
                }
                wanted.removeFirst(slice.count)
                reading.definitions += try definitions(Array(slice), on: connection)
            }
            return reading
        }
    }

    /// Stored births that messages are read by, once each; those of the batch say themselves what they say.
    private static func needed(by request: Request, _ stored: SparkplugBirths) -> Set<SparkplugBirth> {
        var births = stored
        for birth in request.births { births.restore(birth) }
        var needed: Set<SparkplugBirth> = []
        let own = Set(request.births)
        for message in request.messages {
            guard let birth = births.birth(at: message.position), !own.contains(birth), !needed.contains(birth),
                SparkplugMessage.dependsOnBirth(message.payload)
            else { continue }
            needed.insert(birth)
        }
        return needed
    }

    private static let wanted = """
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
            WITH ORDINALITY AS w (gateway, group_name, node, device, position)
        JOIN gateway g ON g.name = w.gateway
        JOIN sparkplug_entity e ON e.gateway_id = g.id
            AND (e.group_name, e.node, e.device) = (w.group_name, w.node, w.device)
        """

    /// - Returns: an entry for each key, empty where nothing is stored.
    private static func births(
        of keys: [SparkplugKey], on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [(id: Int64, entry: SparkplugBirthCache.Entry)] {
        var found = keys.map { _ in (id: Int64(0), entry: SparkplugBirthCache.Entry()) }
        try connection.stream(
            """
            SELECT w.position, e.id, e.used_at, b.source, b.sequence, b.wall_time, b.monotonic_time, b.boot, b.digest,
                b.metric_count
            \(wanted) LEFT JOIN sparkplug_birth b ON b.entity_id = e.id
            """,
            names(keys)
        ) { (row) throws(PostgresError) in
            let index = Int(row.integer(0, 0)) - 1
            found[index].id = row.integer(0, 1)
            found[index].entry.usedAt = row.integer(0, 2)
            // A node or device without births: an earlier transaction has let go of them.
            if row.isNull(0, 3) { return }
            let boot = row.bytes(0, 7)
            found[index].entry.births.restore(
                SparkplugBirth(
                    position: GatewayPosition(
                        run: Int32(row.integer(0, 3)), sequence: row.integer(0, 4), wallTime: row.integer(0, 5),
                        monotonicTime: row.integer(0, 6), bootHigh: bigEndian(boot.prefix(8)),
                        bootLow: bigEndian(boot.dropFirst(8))),
                    digest: SparkplugDigest(row.bytes(0, 8)), metricCount: Int(row.integer(0, 9))))
        }
        return found
    }

    private static func definitions(
        _ wanted: [Wanted], on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [SparkplugDefinition] {
        var metrics: [[SparkplugDefinition.Metric]?] = wanted.map { _ in nil }
        try connection.stream(
            """
            SELECT w.position, m.name, coalesce(m.alias::text, ''), coalesce(m.datatype, -1)
            FROM unnest($1::int8[], $2::bytea[]) WITH ORDINALITY AS w (entity, digest, position)
            JOIN sparkplug_definition d ON (d.entity_id, d.digest) = (w.entity, w.digest)
            LEFT JOIN LATERAL unnest(d.names, d.aliases, d.datatypes)
                WITH ORDINALITY AS m (name, alias, datatype, place) ON true
            ORDER BY w.position, m.place
            """,
            [
                .int8Array(wanted.map(\.entity)), .byteaArray(wanted.map { ByteBuffer(bytes: $0.digest.bytes) }),
            ]
        ) { (row) throws(PostgresError) in
            let index = Int(row.integer(0, 0)) - 1
            if metrics[index] == nil { metrics[index] = [] }
            // It names nothing.
            if row.isNull(0, 1) { return }
            let datatype = row.integer(0, 3)
            metrics[index]?.append(
                .init(
                    name: Array(row.bytes(0, 1)), alias: UInt64(row.string(0, 2)),
                    datatype: datatype < 0 ? nil : UInt32(clamping: datatype)))
        }
        return zip(wanted, metrics).compactMap { wanted, metrics in
            metrics.map { SparkplugDefinition($0, digest: wanted.digest) }
        }
    }

    private static func bigEndian(_ bytes: some Sequence<UInt8>) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }

    // MARK: Writing

    /// In the caller's transaction. All who change a node's or device's births hold its row in `sparkplug_entity` first, in
    /// one order, so nothing is missing that is referred to, and nobody waits in a circle.
    ///
    /// - Parameter maximum: nodes and devices of a gateway; those that were not used for longest make room.
    /// - Returns: how many had to go.
    static func store(
        _ changes: SparkplugChanges, maximum: Int, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Int {
        if changes.isEmpty { return 0 }
        let (entities, grown) = try entities(of: changes, on: connection)
        if !changes.births.isEmpty {
            try insertDefinitions(changes, entities, on: connection)
            try insertBirths(changes, entities, on: connection)
            try delete(changes, entities, on: connection)
        }
        if !changes.used.isEmpty {
            // Whoever holds one of these says the same of it.
            try connection.query(
                """
                WITH w AS (
                    SELECT e.id \(wanted) WHERE e.used_at < $5 FOR UPDATE OF e SKIP LOCKED)
                UPDATE sparkplug_entity e SET used_at = $5 FROM w WHERE e.id = w.id
                """, names(changes.used) + [.int8(changes.time)])
        }
        return try makeRoom(for: grown, maximum: maximum, on: connection)
    }

    /// Their ids, made where they are missing; and the gateways that have more of them now.
    private static func entities(
        of changes: SparkplugChanges, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> (ids: [SparkplugKey: Int64], grown: Set<Int32>) {
        let keys = Array(Set(changes.births.map(\.key)))
        if keys.isEmpty { return ([:], []) }
        // A row that was there before has the lock of the update in xmax.
        let stored = try connection.query(
            """
            INSERT INTO sparkplug_entity AS e (gateway_id, group_name, node, device, used_at)
            SELECT g.id, w.group_name, w.node, w.device, $5
            FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS w (gateway, group_name, node, device)
            JOIN gateway g ON g.name = w.gateway ORDER BY 1, 2, 3, 4
            ON CONFLICT (gateway_id, group_name, node, device) DO UPDATE
                SET used_at = greatest(e.used_at, excluded.used_at)
            RETURNING e.gateway_id, e.xmax = 0
            """, names(keys) + [.int8(changes.time)], binary: true)
        let grown = (0..<stored.rowCount).filter { stored.bool($0, 1) }.map { Int32(stored.integer($0, 0)) }
        let rows = try connection.query("SELECT w.position, e.id \(wanted)", names(keys), binary: true)
        let ids = (0..<rows.rowCount).map { (keys[Int(rows.integer($0, 0)) - 1], rows.integer($0, 1)) }
        return (Dictionary(uniqueKeysWithValues: ids), Set(grown))
    }

    private struct DefinitionKey: Hashable {
        var entity: Int64
        var digest: SparkplugDigest
    }

    private static func insertDefinitions(
        _ changes: SparkplugChanges, _ entities: [SparkplugKey: Int64], on connection: isolated PostgresConnection
    ) throws(PostgresError) {
        var definitions: [DefinitionKey: SparkplugDefinition] = [:]
        for told in changes.births {
            guard let entity = entities[told.key] else { continue }
            definitions[DefinitionKey(entity: entity, digest: told.birth.digest)] = told.definition
        }
        let metrics = definitions.values.enumerated().flatMap { index, definition in
            definition.metrics.map { (definition: Int32(index + 1), metric: $0) }
        }
        try connection.query(
            """
            INSERT INTO sparkplug_definition (entity_id, digest, names, aliases, datatypes)
            SELECT d.entity, d.digest, coalesce(m.names, '{}'), coalesce(m.aliases, '{}'), coalesce(m.datatypes, '{}')
            FROM unnest($1::int8[], $2::bytea[]) WITH ORDINALITY AS d (entity, digest, definition)
            LEFT JOIN (
                SELECT definition, array_agg(name ORDER BY place) AS names,
                    array_agg(nullif(alias, '')::numeric ORDER BY place) AS aliases,
                    array_agg(nullif(datatype, -1) ORDER BY place) AS datatypes
                FROM unnest($3::int4[], $4::text[], $5::text[], $6::int8[])
                    WITH ORDINALITY AS m (definition, name, alias, datatype, place)
                GROUP BY definition) m USING (definition)
            ON CONFLICT DO NOTHING
            """,
            [
                .int8Array(definitions.keys.map(\.entity)),
                .byteaArray(definitions.keys.map { ByteBuffer(bytes: $0.digest.bytes) }),
                .int4Array(metrics.map(\.definition)),
                .textArray(metrics.map { String(decoding: $0.metric.name, as: UTF8.self) }),
                .textArray(metrics.map { $0.metric.alias.map { String($0) } ?? "" }),
                .int8Array(metrics.map { $0.metric.datatype.map { Int64($0) } ?? -1 }),
            ])
    }

    private static func insertBirths(
        _ changes: SparkplugChanges, _ entities: [SparkplugKey: Int64], on connection: isolated PostgresConnection
    ) throws(PostgresError) {
        let births = changes.births.compactMap { change in entities[change.key].map { ($0, change.birth) } }
        try connection.query(
            """
            INSERT INTO sparkplug_birth
                (entity_id, source, sequence, wall_time, monotonic_time, boot, digest, metric_count)
            SELECT w.entity, w.source, w.sequence, w.wall_time, w.monotonic_time, w.boot::uuid, w.digest, w.metric_count
            FROM unnest($1::int8[], $2::int4[], $3::int8[], $4::int8[], $5::int8[], $6::text[], $7::bytea[], $8::int4[])
                AS w (entity, source, sequence, wall_time, monotonic_time, boot, digest, metric_count)
            ON CONFLICT DO NOTHING
            """,
            [
                .int8Array(births.map(\.0)), .int4Array(births.map(\.1.position.run)),
                .int8Array(births.map(\.1.position.sequence)), .int8Array(births.map(\.1.position.wallTime)),
                .int8Array(births.map(\.1.position.monotonicTime)),
                .textArray(births.map { Epoch(high: $0.1.position.bootHigh, low: $0.1.position.bootLow).uuid }),
                .byteaArray(births.map { ByteBuffer(bytes: $0.1.digest.bytes) }),
                .int4Array(births.map { Int32(clamping: $0.1.metricCount) }),
            ])
    }

    private static func delete(
        _ changes: SparkplugChanges, _ entities: [SparkplugKey: Int64], on connection: isolated PostgresConnection
    ) throws(PostgresError) {
        let removed = changes.removed.compactMap { change in entities[change.key].map { ($0, change.position) } }
        if removed.isEmpty { return }
        let ids = PostgresValue.int8Array(removed.map(\.0))
        try connection.query(
            """
            DELETE FROM sparkplug_birth b USING unnest($1::int8[], $2::int4[], $3::int8[]) AS w (entity, source, sequence)
            WHERE (b.entity_id, b.source, b.sequence) = (w.entity, w.source, w.sequence)
            """,
            [ids, .int4Array(removed.map(\.1.run)), .int8Array(removed.map(\.1.sequence))])
        try connection.query(
            """
            DELETE FROM sparkplug_definition d WHERE d.entity_id = ANY ($1)
                AND NOT EXISTS (SELECT FROM sparkplug_birth b WHERE (b.entity_id, b.digest) = (d.entity_id, d.digest))
            """, [ids])
    }

    /// One that was heard of a moment before stays: its row is locked as it is now, and has another time than when it was
    /// chosen.
    private static func makeRoom(
        for gateways: Set<Int32>, maximum: Int, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Int {
        if gateways.isEmpty { return 0 }
        return try connection.query(
            """
            DELETE FROM sparkplug_entity WHERE id IN (
                SELECT e.id FROM sparkplug_entity e
                JOIN (
                    SELECT o.id, o.used_at FROM unnest($1::int4[]) AS g (id), LATERAL (
                        SELECT id, used_at FROM sparkplug_entity WHERE gateway_id = g.id
                        ORDER BY used_at DESC, id DESC OFFSET $2) o) o ON e.id = o.id AND e.used_at = o.used_at
                FOR UPDATE OF e SKIP LOCKED)
            """, [.int4Array(Array(gateways)), .int8(Int64(maximum))]
        ).affectedRows
    }

    private static func names(_ keys: [SparkplugKey]) -> [PostgresValue] {
        [
            .textArray(keys.map(\.gateway.text)), .textArray(keys.map(\.entity.group)),
            .textArray(keys.map(\.entity.nodeName)), .textArray(keys.map(\.entity.deviceName)),
        ]
    }
}
