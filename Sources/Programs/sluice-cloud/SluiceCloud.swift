import Archive
import ArgumentParser
import Database
import EventLog
import Flow
import FoundationEssentials
import Glibc
import Ingest
import Lifecycle
import Logging
import ObjectStore
import Operations
import PKI
import Processor
import ServiceLifecycle
import UnixSignals

extension CloudRole: ExpressibleByArgument {}

/// The cloud daemon.
@main
struct SluiceCloud: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sluice-cloud",
        abstract: "Takes batches from gateways into a durable log, and from the log into the database.")

    @Option(name: .long, help: "The configuration file (YAML).")
    var config: String

    @Option(name: .long, help: "Which part this process runs: ingest, process, api or all.")
    var role: CloudRole = .all

    @Flag(name: .long, help: "Check the configuration, print every mistake in it and end.")
    var check = false

    func run() async throws {
        let start = DaemonStart(program: "sluice-cloud", file: config, checkOnly: check) {
            () throws(ConfigurationProblems) in
            let configuration = try CloudConfiguration.load(file: config, role: role)
            if check { try checkTLS(configuration) }
            return configuration
        }
        let configuration = start.configurationOrExit()
        let registry = MetricRegistry()
        let logger = Daemon.bootstrap(name: "sluice-cloud", level: configuration.log.level, registry: registry)
        do {
            try await CloudDaemon(configuration, role: role, registry: registry, logger: logger).run()
        } catch {
            logger.critical("The daemon ends: \(error)", [.error: "\(error)"])
            LogSink.standardError.flush()
            throw ExitCode(1)
        }
        LogSink.standardError.flush()
    }
}

extension SluiceCloud {
    /// A start does not end for it: files that are renewed do not change all at once.
    private func checkTLS(_ configuration: CloudConfiguration) throws(ConfigurationProblems) {
        guard role.ingests, let tls = configuration.listener?.tls else { return }
        let found = TLSFileCheck(certificate: tls.certificate, key: tls.key, clientCA: tls.clientCA, crl: tls.crl)
            .findings
        guard found.isEmpty else {
            throw ConfigurationProblems(
                found.map {
                    ConfigurationProblem(
                        file: config, line: 0, column: 0, key: "listener.tls.\($0.key)", found: $0.found,
                        allowed: $0.allowed)
                })
        }
    }
}

/// The parts of the cloud, and the order in which they start and end.
private struct CloudDaemon {
    let configuration: CloudConfiguration
    let role: CloudRole
    let registry: MetricRegistry
    let logger: Logger
    let shutdown: ShutdownWatch

    init(_ configuration: CloudConfiguration, role: CloudRole, registry: MetricRegistry, logger: Logger) {
        self.configuration = configuration
        self.role = role
        self.registry = registry
        self.logger = logger
        shutdown = ShutdownWatch(
            .init(file: configuration.shutdown.stateFile, limit: .seconds(configuration.shutdown.within)),
            metrics: registry, logger: logger)
    }

    func run() async throws {
        let log = try openLog()
        do {
            try await serve(log)
        } catch {
            await log?.close()
            throw error
        }
        await log?.close()
        shutdown.finish()
    }

    /// Services end from the last to the first: the clock of the shutdown, sync endpoint, processor, status port.
    private func serve(_ log: (any EventLog)?) async throws {
        let health = HealthRegistry()
        if let log {
            health.check("event log") {
                do {
                    _ = try await log.bounds()
                    return .good
                } catch {
                    return .failed("\(error)")
                }
            }
        }
        var services: [any Service] = [
            StatusServer(endpoint: configuration.status, health: health, metrics: registry, logger: logger)
        ]
        let status = ProcessorStatus()
        if role.processes, let log {
            let flags = FeatureFlags()
            services += [try lifecycle(), FlagWatch(database: try databaseURL(), flags: flags, logger: logger)]
            services.append(try processor(log, status, flags: flags, health: health))
        }
        if role.processes, let archive = configuration.archive, let objects = configuration.objects {
            services.append(
                ArchiveService(
                    database: try databaseURL(), store: try objects.open(), configuration: archive, logger: logger))
        }
        let ingest = role.ingests ? try log.flatMap { try self.ingest($0, status) } : nil
        if let ingest { services += [ReloadService(ingest: ingest, logger: logger), ingest] }
        if role != .ingest {
            let probe = DatabaseProbe(url: try databaseURL())
            health.check("database") { await probe.check() }
        }
        if let notifier = SystemdNotifier(environment: ProcessInfo.processInfo.environment) {
            services.append(
                // Started is not the same as ready: without the database it takes batches all the same.
                SystemdService(
                    notifier: notifier, isReady: { ingest.map { $0.port != nil } ?? true },
                    isAlive: { health.live().isGood }))
        }
        services.append(shutdown)
        var settings = ServiceGroupConfiguration(
            services: services.map {
                .init(
                    service: $0, successTerminationBehavior: .gracefullyShutdownGroup,
                    failureTerminationBehavior: .gracefullyShutdownGroup)
            },
            gracefulShutdownSignals: [.sigterm, .sigint], logger: logger)
        // What still runs is cancelled a while before all is cut off.
        settings.maximumGracefulShutdownDuration = .seconds(configuration.shutdown.within) * 5 / 6
        try await ServiceGroup(configuration: settings).run()
    }

