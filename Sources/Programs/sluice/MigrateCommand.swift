import ArgumentParser
import Database
import Foundation
import Operations

/// `sluice migrate`.
struct MigrateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migrate", abstract: "Bring the database's schema to a version.",
        discussion: """
            Each file runs in one transaction, under a lock, and is remembered with its checksum in schema_version. \
            Without --migrations they are looked for in $SLUICE_MIGRATIONS, ./cloud/migrations, ../share/sluice/migrations \
            beside the program's folder, and cloud/migrations in each folder above the program.
            """,
        subcommands: [MigrateUp.self, MigrateDown.self, MigrateStatus.self, MigrateCheck.self])
}

struct MigrateOptions: ParsableArguments {
    @OptionGroup var location: DatabaseLocation

    @Option(help: ArgumentHelp("The folder of the migrations.", valueName: "directory"))
    var migrations: String?

    @Flag(help: "Print the result as JSON.")
    var json = false

    func connect() async throws -> (Migrator, PostgresConnection) {
        let migrator = try Migrator(path: try MigrationFile.directory(given: migrations))
        let settings = PostgresConfiguration.unlimited(
            url: try location.url(), applicationName: "sluice-migrate")
        return (migrator, try await PostgresConnection.connect(settings))
    }

    func print(_ steps: [Migrator.Step], none: String) throws {
        if json { return Swift.print(try jsonText(steps)) }
        if steps.isEmpty { return Swift.print(none) }
        for step in steps { Swift.print("\(step.version)  \(step.name)  \(step.appliedAt ?? "not applied")") }
    }
}

func jsonText(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
}

struct MigrateUp: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "up", abstract: "Apply what is missing, up to the newest version or to one.")

    @OptionGroup var options: MigrateOptions
    @Option(help: "The last version to apply.")
    var to: Int?

    func run() async throws {
        let (migrator, connection) = try await options.connect()
        let done = Set(try await migrator.up(on: connection, to: to).map(\.version))
        let steps = try await migrator.status(on: connection).filter { done.contains($0.version) }
        try options.print(steps, none: "nothing to apply")
    }
}

struct MigrateDown: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "down",
        abstract: "Undo the newest version, or all above one. Undoing drops tables with their rows.")

    @OptionGroup var options: MigrateOptions
    @Option(help: "The version that stays; 0 undoes all.")
    var to: Int?

    func run() async throws {
        let (migrator, connection) = try await options.connect()
        let undone = try await migrator.down(on: connection, to: to)
        try options.print(
            undone.map { Migrator.Step(version: $0.version, name: $0.name, appliedAt: nil) }, none: "nothing to undo")
    }
}

struct MigrateStatus: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show every version, and when it was applied.")

    @OptionGroup var options: MigrateOptions

    func run() async throws {
        let (migrator, connection) = try await options.connect()
        try options.print(try await migrator.status(on: connection), none: "there are no migrations")
    }
}

struct MigrateCheck: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Check the files against the rules, and a database against this program.",
        discussion: """
            Files may only add what programs of the release before do not need, or say why in their first line. With a \
            database: its schema is what this program works with, and it is the database that it was. Ends with 1 where \
            something is wrong.
            """)

    @OptionGroup var options: MigrateOptions

    func run() async throws {
        let migrator = try Migrator(path: try MigrationFile.directory(given: options.migrations))
        var problems = migrator.files.flatMap(MigrationCheck.problems)
        if options.location.isNamed {
            let (_, connection) = try await options.connect()
            do { try await ProgramSchema.admit(on: connection) } catch { problems.append(error.message) }
        }
        if options.json { print(try jsonText(problems)) } else { for problem in problems { print(problem) } }
        if !problems.isEmpty { throw ExitCode(1) }
        if !options.json { print("nothing is wrong") }
    }
}
