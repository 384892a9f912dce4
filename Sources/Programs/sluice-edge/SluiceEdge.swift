import ArgumentParser
import Buffer
import Flow
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
            () throws(ConfigurationProblems) in
            let configuration = try EdgeConfiguration.load(file: config)
            if check { try TLSCheck.check(configuration, file: config) }
            return configuration
        }
        let configuration = start.configurationOrExit()
        let registry = MetricRegistry()
        let logger = Daemon.bootstrap(
            name: "sluice-edge", level: configuration.log.level, keys: [.gateway: "\(configuration.gatewayID)"],
            registry: registry)
        do {
            try await EdgeDaemon(configuration, file: config, registry: registry, logger: logger).run()
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
    let file: String
    let registry: MetricRegistry
    let logger: Logger

    init(_ configuration: EdgeConfiguration, file: String, registry: MetricRegistry, logger: Logger) {
        self.configuration = configuration
        self.file = file
        self.registry = registry
        self.logger = logger
    }

    func run() async throws {
        let clock = try SystemClock()
        var random = SystemRandomNumberGenerator()
        let (buffer, restored) = try Buffer.open(
            bufferConfiguration(clock), epoch: .random(using: &random), logger: logger)
        do {
            try await serve(buffer, restored: restored, clock: clock)
        } catch {
            await buffer.close()
            throw error
        }
        await buffer.close()
        logger.notice("The daemon has ended in order.")
    }

    private func bufferConfiguration(_ clock: SystemClock) -> Buffer.Configuration {
        var buffer = Buffer.Configuration(path: configuration.buffer.path, gatewayID: configuration.gatewayID)
        buffer.maximumBytes = configuration.buffer.maximumBytes
        buffer.freeDiskFloor = configuration.buffer.freeDiskFloor
        buffer.maximumAge = configuration.buffer.maximumAge.map { Int64($0) * 1_000_000 }
        buffer.dropsOldest = configuration.buffer.whenFull == .dropOldest
        buffer.reserveBytes = min(16 << 20, configuration.buffer.maximumBytes / 16)
        buffer.localRules = configuration.localWork
        buffer.clock = clock
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
            let fill = buffer.fill()
            if let failure = fill.failure { return .failed(failure) }
            if metrics.isFailing { return .failed("the buffer cannot commit; the log says why") }
            return fill.isFull ? .failed("the buffer is full") : .good
        }
        health.check("salvage", isCritical: false) {
            // Until somebody has looked and starts the daemon anew.
            buffer.salvage.map { .degraded($0.description) } ?? .good
        }
        health.check("drops", isCritical: false) { buffer.concerns().dropHealth() }
        health.check("dead letters", isCritical: false) { buffer.concerns().deadLetterHealth() }
        health.check("listeners") {
            gateway.isListening ? .good : .failed("not all listeners are bound")
        }
        let sync = try configuration.uplink.map { try uplinkService($0, buffer: buffer) }
        let source = StatusSource(
            gateway: gateway, buffer: buffer, health: health, uplink: configuration.uplink, sync: sync)
        var services: [any Service] = [
            StatusServer(
                endpoint: configuration.status, health: health, metrics: registry,
                routes: ["/": { await source.page() }], logger: logger),
            ControlService(buffer: buffer, gateway: gateway, path: configuration.buffer.path, logger: logger),
        ]
        if let sync {
            services.append(sync)
            health.check("uplink", isCritical: false) { sync.status.health() }
        }
        services.append(
            ReloadService(
                gateway: gateway,
                reloader: ConfigurationReloader(file: file, running: configuration, gateway: gateway, logger: logger),
                logger: logger))
        if let notifier = SystemdNotifier(environment: ProcessInfo.processInfo.environment) {
            services.append(
                // Started is not the same as ready: a full buffer is no reason to be started again and again.
                SystemdService(
                    notifier: notifier, isReady: { gateway.isListening }, isAlive: { health.live().isGood }))
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
        let longestPause = Int64(uplink.longestPause) * 1_000_000
        settings.backoff = Backoff(cap: longestPause)
        settings.breaker.waitInOpen = min(settings.breaker.waitInOpen, longestPause)
        settings.state.backlogShare = uplink.backlogShare
        settings.state.bandwidth = uplink.bandwidth
        settings.state.bytesPerHour = uplink.bytesPerHour
        let judge = ServerJudge(mayLibraryVerify: buffer.isClockBelieved) { certificate, host in
            let now = buffer.judgingSeconds()
            if case .failure(let refusal) = trust.judge.judge(certificate, expecting: .server, at: now) {
                return refusal.description
            }
            return await TLSProfile.refusal(ofServer: certificate, host: host, trust: trust.trust, at: now)
        }
        return try UplinkService(settings: settings, store: buffer, logger: logger, judge: judge)
    }
}

/// The local socket on which the operator's tool asks the daemon.
private struct ControlService: Service {
    let buffer: Buffer
    let gateway: GatewayService
    let path: String
    let logger: Logger

    func run() async throws {
        let server = try await ControlServer.start(
            bufferPath: path, buffer: buffer, devices: { await gateway.devices() },
            group: MultiThreadedEventLoopGroup.singleton, logger: logger)
        await cancelWhenGracefulShutdown { while (try? await Task.sleep(for: .seconds(3_600))) != nil {} }
        await server.stop()
    }
}

/// SIGHUP: the configuration is read again, and so are certificates and revocation lists, by which live sessions are judged.
private struct ReloadService: Service {
    let gateway: GatewayService
    let reloader: ConfigurationReloader
    let logger: Logger

    func run() async throws {
        let signals = await UnixSignalsSequence(trapping: .sighup)
        await cancelWhenGracefulShutdown { [reloader] in
            var reloader = reloader
            for await _ in signals {
                logger.notice("Configuration and certificates are to be read again.", [.signal: "SIGHUP"])
                gateway.reload()
                await reloader.reload()
            }
        }
    }
}
