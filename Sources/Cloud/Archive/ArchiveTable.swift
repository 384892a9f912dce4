/// The tables that are archived, and how a row becomes a line and a line a row.
///
/// A line is what COPY writes in its text format: fields with tabs between, `\N` for NULL. It names gateways, devices and
/// metrics instead of numbering them, so that it can be read where the database is gone.
package enum ArchiveTable: String, Codable, Sendable, CaseIterable {
    case measurement, event

    /// Of a line, in order, with their types. The collector reads the first fields of each line.
    var columns: [(name: String, type: String)] {
        let kind = self == .event ? [("kind", "smallint")] : []
        let message = [
            ("part", "smallint"), ("parts", "smallint"), ("flags", "smallint"), ("time", "timestamptz"),
            ("device_time", "timestamptz"), ("device", "text"), ("generation", "integer"), ("topic", "text"),
        ]
        let own =
            self == .measurement
            ? [("path", "text"), ("value", "double precision"), ("text", "text")]
            : [("body", "jsonb"), ("bytes", "bytea"), ("reason", "text"), ("body_version", "smallint")]
        return ([("gateway", "text"), ("epoch", "uuid"), ("sequence", "bigint")] + kind + message + own)
            .map { (name: $0.0, type: $0.1) }
    }

    /// A message that PostgreSQL had refused (decision 8).
    static let refusedKind = "9"

    /// Outer joins: a row whose names are missing has to be seen.
    ///
    /// - Parameter isAddendum: only messages that are not in the archive yet.
    func export(_ day: ArchiveDay, isAddendum: Bool) -> String {
        let message = "r.part, r.parts, r.flags, r.time, r.device_time, d.name, d.generation"
        let fields =
            self == .measurement
            ? "g.name, s.epoch, r.sequence, \(message), m.topic, m.path, r.value, r.text"
            : "g.name, s.epoch, r.sequence, r.kind, \(message), r.topic, r.body, r.bytes, r.reason, r.body_version"
        let late = " AND NOT archive_has('\(day)', r.source, r.sequence)"
        return """
            COPY (
                SELECT \(fields)
                FROM \(rawValue) r
                LEFT JOIN source s ON s.id = r.source LEFT JOIN gateway g ON g.id = s.gateway_id
                LEFT JOIN device d ON d.id = r.device_id
                \(self == .measurement ? "LEFT JOIN metric m ON m.id = r.metric_id" : "")
                WHERE \(Self.condition(day, "r.time"))\(isAddendum ? late : "")
            ) TO STDOUT
            """
    }

    static func condition(_ day: ArchiveDay, _ column: String = "time") -> String {
        "\(column) >= '\(day) 00:00:00+00' AND \(column) < '\(day.next) 00:00:00+00'"
    }

    /// Of the lines of one file, before they become rows.
    var staging: String { "archive_line_\(rawValue)" }

    var createStaging: String {
        "CREATE TEMPORARY TABLE \(staging) (\(columns.map { "\($0.name) \($0.type)" }.joined(separator: ", "))) "
            + "ON COMMIT DROP"
    }

    /// Names that this database has not seen: it is another one than the archive's.
    var restoreNames: [String] {
        let names = [
            "INSERT INTO gateway (name) SELECT DISTINCT gateway FROM \(staging) ON CONFLICT DO NOTHING",
            """
            INSERT INTO source (gateway_id, epoch) SELECT DISTINCT g.id, l.epoch
            FROM \(staging) l JOIN gateway g ON g.name = l.gateway ON CONFLICT DO NOTHING
            """,
            // Not alive: nobody has registered it here.
            """
            INSERT INTO device (name, generation, deleted_at) SELECT DISTINCT device, generation, now()
            FROM \(staging) ON CONFLICT DO NOTHING
            """,
        ]
        guard self == .measurement else { return names }
        return names + [
            """
            INSERT INTO metric (device_id, topic, path) SELECT DISTINCT d.id, l.topic, l.path
            FROM \(staging) l JOIN device d ON d.name = l.device AND d.generation = l.generation ON CONFLICT DO NOTHING
            """
        ]
    }

    func restore(into target: String) -> String {
        let own =
            self == .measurement
            ? ("metric_id, value, text", "m.id, l.value, l.text")
            : (
                "topic, kind, body, bytes, reason, body_version",
                "l.topic, l.kind, l.body, l.bytes, l.reason, l.body_version"
            )
        return """
            INSERT INTO \(target) (time, sequence, device_time, device_id, source, part, parts, flags, \(own.0))
            SELECT l.time, l.sequence, l.device_time, d.id, s.id, l.part, l.parts, l.flags, \(own.1)
            FROM \(staging) l
            JOIN gateway g ON g.name = l.gateway JOIN source s ON s.gateway_id = g.id AND s.epoch = l.epoch
            JOIN device d ON d.name = l.device AND d.generation = l.generation
            \(self == .measurement ? "JOIN metric m ON m.device_id = d.id AND m.topic = l.topic AND m.path = l.path" : "")
            """
    }
}
