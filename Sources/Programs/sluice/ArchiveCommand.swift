import Archive
import ArgumentParser
import Foundation
import ObjectStore
import Operations

/// `sluice archive`.
struct ArchiveCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "archive", abstract: "What the cold archive holds, and days of it back into tables.",
        discussion: "Where the archive is says the cloud's configuration, at objects.",
        subcommands: [ArchiveList.self, ArchiveRestoreCommand.self])
}

/// The cloud's configuration, as far as it says where things are.
struct CloudFileOptions: ParsableArguments {
    static let path = "/etc/sluice/sluice-cloud.yaml"

    @Option(help: ArgumentHelp("The configuration file of sluice-cloud.", valueName: "file"))
    var config = Self.path

    func load() throws -> CloudConfiguration { try Self.load(config) }

    /// Of whichever roles the file is.
    static func load(_ file: String) throws -> CloudConfiguration {
        do {
            return try CloudConfiguration.load(file: file, role: .all, checkingFiles: false)
        } catch let problems {
            guard let other = try? CloudConfiguration.load(file: file, role: .process, checkingFiles: false) else {
                throw problems
            }
            return other
        }
    }

    static func objects(_ configuration: CloudConfiguration, _ file: String) throws -> any ObjectStore {
        guard let objects = configuration.objects else {
            throw ValidationError("\(file) names no object store: there is no key objects in it")
        }
        return try objects.open()
    }
}

/// One manifest of `sluice archive list`.
private struct ListedManifest: Codable {
    var day: String
    /// 0; addenda of late rows from 1 on.
    var number: Int
    var measurementRows: Int
    var eventRows: Int
    var messages: UInt64
    var files: Int
    /// Compressed.
    var bytes: Int
    var digest: String
}

struct ArchiveList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "The archived days, with rows, messages and bytes of each manifest.")

    @OptionGroup var file: CloudFileOptions
    @Flag(help: "Print the list as JSON.")
    var json = false

    func run() async throws {
        let configuration = try file.load()
        let catalog = ArchiveCatalog(try CloudFileOptions.objects(configuration, file.config))
        var listed: [ListedManifest] = []
        for day in try await catalog.days() {
            for manifest in try await catalog.manifests(day) {
                let content = manifest.content
                listed.append(
                    ListedManifest(
                        day: content.day, number: content.number, measurementRows: content.measurementRows,
                        eventRows: content.eventRows, messages: content.sources.reduce(0) { $0 + $1.messages },
                        files: content.files.count, bytes: content.bytes, digest: manifest.digest))
            }
        }
        if json { return print(try jsonText(listed)) }
        if listed.isEmpty { return print("nothing is archived in \(configuration.objects?.place ?? "")") }
        for item in listed {
            let kind = item.number == 0 ? "" : ", addendum \(item.number)"
            print(
                "\(item.day)  \(item.measurementRows) measurements, \(item.eventRows) events of \(item.messages) messages, "
                    + "\(item.files) files, \(item.bytes) bytes\(kind)")
        }
    }
}

struct ArchiveRestoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore", abstract: "Bring a day, or a span of days, back into tables.",
        discussion: """
            The rows go into measurement_restored and event_restored, or into the tables measurement and event of another \
            schema. Every file is checked against its digest. A day is restored in one transaction, and to repeat it does \
            no harm.
            """)

    @OptionGroup var location: DatabaseLocation

    @Option(help: ArgumentHelp("The last day of a span.", valueName: "day"))
    var to: String?

    @Option(help: ArgumentHelp("The schema of the restored tables; it is made where it is missing.", valueName: "name"))
    var schema: String?

    @Flag(help: "Print the result as JSON.")
    var json = false

    @Argument(help: "The day in UTC, as 2026-11-27.")
    var day: String

    func run() async throws {
        let first = try Self.day(day)
        let last = try to.map(Self.day) ?? first
        guard first <= last else { throw ValidationError("\(last) is before \(first)") }
        let store = try CloudFileOptions.objects(try CloudFileOptions.load(location.file), location.file)
        let restore = try ArchiveRestore(database: try location.url(), store: store, schema: schema)
        let days = try await ArchiveCatalog(store).days().filter { first <= $0 && $0 <= last }
        guard !days.isEmpty else {
            throw ValidationError(
                first == last ? "\(first) is not in the archive" : "no day from \(first) to \(last) is in the archive")
        }
        var restored: [ArchiveRestore.Day] = []
        for day in days {
            let result = try await restore.restore(day)
            restored.append(result)
            if !json {
                print(
                    "\(day)  \(result.measurementRows) rows in \(restore.target(.measurement)), "
                        + "\(result.eventRows) in \(restore.target(.event))")
            }
        }
        if json { print(try jsonText(restored)) }
    }

    private static func day(_ text: String) throws -> ArchiveDay {
        guard let day = ArchiveDay(text) else { throw ValidationError("\(text) is no day; write it as 2026-11-27") }
        return day
    }
}
