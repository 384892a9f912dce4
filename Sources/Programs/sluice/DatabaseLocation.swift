import ArgumentParser
import Foundation
import Operations

/// Which database a command works on.
struct DatabaseLocation: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The database: a URL or connection string of libpq; by default $SLUICE_DATABASE, else the configuration's.",
            valueName: "url"))
    var database: String?

    @Option(
        help: ArgumentHelp(
            "The configuration file of sluice-cloud; by default \(CloudFileOptions.path), where that is.",
            valueName: "file"))
    var config: String?

    /// Whether something names one, so that its lack is no mistake where none is needed.
    var isNamed: Bool {
        database != nil || config != nil || ProcessInfo.processInfo.environment["SLUICE_DATABASE"] != nil
            || FileManager.default.isReadableFile(atPath: CloudFileOptions.path)
    }

    /// The configuration, for commands that need more of it than the database.
    var file: String { config ?? CloudFileOptions.path }

    func url() throws -> String { try Self.url(database, config: config) }

    /// The option, else the environment, else that of the configuration.
    static func url(_ given: String?, config: String?) throws -> String {
        if let url = try given.map(checked) ?? ProcessInfo.processInfo.environment["SLUICE_DATABASE"] { return url }
        let path = CloudFileOptions.path
        guard let file = config ?? (FileManager.default.isReadableFile(atPath: path) ? path : nil) else {
            throw ValidationError(
                "name the database with --database URL, in the variable SLUICE_DATABASE, or by --config FILE of sluice-cloud"
            )
        }
        return try CloudFileOptions.load(file).database.urlWithPasswordSet()
    }

    private static func checked(_ url: String) throws -> String {
        guard DatabaseURL.hasPassword(url) else { return url }
        throw ValidationError(
            "every user of this host can read a password on a command line: put it into the variable SLUICE_DATABASE, or "
                + "into ~/.pgpass")
    }
}
