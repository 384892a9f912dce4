import ArgumentParser
import Dispatch
import Foundation
import Simulator
import Synchronization

/// `sluice simulate`.
struct SimulateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "simulate",
        abstract: "Run simulated devices that publish what this host measures.",
        discussion: """
            Each device connects with its own certificate and publishes to devices/ID/telemetry. The journal gets a line \
            for every publish, resend, acknowledgement and refusal, for `sluice audit --journal`.
            """)

    @Option(help: "The gateway's host name or address.")
    var host = "127.0.0.1"

    @Option(help: "The gateway's MQTT port.")
    var port: Int

    @Option(help: ArgumentHelp("Folder with ca.crt and devices/ID.{crt,key}.", valueName: "directory"))
    var pki: String?

    @Option(help: "How many devices.")
    var devices = 50

    @Option(help: "Device ids are PREFIX-0001 and so on.")
    var prefix = "sim"

    @Option(help: "Messages a second of each device.")
    var rate = 5.0

    @Option(help: "0, 1, 2, or mixed (devices take turns in using 1 and 2).")
    var qos = SimulationPlan.Quality.one

    @Option(help: "MQTT version: 4 (3.1.1) or 5.")
    var version = SimulationPlan.Version.v5

    @Option(help: "How long to publish.")
    var seconds = 20.0

    @Option(help: "How long to wait afterwards for outstanding acknowledgements.")
    var drainSeconds = 30.0

    @Option(help: ArgumentHelp("File that the journal's lines are appended to.", valueName: "file"))
    var journal: String

    @Flag(help: "Print the counts as JSON.")
    var json = false

    @Flag(help: "Show a live line on standard error.")
    var progress = false

    @Flag(help: "Connect without TLS.")
    var insecurePlaintext = false

    func validate() throws {
        guard (pki != nil) != insecurePlaintext else {
            throw ValidationError("Give either --pki or --insecure-plaintext.")
        }
        guard (1...100_000).contains(devices) else {
            throw ValidationError("--devices must be from 1 to 100000, not \(devices).")
        }
    }

    func run() async throws {
        var plan = SimulationPlan(
            host: host, port: port, pki: insecurePlaintext ? nil : pki,
            devices: SimulationPlan.deviceIDs(prefix: prefix, count: devices), rate: rate, quality: qos,
            version: version, seconds: seconds, journal: journal)
        plan.drainSeconds = drainSeconds
        let simulation = try Simulation(plan)
        let signals = Self.stopOnSignals(simulation)
        defer { signals.forEach { $0.cancel() } }

        let reporter = progress ? Task { await Self.report(simulation) } : nil
        defer { reporter?.cancel() }
        let counts = try await simulation.run()
        if progress { Self.show(counts, end: "\n") }
        try write(counts)
        if counts.published == 0 {
            let reason = counts.lastFailure ?? "no connection was accepted in time"
            FileHandle.standardError.write(Data("error: nothing was published: \(reason)\n".utf8))
            throw ExitCode.failure
        }
    }

    private func write(_ counts: SimulationCounts) throws {
        if json {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys]
            print(String(decoding: try encoder.encode(counts), as: UTF8.self))
        } else {
            print(
                """
                published     \(counts.published)
                acknowledged  \(counts.acknowledged)
                refused       \(counts.refused)
                resent        \(counts.resent)
                reconnects    \(counts.reconnects)
                held back     \(counts.heldBack)
                unanswered    \(counts.outstanding)
                """)
        }
    }

    /// The first signal ends publishing, the second also the wait for acknowledgements.
    private static func stopOnSignals(_ simulation: Simulation) -> [any DispatchSourceSignal] {
        [SIGINT, SIGTERM].map { number in
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            let signals = Atomic(0)
            source.setEventHandler {
                if signals.add(1, ordering: .relaxed).newValue == 1 { simulation.stop() } else { simulation.abandon() }
            }
            source.resume()
            return source
        }
    }

    private static let isTerminal = isatty(STDERR_FILENO) == 1

    private static func report(_ simulation: Simulation) async {
        while !Task.isCancelled {
            show(simulation.counts, end: isTerminal ? "" : "\n")
            try? await Task.sleep(for: isTerminal ? .milliseconds(250) : .seconds(2))
        }
    }

    private static func show(_ counts: SimulationCounts, end: String) {
        let line =
            (isTerminal ? "\r\u{1B}[K" : "")
            + "\(counts.connected)/\(counts.devices) connected  \(counts.published) published  "
            + "\(counts.acknowledged) acknowledged  \(counts.outstanding) in flight  \(counts.refused) refused  "
            + "\(counts.reconnects) reconnects\(end)"
        FileHandle.standardError.write(Data(line.utf8))
    }
}

extension SimulationPlan.Quality: ExpressibleByArgument {}
extension SimulationPlan.Version: ExpressibleByArgument {}
