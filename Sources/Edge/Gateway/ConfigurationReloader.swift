import Logging
import Operations

/// Reads the configuration again while the gateway runs. Open connections stay; a file with a mistake changes nothing.
package struct ConfigurationReloader: Sendable {
    private let file: String
    private var running: EdgeConfiguration
    private let gateway: GatewayService
    private let logger: Logger

    package init(file: String, running: EdgeConfiguration, gateway: GatewayService, logger: Logger) {
        self.file = file
        self.running = running
        self.gateway = gateway
        self.logger = logger
    }

    /// - Returns: what came of it; `nil` where the file cannot be used.
    @discardableResult
    package mutating func reload() async -> ConfigurationReload? {
        let new: EdgeConfiguration
        do throws(ConfigurationProblems) {
            new = try EdgeConfiguration.load(file: file)
        } catch {
            logger.error(
                "The configuration has mistakes: nothing of it changes. Mend the file and send SIGHUP again.",
                [.path: "\(file)", .error: "\(error)", .count: "\(error.problems.count)"])
            return nil
        }
        let reload = ConfigurationReload(from: running, to: new)
        running = reload.effective
        if !reload.changed.isEmpty {
            await gateway.reconfigure(running)
            LogThreshold.shared.level = Logger.Level(running.log.level)
        }
        logger.notice(
            reload.changed.isEmpty
                ? "The configuration was read again: nothing changes now." : "The configuration was read again.",
            [.path: "\(file)", .reason: "\(reload.changed.joined(separator: ", "))"])
        if !reload.needRestart.isEmpty {
            logger.warning(
                "Settings differ that cannot change while the daemon runs: restart it for them to take effect.",
                [.reason: "\(reload.needRestart.joined(separator: ", "))"])
        }
        return reload
    }
}
