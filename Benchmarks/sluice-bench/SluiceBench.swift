import ArgumentParser

@main
struct SluiceBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-bench",
        abstract: "Load generators and measurements for Sluice and the products it is compared with.",
        subcommands: [PublishCommand.self, FanOutCommand.self])
}
