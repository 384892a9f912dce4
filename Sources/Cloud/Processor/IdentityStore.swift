import Database
import NIOCore
import SyncModel

/// Finds and makes ids. Each statement commits by itself, before the batch's transaction: an id that no row uses is
/// harmless, an id in a cache whose transaction was rolled back is not.
enum IdentityStore {
    struct Device: Sendable {
        var name: String
        var id: Int32
    }

    struct Metric: Sendable {
        var device: Int32
        var topic: String
        var path: String
        var id: Int32
    }

    struct Devices: Sendable {
        var registryVersion: Int64
        var devices: [Device]
        /// All metrics of these devices.
        var metrics: [Metric]
    }

    static func sources(
        _ keys: [SourceKey], on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [(SourceKey, Int32)] {
        let gateways = PostgresValue.textArray(keys.map(\.gateway.text))
        let epochs = PostgresValue.textArray(keys.map { $0.epoch.uuid })
        try connection.query(
            "INSERT INTO gateway (name) SELECT DISTINCT unnest($1::text[]) ON CONFLICT DO NOTHING", [gateways])
        try connection.query(
            """
            INSERT INTO source (gateway_id, epoch)
            SELECT g.id, w.epoch::uuid FROM unnest($1::text[], $2::text[]) AS w (gateway, epoch)
            JOIN gateway g ON g.name = w.gateway ON CONFLICT DO NOTHING
            """, [gateways, epochs])
        let rows = try connection.query(
            """
            SELECT w.position, s.id FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (gateway, epoch, position)
            JOIN gateway g ON g.name = w.gateway JOIN source s ON s.gateway_id = g.id AND s.epoch = w.epoch::uuid
            """, [gateways, epochs], binary: true)
        return (0..<rows.rowCount).map { (keys[Int(rows.integer($0, 0)) - 1], Int32(rows.integer($0, 1))) }
    }

    /// A name without a living device becomes one: the next generation, where there were deleted ones.
    static func devices(
        _ names: [String], on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Devices {
        // Before the devices: a deletion in between is noticed by the next transaction.
        let version = try registryVersion(on: connection)
        try connection.query(
            """
            INSERT INTO device (name, generation)
            SELECT w.name, coalesce((SELECT max(generation) FROM device d WHERE d.name = w.name), 0) + 1
            FROM unnest($1::text[]) AS w (name)
            WHERE NOT EXISTS (SELECT FROM device d WHERE d.name = w.name AND d.deleted_at IS NULL)
            ON CONFLICT DO NOTHING
            """, [.textArray(names)])
        let found = try connection.query(
            "SELECT name, id FROM device WHERE name = ANY ($1::text[]) AND deleted_at IS NULL", [.textArray(names)],
            binary: true)
        let devices = (0..<found.rowCount).map {
            Device(name: found.string($0, 0), id: Int32(found.integer($0, 1)))
        }
        var metrics: [Metric] = []
        try connection.stream(
            "SELECT device_id, topic, path, id FROM metric WHERE device_id = ANY ($1)",
            [.int4Array(devices.map(\.id))]
        ) { (row) throws(PostgresError) in
            metrics.append(
                Metric(
                    device: Int32(row.integer(0, 0)), topic: row.string(0, 1), path: row.string(0, 2),
                    id: Int32(row.integer(0, 3))))
        }
        return Devices(registryVersion: version, devices: devices, metrics: metrics)
    }

    /// Makes the metrics that are missing, up to `limit` a device; those that are not in the result are beyond it.
    static func metrics(
        _ keys: [MetricKey], limit: Int, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [Metric] {
        let parameters: [PostgresValue] = [
            .int4Array(keys.map(\.device)), .textArray(keys.map(\.topic.text)), .textArray(keys.map(\.path.text)),
        ]
        try connection.query(
            """
            INSERT INTO metric (device_id, topic, path)
            SELECT n.device_id, n.topic, n.path FROM (
                SELECT w.device_id, w.topic, w.path,
                       row_number() OVER (PARTITION BY w.device_id ORDER BY w.position) AS rank
                FROM unnest($1::int4[], $2::text[], $3::text[])
                    WITH ORDINALITY AS w (device_id, topic, path, position)
                WHERE NOT EXISTS (
                    SELECT FROM metric m WHERE (m.device_id, m.topic, m.path) = (w.device_id, w.topic, w.path))
            ) n
            WHERE n.rank + (SELECT count(*) FROM metric m WHERE m.device_id = n.device_id) <= $4
            ON CONFLICT DO NOTHING
            """, parameters + [.int8(Int64(limit))])
        let rows = try connection.query(
            """
            SELECT w.position, m.id FROM unnest($1::int4[], $2::text[], $3::text[])
                WITH ORDINALITY AS w (device_id, topic, path, position)
            JOIN metric m ON (m.device_id, m.topic, m.path) = (w.device_id, w.topic, w.path)
            """, parameters, binary: true)
        return (0..<rows.rowCount).map { row in
            let key = keys[Int(rows.integer(row, 0)) - 1]
            return Metric(
                device: key.device, topic: key.topic.text, path: key.path.text, id: Int32(rows.integer(row, 1)))
        }
    }

    static func registryVersion(on connection: isolated PostgresConnection) throws(PostgresError) -> Int64 {
        try connection.query("SELECT version FROM registry_version", binary: true).integer(0, 0)
    }

    /// Makes the partitions of these days (since 1970, UTC), where they are missing.
    static func partitions(
        days: [Int32], on connection: isolated PostgresConnection
    ) throws(PostgresError) {
        // A statement a day: each commits, so that no lock is kept while the next is made.
        for day in days { try connection.query("SELECT ensure_partitions(date '1970-01-01' + $1)", [.int4(day)]) }
    }
}

extension Epoch {
    /// As PostgreSQL reads and prints a uuid.
    package var uuid: String {
        let digits = Array(Self.hexadecimal(high) + Self.hexadecimal(low))
        return [0..<8, 8..<12, 12..<16, 16..<20, 20..<32].map { String(digits[$0]) }.joined(separator: "-")
    }

    private static func hexadecimal(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}
