import ArgumentParser

/// The operator's tool.
@main
struct Sluice: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice",
        abstract: "Certificates, migrations, simulated devices and the audit of a Sluice installation.",
        subcommands: [PKICommand.self, MigrateCommand.self, SimulateCommand.self, AuditCommand.self])
}
