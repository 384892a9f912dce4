import ArgumentParser

/// Measures the cloud's parts without the network between gateways and cloud.
@main
struct SluiceCloudBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-cloud-bench", abstract: "Measures the cloud's parts, one against a bare COPY.")
}
