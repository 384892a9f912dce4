import ArgumentParser
import Database

/// `sluice dlq`.
struct DeadLetterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dlq", abstract: "Show dead letters, and store what is in them.",
        discussion: """
            While the database did not answer, and the configuration says `fallback: deadLetter`, ranges of the event log \
            went to objects. Replaying stores their messages, each exactly once, however often it is tried. Messages that \
            PostgreSQL refused are shown too; their bytes and reasons are in the table event.
            """,
        subcommands: [DeadLetterList.self, DeadLetterReplayCommand.self])
}

struct DeadLetterList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Show dead letters, newest first.",
        discussion: """
            --since and --before take what PostgreSQL takes for a time, in UTC: 2026-03-01, "2026-03-01 14:30", yesterday.
            """)

    enum Kind: String, ExpressibleByArgument, CaseIterable { case range, message }

    struct Letter: Encodable {
        var id: Int64
        /// `range`: records of the event log in an object; `message`: PostgreSQL refused it.
        var kind: String
        var state: String
        var reason: String
        var createdAt: String
        var replayedAt: String?
        var object: String?
        var bytes: Int64?
        var partition: Int64?
        var firstOffset: Int64?
        var nextOffset: Int64?
        var gateway: String?
        var epoch: String?
        var device: String?
        var sequence: Int64?
    }

    @OptionGroup var location: DatabaseLocation

    @Option(help: "At most so many.")
    var limit = 100

    @Flag(help: "Only objects that are not replayed.")
    var waiting = false

    @Option(help: "Only ranges of the event log, or only messages that PostgreSQL refused.")
    var kind: Kind?

    @Option(help: ArgumentHelp("Only those whose reason has this text in it.", valueName: "text"))
    var reason: String?

    @Option(help: ArgumentHelp("Only those that were recorded then or later.", valueName: "time"))
    var since: String?

    @Option(help: ArgumentHelp("Only those that were recorded earlier.", valueName: "time"))
    var before: String?

    @Flag(help: "Print the result as JSON.")
    var json = false

    func validate() throws {
        guard (1...100_000).contains(limit) else { throw ValidationError("--limit is 1 to 100000") }
    }

    func run() async throws {
        let connection = try await PostgresConnection.connect(
            .unlimited(url: try location.url(), applicationName: "sluice-dlq"))
        let (letters, total) = try await matching(on: connection)
        if json { return print(try jsonText(letters)) }
        let asked = waiting || kind != nil || reason != nil || since != nil || before != nil
        if letters.isEmpty { return print(asked ? "no dead letter is as asked" : "there are no dead letters") }
        for letter in letters { print(Self.line(letter)) }
        let objects = letters.filter { $0.kind == "range" && $0.state == "stored" }
        print(
            "\(letters.count) of \(total) dead letters; of these \(objects.count) wait for sluice dlq replay, "
                + "\(objects.reduce(0) { $0 + ($1.bytes ?? 0) }) bytes")
    }

    private func matching(on connection: PostgresConnection) async throws -> (letters: [Letter], total: Int64) {
        do throws(PostgresError) {
            return try await read(on: connection)
        } catch {
            // invalid_datetime_format, datetime_field_overflow
            guard ["22007", "22008"].contains(error.sqlState) else { throw error }
            throw ValidationError(
                "--since or --before: \(error.message); a time is like 2026-03-01 or \"2026-03-01 14:30\"")
        }
    }

    private static func line(_ letter: Letter) -> String {
        let what: String
        if let object = letter.object {
            what = "\(object)  \(letter.bytes ?? 0) bytes"
        } else {
            what = "gateway \(letter.gateway ?? "?"), device \(letter.device ?? "?"), sequence \(letter.sequence ?? 0)"
        }
        // "stored" would read as if it were in the tables.
        let state = letter.kind == "range" && letter.state == "stored" ? "waiting" : letter.state
        return "\(letter.id)  \(letter.createdAt)  \(letter.kind)  \(state)  \(what)  \(letter.reason)"
    }

    /// The total is of all that match, whatever `limit` is.
    private func read(
        on connection: isolated PostgresConnection
    ) throws(PostgresError) -> (letters: [Letter], total: Int64) {
        let rows = try connection.query(
            """
            SELECT l.id, l.kind, l.state, l.reason, to_char(l.created_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                to_char(l.replayed_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), l.object, l.bytes, l.partition, l.first_offset,
                l.next_offset, g.name, s.epoch, l.device, l.sequence, count(*) OVER ()
            FROM dead_letter l LEFT JOIN source s ON s.id = l.source LEFT JOIN gateway g ON g.id = s.gateway_id
            WHERE (NOT $1 OR (l.kind = 1 AND l.state = 'stored')) AND ($3::int8 IS NULL OR l.kind = $3)
                AND ($4::text IS NULL OR strpos(lower(l.reason), lower($4)) > 0)
                AND ($5::text IS NULL OR l.created_at >= $5::timestamptz)
                AND ($6::text IS NULL OR l.created_at < $6::timestamptz)
            ORDER BY l.id DESC LIMIT $2
            """,
            [
                .bool(waiting), .int8(Int64(limit)), kind.map { .int8($0 == .range ? 1 : 2) } ?? .null,
                reason.map { .text($0) } ?? .null, since.map { .text($0) } ?? .null, before.map { .text($0) } ?? .null,
            ])
        let letters = (0..<rows.rowCount).map { row in
            let text = { (column: Int) in rows.isNull(row, column) ? nil : rows.string(row, column) }
            let number = { (column: Int) in rows.isNull(row, column) ? nil : rows.integer(row, column) }
            return Letter(
                id: rows.integer(row, 0), kind: rows.integer(row, 1) == 1 ? "range" : "message",
                state: rows.string(row, 2), reason: rows.string(row, 3), createdAt: rows.string(row, 4),
                replayedAt: text(5), object: text(6), bytes: number(7), partition: number(8), firstOffset: number(9),
                nextOffset: number(10), gateway: text(11), epoch: text(12), device: text(13), sequence: number(14))
        }
        return (letters, rows.rowCount > 0 ? rows.integer(0, 15) : 0)
    }
}
