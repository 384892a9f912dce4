import ArgumentParser
import Buffer
import FoundationEssentials
import Gateway
import Logging
import MQTTSession
import NIOPosix
import Operations
import PKI
import ServiceLifecycle
import SyncModel
import UnixSignals
import Uplink

/// The edge daemon.
@main
struct SluiceEdge: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-edge",
        abstract: "Terminates the devices' MQTT, keeps what it acknowledges on disk and syncs it to the cloud.")

    @Option(name: .long, help: "The configuration file (YAML).")
    var config: String

    @Flag(name: .long, help: "Check the configuration, print every mistake in it and end.")
    var check = false

    func run() async throws {
        let start = DaemonStart(program: "sluice-edge", file: config, checkOnly: check) {
            () throws(ConfigurationProblems) in try EdgeConfiguration.load(file: config)
        }
        let configuration = start.configurationOrExit()
        let registry = MetricRegistry()
        let logger = Daemon.bootstrap(
            name: "sluice-edge", level: configuration.log.level, keys: [.gateway: "\(configuration.gatewayID)"],
            registry: registry)
        do {
            try await EdgeDaemon(configuration, registry: registry, logger: logger).run()
        } catch {
            logger.critical("The daemon ends: \(error)", [.error: "\(error)"])
            LogSink.standardError.flush()
            throw ExitCode(1)
        }
        LogSink.standardError.flush()
    }
}

/// The parts of the edge, and the order in which they start and end.
private struct EdgeDaemon {
    let configuration: EdgeConfiguration
    let registry: MetricRegistry
    let logger: Logger

    init(_ configuration: EdgeConfiguration, registry: MetricRegistry, logger: Logger) {
        self.configuration = configuration
        self.registry = registry
        self.logger = logger
    }

    func run() async throws {
        let clock = try SystemClock()
        var random = SystemRandomNumberGenerator()
        warnOfSettingsWithoutEffect()
        let (buffer, restored) = try Buffer.open(
            bufferConfiguration, epoch: .random(using: &random), logger: logger)
        do {
            try await serve(buffer, restored: restored, clock: clock)
        } catch {
            await buffer.close()
            throw error
        }
        await buffer.close()
        logger.notice("The daemon has ended in order.")
    }

    /// Better said at each start than found out when the disk is full.
    private func warnOfSettingsWithoutEffect() {
        var settings: [String] = []
        if configuration.buffer.maximumAge != nil { settings.append("buffer.maximumAge") }
        if configuration.buffer.commitDelay != 0 { settings.append("buffer.commitDelay") }
        if configuration.buffer.whenFull == .dropOldest { settings.append("buffer.whenFull: dropOldest") }
        guard !settings.isEmpty else { return }
        logger.warning(
            "Settings that this version reads but does not apply; a full buffer refuses, nothing is dropped.",
            [.reason: "\(settings.joined(separator: ", "))"])
    }

    private var bufferConfiguration: Buffer.Configuration {
        var buffer = Buffer.Configuration(path: configuration.buffer.path, gatewayID: configuration.gatewayID)
        buffer.maximumBytes = configuration.buffer.maximumBytes
        buffer.freeDiskFloor = configuration.buffer.freeDiskFloor
        return buffer
    }

    /// Services end from the last to the first: devices, uplink, control socket, status port.
    private func serve(_ buffer: Buffer, restored: RestoredState, clock: SystemClock) async throws {
        let health = HealthRegistry()
        let metrics = GatewayMetrics(registry)
        let gateway = try await GatewayService(
            configuration: configuration, buffer: buffer, restored: restored, clock: clock,
            metrics: metrics, health: health, logger: logger)
        health.check("buffer") {
            if metrics.isFailing { return .failed("the buffer cannot commit; the log says why") }
            return buffer.fill().isFull ? .failed("the buffer is full") : .good
        }
        health.check("listeners") {
            gateway.addresses.count == configuration.listeners.count ? .good : .failed("not all listeners are bound")
        }
        var services: [any Service] = [
            StatusServer(endpoint: configuration.status, health: health, metrics: registry, logger: logger),
            ControlService(buffer: buffer, path: configuration.buffer.path, logger: logger),
        ]
        if let uplink = configuration.uplink {
            services.append(try uplinkService(uplink, buffer: buffer))
            let refused = registry.gauge(.uplinkRefused)
            health.check("uplink", isCritical: false) {
                refused.value == 0 ? .good : .degraded("the cloud refuses a batch; the log says why")
            }
        }
        services.append(ReloadService(gateway: gateway, logger: logger))
        if let notifier = SystemdNotifier(environment: ProcessInfo.processInfo.environment) {
            services.append(
                SystemdService(
                    notifier: notifier, isReady: { await health.ready().isGood }, isAlive: { health.live().isGood }))
        }
        services.append(gateway)
        let group = ServiceGroup(
            configuration: .init(
                services: services.map {
                    .init(
                        service: $0, successTerminationBehavior: .gracefullyShutdownGroup,
                        failureTerminationBehavior: .gracefullyShutdownGroup)
                },
                gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
        try await group.run()
    }

    private func uplinkService(_ uplink: EdgeConfiguration.Uplink, buffer: Buffer) throws -> UplinkService {
        let trust = TrustHolder(try TrustStore.load(clientCA: uplink.ca, crl: nil))
        var settings = UplinkService.Settings(
            gateway: configuration.gatewayID, url: uplink.url,
            tls: try TLSProfile.client(certificate: uplink.certificate, key: uplink.key, ca: uplink.ca))
        settings.state.linger = Int64(uplink.linger) * 1_000
        settings.state.backlogShare = uplink.backlogShare
        settings.state.bandwidth = uplink.bandwidth
        settings.state.bytesPerHour = uplink.bytesPerHour
        return try UplinkService(settings: settings, store: buffer, logger: logger) { certificate in
            let now = SystemClock.wallMicroseconds() / 1_000_000
            switch trust.judge.judge(certificate, expecting: .server, at: now) {
            case .success: return nil
            case .failure(let refusal): return refusal.description
            }
        }
    }
}

/// The local socket on which the operator's tool asks the daemon.
private struct ControlService: Service {
    let buffer: Buffer
    let path: String
    let logger: Logger

    func run() async throws {
        let server = try await ControlServer.start(
            bufferPath: path, buffer: buffer, group: MultiThreadedEventLoopGroup.singleton, logger: logger)
        await cancelWhenGracefulShutdown { while (try? await Task.sleep(for: .seconds(3_600))) != nil {} }
        await server.stop()
    }
}

/// SIGHUP: certificates and revocation lists are read again, and live sessions judged by them.
private struct ReloadService: Service {
    let gateway: GatewayService
    let logger: Logger

    func run() async throws {
        let signals = await UnixSignalsSequence(trapping: .sighup)
        await cancelWhenGracefulShutdown {
            for await _ in signals {
                logger.notice("The certificates are to be read again.", [.signal: "SIGHUP"])
                gateway.reload()
            }
        }
    }
}
