import Database
import Logging
import Metrics
import Operations
import ServiceLifecycle

/// Keeps a process's flags fresh: reads them when the database notifies, and every few seconds in any case. Without it they
/// are `FeatureFlags.maximumAge` old at most where that matters; with it a change is seen at once.
package struct FlagWatch: Service {
    private let database: String
    private let flags: FeatureFlags
    private let logger: Logger
    /// Between two readings without a notification, in slices so that a shutdown is seen.
    private let interval: Duration
    private static let slice: Int32 = 250

    package init(database: String, flags: FeatureFlags, interval: Duration = .seconds(5), logger: Logger) {
        self.database = database
        self.flags = flags
        self.interval = interval
        self.logger = logger
    }

    private var isStopping: Bool { Task.isCancelled || Task.isShuttingDownGracefully }

    package func run() async throws {
        while !isStopping {
            do { try await watch() } catch {
                // The processor says loudly enough that the database is away.
                logger.debug("The flags cannot be watched: trying again", [.error: "\(error)"])
                try? await cancelWhenGracefulShutdown { try await Task.sleep(for: interval) }
            }
        }
    }

    private func watch() async throws {
        let connection = try await PostgresConnection.connect(
            PostgresConfiguration(url: database, applicationName: "sluice-flags"))
        do {
            // Before the first reading, so that no change falls between the two.
            try await connection.run("LISTEN \(FeatureFlags.channel)")
            while !isStopping {
                for (flag, isEnabled) in try await flags.refresh(on: connection) {
                    logger.notice("A flag of the database is \(isEnabled ? "on" : "off")", [.reason: "\(flag)"])
                }
                for flag in FeatureFlag.allCases {
                    Gauge(label: MetricName.featureFlag.rawValue, dimensions: [("flag", flag.rawValue)])
                        .record(flags.isOn(flag) ? 1 : 0)
                }
                let due = ContinuousClock.now + interval
                while !isStopping, ContinuousClock.now < due {
                    if try await connection.waitForNotification(milliseconds: Self.slice) { break }
                }
            }
        } catch {
            await connection.close()
            throw error
        }
        await connection.close()
    }
}
