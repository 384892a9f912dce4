import ArgumentParser
import Database
import Foundation

/// `sluice database`.
struct DatabaseCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "database", abstract: "Flags of the database, and what to do after it was restored.",
        subcommands: [DatabaseRestored.self, DatabaseFlags.self])
}

struct DatabaseOptions: ParsableArguments {
    @OptionGroup var location: DatabaseLocation

    @Flag(help: "Print the result as JSON.")
    var json = false

    func connect() async throws -> PostgresConnection {
        try await PostgresConnection.connect(
            PostgresConfiguration(url: try location.url(), applicationName: "sluice-database"))
    }
}

struct DatabaseRestored: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restored", abstract: "Go on with a database that was restored, copied or promoted.",
        discussion: """
            Raises every fencing epoch, so that no processor that has worked on another state of the database can write to \
            this one, and lets processors start. They fill it again from the event log, from the offsets that are shown: the \
            log must still have these. Processors that named a partition as stopped have to be restarted.
            """)

    @OptionGroup var options: DatabaseOptions

    func run() async throws {
        let connection = try await options.connect()
        let raised = try await DatabaseIdentity.accept(on: connection)
        if options.json { return print(try jsonText(raised)) }
        for partition in raised.partitions {
            print(
                "partition \(partition.partition)  next offset \(partition.nextOffset)  stored \(partition.updatedAt)")
        }
        print("\(raised.partitions.count) partitions; processors go on from these offsets")
    }
}

struct DatabaseFlags: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "flags", abstract: "Flags that turn on what needs a newer schema.",
        subcommands: [DatabaseFlagsList.self, DatabaseFlagsSet.self], defaultSubcommand: DatabaseFlagsList.self)
}

struct DatabaseFlagsList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "Show every flag.")

    @OptionGroup var options: DatabaseOptions

    func run() async throws {
        let connection = try await options.connect()
        let states = try await FeatureFlags.read(on: connection)
        let flags = FeatureFlag.allCases.map { ($0.rawValue, states[$0]?.isEnabled ?? false) }
        if options.json { return print(try jsonText(Dictionary(uniqueKeysWithValues: flags))) }
        for (name, isOn) in flags { print("\(name)  \(isOn ? "on" : "off")") }
    }
}

struct DatabaseFlagsSet: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Turn a flag on or off, for all programs and without a restart.",
        discussion: "Turn one on when every program is of a release that has it.")

    enum Position: String, ExpressibleByArgument, CaseIterable { case on, off }

    @OptionGroup var options: DatabaseOptions
    @Argument(
        help: ArgumentHelp(
            "Which flag: \(FeatureFlag.allCases.map(\.rawValue).joined(separator: ", ")).", valueName: "flag"))
    var name: String
    @Argument(help: "on or off.")
    var position: Position

    func run() async throws {
        guard let flag = FeatureFlag(rawValue: name) else {
            throw ValidationError("there is no flag \(name): see sluice database flags list")
        }
        let connection = try await options.connect()
        let isChanged = try await FeatureFlags.set(flag, enabled: position == .on, on: connection)
        print("\(name)  \(position.rawValue)\(isChanged ? "" : " already")")
    }
}
