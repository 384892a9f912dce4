import ArgumentParser
import Database
import DeadLetters
import Foundation
import ObjectStore
import Operations
import Processor

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
    static let configuration = CommandConfiguration(commandName: "list", abstract: "Show dead letters, newest first.")

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

    @Option(
        help: ArgumentHelp(
            "The database: a URL or connection string of libpq; by default $SLUICE_DATABASE.", valueName: "url"))
    var database: String?

    @Option(help: "At most so many.")
    var limit = 100

    @Flag(help: "Only objects that are not replayed.")
    var waiting = false

    @Flag(help: "Print the result as JSON.")
    var json = false

    func validate() throws {
        guard (1...100_000).contains(limit) else { throw ValidationError("--limit is 1 to 100000") }
    }

    func run() async throws {
        let connection = try await PostgresConnection.connect(
            .unlimited(url: try databaseURL(database), applicationName: "sluice-dlq"))
        let letters = try await Self.read(waiting: waiting, limit: limit, on: connection)
        if json { return print(try jsonText(letters)) }
        if letters.isEmpty { return print("there are no dead letters") }
        for letter in letters { print(Self.line(letter)) }
    }

    private static func line(_ letter: Letter) -> String {
        let what: String
        if let object = letter.object {
            what = "\(object)  \(letter.bytes ?? 0) bytes"
        } else {
            what = "gateway \(letter.gateway ?? "?"), device \(letter.device ?? "?"), sequence \(letter.sequence ?? 0)"
        }
        return "\(letter.id)  \(letter.createdAt)  \(letter.kind)  \(letter.state)  \(what)  \(letter.reason)"
    }

    private static func read(
        waiting: Bool, limit: Int, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [Letter] {
        let rows = try connection.query(
            """
            SELECT l.id, l.kind, l.state, l.reason, to_char(l.created_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                to_char(l.replayed_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), l.object, l.bytes, l.partition, l.first_offset,
                l.next_offset, g.name, s.epoch, l.device, l.sequence
            FROM dead_letter l LEFT JOIN source s ON s.id = l.source LEFT JOIN gateway g ON g.id = s.gateway_id
            WHERE NOT $1 OR (l.kind = 1 AND l.state = 'stored') ORDER BY l.id DESC LIMIT $2
            """, [.bool(waiting), .int8(Int64(limit))])
        return (0..<rows.rowCount).map { row in
            let text = { (column: Int) in rows.isNull(row, column) ? nil : rows.string(row, column) }
            let number = { (column: Int) in rows.isNull(row, column) ? nil : rows.integer(row, column) }
            return Letter(
                id: rows.integer(row, 0), kind: rows.integer(row, 1) == 1 ? "range" : "message",
                state: rows.string(row, 2), reason: rows.string(row, 3), createdAt: rows.string(row, 4),
                replayedAt: text(5), object: text(6), bytes: number(7), partition: number(8), firstOffset: number(9),
                nextOffset: number(10), gateway: text(11), epoch: text(12), device: text(13), sequence: number(14))
        }
    }
}

struct DeadLetterReplayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay", abstract: "Store the messages of dead letters, all or some.",
        discussion: """
            Each dead letter is one transaction. One that fails stays as it is, and the others go on. Exit code 0: none \
            of those asked for waits any more.
            """)

    struct Result: Encodable {
        var id: Int64
        var object: String
        /// `replayed`, `not waiting` or `failed`.
        var outcome: String
        var messages: Int?
        var duplicates: Int?
        var refused: Int?
        var error: String?
    }

    @Option(
        help: ArgumentHelp(
            "The configuration of sluice-cloud: says how payloads become rows and where objects are.", valueName: "file"
        ))
    var config: String

    @Option(
        help: ArgumentHelp(
            "The database: a URL or connection string of libpq; by default $SLUICE_DATABASE, else the configuration's.",
            valueName: "url"))
    var database: String?

    @Option(help: ArgumentHelp("Only this one; may be repeated.", valueName: "number"))
    var id: [Int64] = []

    @Flag(help: "Print the result as JSON.")
    var json = false

    func run() async throws {
        let cloud = try CloudConfiguration.load(file: config, role: .process)
        guard let objects = cloud.objects else {
            throw ValidationError("\(config): it has no objects, so there is no place for dead letters")
        }
        let url = try CloudFileOptions.database(database, cloud)
        let files = DeadLetterFiles(store: try objects.open())
        let replay = DeadLetterReplay(
            configuration: .replaying(cloud.processor, database: url), files: files)
        let connection = try await PostgresConnection.connect(
            .unlimited(url: url, applicationName: "sluice-dlq"))
        let wanted = Set(id)
        let letters = try await DeadLetterTable.waiting(on: connection)
            .filter { wanted.isEmpty || wanted.contains($0.id) }
        var results: [Result] = []
        for (id, entry) in letters { results.append(await Self.replay(id, entry, replay, connection)) }
        if json {
            print(try jsonText(results))
        } else if results.isEmpty {
            print("no dead letter waits")
        } else {
            for result in results { print(Self.line(result)) }
        }
        if results.contains(where: { $0.error != nil }) { throw ExitCode(1) }
    }

    private static func replay(
        _ id: Int64, _ entry: DeadLetterEntry, _ replay: DeadLetterReplay, _ connection: PostgresConnection
    ) async -> Result {
        var result = Result(id: id, object: entry.object, outcome: "failed")
        do throws(DeadLetterReplay.Failure) {
            switch try await replay.replay(id, entry, on: connection) {
            case .replayed(let messages, let duplicates, let refused):
                result.outcome = "replayed"
                result.messages = messages
                result.duplicates = duplicates
                result.refused = refused
            case .notWaiting: result.outcome = "not waiting"
            }
        } catch {
            result.error = error.description
        }
        return result
    }

    private static func line(_ result: Result) -> String {
        var text = "\(result.id)  \(result.object)  \(result.outcome)"
        if let messages = result.messages, let duplicates = result.duplicates {
            text += "  \(messages) messages, \(duplicates) had been stored before"
        }
        if let refused = result.refused, refused > 0 { text += ", \(refused) refused by PostgreSQL" }
        if let error = result.error { text += ": \(error)" }
        return text
    }
}

extension ProcessorConfiguration {
    /// As the daemon's processor is configured.
    fileprivate static func replaying(_ processor: CloudConfiguration.Processor, database: String) -> Self {
        var settings = ProcessorConfiguration(database: database, member: "sluice-dlq")
        settings.timeField = processor.timeField
        settings.hotDays = processor.hotDays
        settings.metricsPerMessage = processor.metricsPerMessage
        settings.metricsPerDevice = processor.metricsPerDevice
        return settings
    }
}
