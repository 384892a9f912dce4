import ArgumentParser

/// The operator's tool.
@main
struct Sluice: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice",
        abstract:
            "Certificates, migrations, topics, simulated devices, the audit, the archive, and what a gateway holds.",
        subcommands: [
            PKICommand.self, MigrateCommand.self, SimulateCommand.self, AuditCommand.self, BufferCommand.self,
            DeviceCommand.self, DatabaseCommand.self, ArchiveCommand.self, TopicsCommand.self, DeadLetterCommand.self,
        ])
}
