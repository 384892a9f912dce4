import ArgumentParser
import Audit
import Buffer
import EventLog
import Foundation
import Logging
import ObjectStore
import Operations
import SyncModel

/// `sluice audit`.
struct AuditCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "audit", abstract: "Prove from the tables themselves that nothing is lost or stored twice.",
        discussion: """
            Compares every (source, sequence) of measurement and event with what the gateways committed and, with \
            journals of sluice simulate, with what the devices published and were acknowledged. Works on a running \
            system. Exit code 0: nothing is lost or duplicated (and with --closed, nothing is on its way either).
            """)

    @Option(
        help: ArgumentHelp(
            "The database: a URL or connection string of libpq; by default $SLUICE_DATABASE, else the configuration's.",
            valueName: "url"))
    var database: String?

    @Option(help: ArgumentHelp("A journal of sluice simulate; may be repeated.", valueName: "file"))
    var journal: [String] = []

    @Option(help: ArgumentHelp("A gateway's buffer on this host, running or not; may be repeated.", valueName: "file"))
    var buffer: [String] = []

    @Option(
        help: ArgumentHelp("A gateway's accounting as JSON, from another host; may be repeated.", valueName: "file"))
    var accounting: [String] = []

    @Option(help: ArgumentHelp("Only this gateway.", valueName: "id"))
    var gateway: String?

    @Option(
        name: [.customLong("log"), .customLong("cloud-log")],
        help: ArgumentHelp(
            "The embedded event log. It is read where sluice-cloud is down; while it runs, see --wait.",
            valueName: "file"))
    var log: String?

    @Option(help: "Partitions of the embedded event log.")
    var partitions: Int32 = 32

    @Option(
        help: ArgumentHelp(
            "The configuration file of sluice-cloud, which says where dead letters and the cold archive are: needed while a "
                + "dead letter is not replayed. Days that only the archive has are then counted by its manifests, without "
                + "it by the database's memory of them.", valueName: "file"))
    var config: String?

    @Option(help: "Seconds to repeat the audit while messages seem lost that may be in an event log that is in use.")
    var wait = 10.0

    @Flag(help: "Demand that nothing is in a buffer or in the log any more.")
    var closed = false

    @Flag(help: "Print the report as JSON.")
    var json = false

    func run() async throws {
        var logger = Logger(label: "sluice.audit")
        logger.logLevel = .warning
        let eventLog = try openLog(logger)
        let buffers = buffer
        let audit = Audit(
            database: try DatabaseLocation.url(database, config: config), journals: journal, gateway: gateway,
            log: eventLog,
            objects: try config.flatMap { try CloudFileOptions.load($0).objects?.open() },
            accountings: try accounting.map(Self.decode),
            accounting: {
                var all: [GatewayAccounting] = []
                for path in buffers { all.append(try await Self.ask(path)) }
                return all
            })
        let report = try await audit.run(patience: eventLog == nil ? .seconds(wait) : .zero)
        await eventLog?.close()
        print(json ? try jsonText(report) : AuditTable.text(report))
        if closed ? !report.closed : !report.sound { throw ExitCode(1) }
    }

    /// `nil` where a running cloud has the log: then what is in it shows up in the tables within `wait`.
    private func openLog(_ logger: Logger) throws -> (any EventLog)? {
        guard let log else { return nil }
        guard FileManager.default.fileExists(atPath: log) else {
            throw ValidationError("\(log): there is no event log; name the file that the cloud's configuration names")
        }
        do {
            // What it may delete by age is for the cloud to say.
            return try EmbeddedEventLog.open(path: log, partitions: partitions, retention: nil, logger: logger)
        } catch EventLogError.unavailable {
            return nil
        }
    }

    /// The daemon while it runs, else its file.
    private static func ask(_ buffer: String) async throws -> GatewayAccounting {
        do { return try await ControlClient.accounting(ofBuffer: buffer) } catch {
            // Whoever holds the file says so now; that daemon's own answer is the better message then.
            do { return try Buffer.offlineAccounting(path: buffer) } catch let second {
                throw ValidationError("\(second); the daemon does not answer either: \(error)")
            }
        }
    }

    private static func decode(_ path: String) throws -> GatewayAccounting {
        do {
            return try JSONDecoder().decode(GatewayAccounting.self, from: Data(contentsOf: URL(fileURLWithPath: path)))
        } catch {
            throw ValidationError("\(path): no accounting of a gateway: \(error.localizedDescription)")
        }
    }
}

/// The report for a person.
enum AuditTable {
    static func text(_ report: AuditReport) -> String {
        var lines: [(String, String)] = []
        if let published = report.published { lines.append(("published", "\(published)")) }
        lines += [
            ("acknowledged", "\(report.acknowledged)"), ("buffered", "\(report.buffered)"),
            ("in log", "\(report.inLog)"), ("stored", "\(report.stored)"), ("rows", "\(report.rows)"),
            ("  rows dropped since", "\(report.retired)"), ("  archived", "\(report.archived)"),
            ("dead-lettered", "\(report.deadLettered)"), ("  not replayed", "\(report.deadLettersWaiting)"),
            ("dropped", "\(report.dropped.values.saturatedSum())"),
            ("  to come from the log", "\(report.dropsInLog)"),
        ]
        for (reason, count) in report.dropped.sorted(by: { $0.key < $1.key }) {
            lines.append(("  \(reason)", "\(count)"))
        }
        lines += [
            ("redelivered", "\(report.redelivered)"), ("duplicated", "\(report.duplicated)"),
            ("lost", "\(report.lost)"),
        ]
        var text = lines.map { name, value in
            name + String(repeating: " ", count: max(1, 28 - name.count - value.count)) + value
        }
        for gap in report.gaps {
            text.append("gap: \(gap.gateway) \(gap.epoch) \(gap.first)-\(gap.last), \(gap.lost) lost")
        }
        for problem in report.problems { text.append("problem: \(problem)") }
        let verdict =
            report.closed
            ? "closes" : report.sound ? "is sound, with messages on their way" : "DOES NOT CLOSE"
        text.append("the audit \(verdict)")
        return text.joined(separator: "\n")
    }
}
