import Logging
import Metrics
import ObjectStore
import Operations
import ServiceLifecycle

/// Runs the archiver every ten minutes, in one of all processes that share a database.
package struct ArchiveService: Service {
    package static let period = Duration.seconds(600)

    private let archiver: Archiver
    private let logger: Logger

    package init(
        database url: String, store: any ObjectStore, configuration: CloudConfiguration.Archive, logger: Logger
    ) {
        archiver = Archiver(
            database: url, store: store,
            settings: .init(after: Int64(configuration.after), keep: Int64(configuration.keep)))
        self.logger = logger
    }

    package func run() async throws {
        await cancelWhenGracefulShutdown {
            while !Task.isCancelled {
                await runOnce()
                await recordDue()
                // Ends early where the task is cancelled.
                try? await Task.sleep(for: Self.period)
            }
        }
    }

    /// Not where the database cannot be asked: the metric keeps its value, and the failure is counted.
    private func recordDue() async {
        guard let due = try? await archiver.due(now: SystemClock.wallMicroseconds() / 1_000_000) else { return }
        Gauge(label: MetricName.archiveDue.rawValue).record(due)
    }

    private func runOnce() async {
        do {
            guard let summary = try await archiver.run(now: SystemClock.wallMicroseconds() / 1_000_000) else { return }
            for (table, rows) in summary.rows {
                Counter(label: MetricName.archiveRows.rawValue, dimensions: [("table", table.rawValue)])
                    .increment(by: rows)
            }
            Counter(label: MetricName.archiveBytes.rawValue).increment(by: summary.bytes)
            Gauge(label: MetricName.archiveLastSuccess.rawValue).record(
                Double(SystemClock.wallMicroseconds()) / 1_000_000)
            guard summary != Archiver.Summary() else { return }
            logger.notice(
                "The cold archive wrote \(summary.days) days and \(summary.addenda) addenda and deleted \(summary.deletedObjects) objects.",
                [.count: "\(summary.rows.values.reduce(0, +))", .bytes: "\(summary.bytes)"])
        } catch {
            if Task.isCancelled { return }
            Counter(label: MetricName.archiveFailures.rawValue).increment()
            logger.error("The cold archive stopped and will try again: \(error)", [.error: "\(error)"])
        }
    }
}