    private func openLog() throws -> (any EventLog)? {
        guard role.ingests || role.processes else { return nil }
        switch configuration.eventLog {
        case .embedded(let embedded):
            return try EmbeddedEventLog.open(
                path: embedded.path, partitions: Int32(embedded.partitions), retention: .seconds(embedded.retention),
                logger: logger)
        case .kafka(let kafka):
            var settings = KafkaConfiguration(kafka)
            settings.leavesGroup = configuration.processor.leavesGroup
            return try KafkaEventLog.open(settings, logger: logger)
        }
    }

    private func ingest(_ log: any EventLog, _ status: ProcessorStatus) throws -> IngestService? {
        guard let listener = configuration.listener else { return nil }
        var settings = IngestConfiguration(
            address: listener.endpoint.address, port: listener.endpoint.port, tls: listener.tls)
        settings.maximumSentBytes = configuration.limits.batchBytes
        settings.maximumUnpackedBytes = configuration.limits.unpackedBytes
        settings.maximumConnections = configuration.limits.connections
        settings.maximumInFlight = configuration.limits.batchesInFlight
        settings.maximumBacklogInFlight = configuration.limits.backlogBatchesInFlight
        settings.backlogMessagesPerSecond = configuration.limits.backlogMessagesPerSecond
        settings.messagesPerSecond = configuration.limits.messagesPerSecond
        settings.gatewayMessagesPerSecond = configuration.limits.gatewayMessagesPerSecond
        settings.gatewayBacklogMessagesPerSecond = configuration.limits.gatewayBacklogMessagesPerSecond
        settings.maximumGatewayInFlight = configuration.limits.gatewayBatchesInFlight
        settings.maximumGatewayBacklogInFlight = configuration.limits.gatewayBacklogBatchesInFlight
        settings.expectedDeviceMessagesPerSecond = configuration.limits.expectedDeviceMessagesPerSecond
        settings.idleTimeout = Int64(configuration.limits.requestTimeout)
        settings.requestTimeout = Int64(configuration.limits.requestTimeout)
        settings.refusal = {
            status.otherLog.map {
                "nothing is acknowledged until this is put right and the cloud restarted: \($0)"
            }
        }
        return try IngestService(configuration: settings, log: log, metrics: registry, logger: logger)
    }

    private func lifecycle() throws -> LifecycleService {
        var settings = LifecycleConfiguration(
            database: try databaseURL(), hotDays: Int32(configuration.processor.hotDays))
        settings.rollupDays = Int32(configuration.lifecycle.rollupDays)
        settings.hasArchive = configuration.archive != nil
        return LifecycleService(configuration: settings, logger: logger)
    }

    private func processor(
        _ log: any EventLog, _ status: ProcessorStatus, flags: FeatureFlags, health: HealthRegistry
    ) throws -> Processor {
        let member = configuration.processor.member ?? ProcessInfo.processInfo.hostName
        var settings = ProcessorConfiguration(database: try databaseURL(), member: member)
        settings.timeField = configuration.processor.timeField
        settings.hotDays = configuration.processor.hotDays
        settings.metricsPerMessage = configuration.processor.metricsPerMessage
        settings.metricsPerDevice = configuration.processor.metricsPerDevice
        settings.fallback = DatabaseFallback.Settings(configuration.processor)
        health.check("processor") {
            let problems = status.problems
            return problems.isEmpty ? .good : .failed(problems.joined(separator: "; "))
        }
        health.check("breaker") { [registry] in
            (registry.highest(ofGauge: MetricName.processorBreakerOpen.rawValue) ?? 0) > 0
                ? .failed("the circuit breaker of the database is open") : .good
        }
        var objects: (any ObjectStore)?
        // Where there are none, the configuration's check refuses it.
        if configuration.processor.fallback == .deadLetter { objects = try configuration.objects?.open() }
        return Processor(
            configuration: settings, log: log, status: status, objects: objects, flags: flags, logger: logger,
            registry: registry)
    }

    private func databaseURL() throws -> String { try configuration.database.urlWithPasswordSet() }
}

extension DatabaseFallback.Settings {
    fileprivate init(_ processor: CloudConfiguration.Processor) {
        self.init()
        breaker.windowSeconds = processor.breaker.window
        breaker.minimumCalls = processor.breaker.minimumCalls
        breaker.failureRateThreshold = processor.breaker.failureRate
        breaker.waitInOpen = Int64(processor.breaker.openFor) * 1_000_000
        breaker.permittedInHalfOpen = processor.breaker.probes
        slowCall = Int64(processor.breaker.slowCall) * 1_000_000
        switch processor.fallback {
        case .pause: mode = .pause
        case .deadLetter: mode = .deadLetter
        case .sample: mode = .sample
        }
    }
}

/// SIGHUP: the client CA and its CRL are read again.
private struct ReloadService: Service {
    let ingest: IngestService
    let logger: Logger

    func run() async throws {
        let signals = await UnixSignalsSequence(trapping: .sighup)
        await cancelWhenGracefulShutdown {
            for await _ in signals {
                logger.notice("Reading the client CA and its revocation list again.", [.signal: "SIGHUP"])
                ingest.reload()
            }
        }
    }
}
