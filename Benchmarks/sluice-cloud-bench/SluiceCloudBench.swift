import ArgumentParser

/// Measures the cloud's parts, each by itself. The programs' own code runs; what stands around it is real.
@main
struct SluiceCloudBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-cloud-bench",
        abstract:
            "Measures the cloud's parts: from the log into the database, and from the sync endpoint into the log.",
        subcommands: [DrainCommand.self, IngestCommand.self])
}
