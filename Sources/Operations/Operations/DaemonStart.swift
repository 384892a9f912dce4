import Glibc
import Logging
import Metrics

/// What a daemon does before its services run: it reads its configuration, tells a person what is wrong with it, and
/// sets up logging and metrics.
package enum DaemonStart<Configuration> {
    /// Go on with the configuration.
    case run(Configuration)
    /// End with this status after the text was printed: on standard output where the status is 0, else on standard
    /// error.
    case end(status: Int32, text: String)

    /// `EX_CONFIG` of sysexits(3); systemd's units do not restart on it.
    package static var configurationStatus: Int32 { 78 }

    /// - Parameter checkOnly: `--check`: end in any case, with 0 where nothing is wrong.
    package init(
        program: String, file: String, checkOnly: Bool, load: () throws(ConfigurationProblems) -> Configuration
    ) {
        do throws(ConfigurationProblems) {
            let configuration = try load()
            self = checkOnly ? .end(status: 0, text: "\(file): good\n") : .run(configuration)
        } catch {
            let count = error.problems.count
            let summary = "\(program): \(count) \(count == 1 ? "mistake" : "mistakes") in \(file)"
            self = .end(status: Self.configurationStatus, text: "\(error.description)\n\(summary)\n")
        }
    }

    /// The configuration, or the end of the process.
    package func configurationOrExit() -> Configuration {
        switch self {
        case .run(let configuration): return configuration
        case .end(let status, let text):
            let bytes = Array(text.utf8)
            // Nothing can be done where nobody reads it.
            _ = write(status == 0 ? STDOUT_FILENO : STDERR_FILENO, bytes, bytes.count)
            exit(status)
        }
    }
}

package enum Daemon {
    /// Sets the process's logging and metrics; once, before anything logs.
    ///
    /// - Parameters:
    ///   - name: the program's.
    ///   - keys: metadata of every line of the returned logger.
    package static func bootstrap(
        name: String, level: EdgeConfiguration.Log.Level, keys: [LogKey: Logger.MetadataValue] = [:],
        registry: MetricRegistry
    ) -> Logger {
        // A reader of standard error that went away must not end the daemon.
        signal(SIGPIPE, SIG_IGN)
        LogThreshold.shared.level = Logger.Level(level)
        LoggingSystem.bootstrap { label in JSONLogHandler(label: label) }
        MetricsSystem.bootstrap(RegistryMetricsFactory(registry: registry))
        registry.counter(.logLinesDropped) { Double(LogSink.standardError.dropped) }
        var logger = Logger(label: name)
        for (key, value) in keys { logger[key] = value }
        return logger
    }
}

extension Logger.Level {
    package init(_ level: EdgeConfiguration.Log.Level) {
        self =
            switch level {
            case .trace: .trace
            case .debug: .debug
            case .info: .info
            case .notice: .notice
            case .warning: .warning
            case .error: .error
            case .critical: .critical
            }
    }
}
