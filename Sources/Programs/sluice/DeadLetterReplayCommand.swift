import ArgumentParser
import Database
import DeadLetters
import ObjectStore
import Operations
import Processor

struct DeadLetterReplayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay", abstract: "Store the messages of dead letters, all or some.",
        discussion: """
            Each dead letter is one transaction. One that fails stays as it is, and the others go on. Exit code 0: none \
            of those asked for waits any more; after --dry-run, all of them could be read.
            """)

    struct Result: Encodable {
        var id: Int64
        var object: String?
        /// `replayed`, `readable` (of a dry run), `not waiting` or `failed`.
        var outcome: String
        /// Of a dry run: records of the log in the object.
        var records: Int?
        /// Stored now, those that PostgreSQL refused among them: they are events of kind 9.
        var messages: Int?
        var duplicates: Int?
        var refused: Int?
        var error: String?
    }

    @OptionGroup var location: DatabaseLocation

    @Option(help: ArgumentHelp("Only this one; may be repeated.", valueName: "number"))
    var id: [Int64] = []

    @Flag(help: "Only read and check the objects; store nothing.")
    var dryRun = false

    @Flag(help: "Print the result as JSON.")
    var json = false

    func run() async throws {
        let cloud = try CloudFileOptions.load(location.file)
        let files = DeadLetterFiles(store: try CloudFileOptions.objects(cloud, location.file))
        let url = try location.url()
        let replay = DeadLetterReplay(configuration: .replaying(cloud.processor, database: url), files: files)
        let connection = try await PostgresConnection.connect(.unlimited(url: url, applicationName: "sluice-dlq"))
        var results: [Result] = []
        let wanted = Set(id)
        for (id, entry) in try await DeadLetterTable.waiting(on: connection)
        where wanted.isEmpty || wanted.contains(id) {
            results.append(
                dryRun ? await Self.check(id, entry, files) : await Self.replay(id, entry, replay, connection))
        }
        let rest = wanted.subtracting(results.map(\.id))
        if !rest.isEmpty { results += try await Self.others(rest.sorted(), connection) }
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

    private static func check(_ id: Int64, _ entry: DeadLetterEntry, _ files: DeadLetterFiles) async -> Result {
        var result = Result(id: id, object: entry.object, outcome: "failed")
        do throws(DeadLetterFiles.Failure) {
            result.records = try await files.read(entry).records.count
            result.outcome = "readable"
        } catch {
            result.error = error.description
        }
        return result
    }

    /// Those that were asked for and do not wait.
    private static func others(
        _ ids: [Int64], _ connection: PostgresConnection
    ) async throws(PostgresError) -> [Result] {
        let kinds = try await DeadLetterTable.kinds(of: ids, on: connection)
        return ids.map { id in
            switch kinds[id] {
            case .range: Result(id: id, outcome: "not waiting")
            case .message:
                Result(
                    id: id, outcome: "failed",
                    error: "it is a message that PostgreSQL refused, and is stored: in the table event, kind 9")
            case nil:
                Result(id: id, outcome: "failed", error: "there is no such dead letter: sluice dlq list shows all")
            }
        }
    }

    private static func line(_ result: Result) -> String {
        var text = "\(result.id)"
        if let object = result.object { text += "  \(object)" }
        text += "  \(result.outcome)"
        if let records = result.records { text += "  \(records) records" }
        if let messages = result.messages, let duplicates = result.duplicates {
            text += "  \(messages) messages, \(duplicates) had been stored before"
        }
        if let refused = result.refused, refused > 0 {
            text += ", \(refused) of them refused by PostgreSQL"
        }
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
