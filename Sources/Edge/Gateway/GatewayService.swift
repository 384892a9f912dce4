import Buffer
import Glibc
import Logging
import MQTTSession
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import NIOSSL
import Operations
import PKI
import ServiceLifecycle

/// The MQTT listeners as a service: binds, serves, and on shutdown drains in order (no new connections, no more input,
/// what is committed is acknowledged, DISCONNECT, close).
package final class GatewayService: Service {
    let configuration: EdgeConfiguration
    let buffer: Buffer
    let clock: SystemClock
    /// Microseconds on the monotonic clock.
    let startedAt = EdgeClock.monotonicTime()
    private let logger: Logger
    private let group: MultiThreadedEventLoopGroup
    let listeners: [GatewayListener]
    private let heartbeat: Heartbeat
    let metrics: GatewayMetrics
    let driver: NIOLoopBound<GatewayDriver>
    private let reloads: AsyncStream<CertificateReloader.Cause>
    private let askToReload: AsyncStream<CertificateReloader.Cause>.Continuation
    private let failure: AsyncStream<BufferError>
    private let bound: NIOLockedValueBox<[SocketAddress]> = .init([])

    /// A disk that has not answered for so long will not: a new process, or the watchdog's reboot, is tried.
    private static let stalledDisk = Duration.seconds(60)

    /// Bounds of the parts of a shutdown; together below the 10 s that systemd and the operator are promised.
    private static let drainTimeout = TimeAmount.seconds(4)
    private static let closeTimeout = TimeAmount.seconds(3)

    package init(
        configuration: EdgeConfiguration, buffer: Buffer, restored: RestoredState, clock: SystemClock,
        metrics: GatewayMetrics, health: HealthRegistry = HealthRegistry(),
        logger: Logger
    ) async throws {
        self.configuration = configuration
        self.buffer = buffer
        self.clock = clock
        self.logger = logger
        listeners = try configuration.listeners.map { listener throws(GatewayError) in
            try GatewayListener(listener, configuration: configuration)
        }
        self.metrics = metrics
        (reloads, askToReload) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(4))
        for listener in listeners { metrics.watch(listener, now: buffer.judgingSeconds) }
        metrics.watch(rules: configuration.enabledRules.map(\.name), read: buffer.localWork)
        health.check("certificates", isCritical: false) { [listeners] in
            let now = buffer.judgingSeconds()
            let concerns = listeners.flatMap { listener in
                listener.concerns(at: now).map { "\(listener.name): \($0.text)" }
            }
            return concerns.isEmpty ? .good : .degraded(concerns.joined(separator: "; "))
        }
        heartbeat = health.heartbeat("event loop", limit: .seconds(10))
        health.watch("buffer writer", limit: Self.stalledDisk) { buffer.writerBusyTime() }
        group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let eventLoop = group.next()
        let (stream, continuation) = AsyncStream.makeStream(of: BufferError.self, bufferingPolicy: .bufferingNewest(1))
        failure = stream
        driver = try await eventLoop.submit {
            let driver = GatewayDriver(
                eventLoop: eventLoop, buffer: buffer, restored: restored, configuration: configuration,
                clock: clock, metrics: metrics, logger: logger)
            driver.stopped = { error in
                continuation.yield(error)
                continuation.finish()
            }
            return NIOLoopBound(driver, eventLoop: eventLoop)
        }.get()
    }

    /// Where the listeners are bound, in the order of the configuration; a port of 0 is resolved here.
    package var addresses: [SocketAddress] { bound.withLockedValue { $0 } }

    /// All listeners are bound. It serves from then on, also while the buffer is full.
    package var isListening: Bool { addresses.count == listeners.count }

    package func run() async throws {
        var channels: [any Channel] = []
        do {
            for listener in listeners { channels.append(try await bind(listener)) }
        } catch {
            for channel in channels { try? await channel.close() }
            try? await group.shutdownGracefully()
            throw error
        }
        bound.withLockedValue { $0 = channels.compactMap(\.localAddress) }
        let repeated = [startTicking(), startReloading()]
        let reloading = Task { await reloadWhenAsked() }
        let stopped = failure
        let ended = await cancelWhenGracefulShutdown { () -> BufferError? in
            for await error in stopped { return error }
            return nil
        }
        for channel in channels { try? await channel.close() }
        await drain()
        for task in repeated { task.cancel() }
        askToReload.finish()
        await reloading.value
        try? await group.shutdownGracefully()
        if let ended { throw GatewayError.buffer("\(ended)") }
    }

    /// Takes what can change while it runs from a configuration; `ConfigurationReload` says what that is.
    package func reconfigure(_ configuration: EdgeConfiguration) async {
        let driver = driver
        // Fails only when the loop has ended, and then nothing is left to configure.
        try? await driver.eventLoop.submit { driver.value.reconfigure(configuration) }.get()
    }

    /// Has certificates and CRLs read again, and the sessions ended whose certificate is no longer good. Errors are logged,
    /// and what was in force stays.
    package func reload() { askToReload.yield(.asked) }

    private func startReloading() -> RepeatedTask {
        let interval = TimeAmount.seconds(Int64(configuration.certificates.reloadInterval))
        return driver.eventLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) { [askToReload] _ in
            askToReload.yield(.timer)
        }
    }

    /// One reading after another, whoever asks.
    private func reloadWhenAsked() async {
        var reloader = CertificateReloader(
            listeners: listeners, metrics: metrics, logger: logger, now: buffer.judgingSeconds)
        reloader.report()
        for await cause in reloads {
            let changes = reloader.reload(cause)
            guard !changes.isEmpty else { continue }
            let driver = driver
            try? await driver.eventLoop.submit {
                for (listener, change) in changes { driver.value.trustChanged(change, of: listener) }
            }.get()
        }
    }

    // MARK: listeners

    private func bind(_ listener: GatewayListener) async throws -> any Channel {
        let driver = driver
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 4096)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            // One accept a read, so that the pacer counts them.
            .serverChannelOption(.maxMessagesPerRead, value: 1)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        AcceptPacer(budget: driver.value.accepting, now: EdgeClock.monotonicTime) {
                            driver.value.metrics.closed(.networkClosed)
                        })
                }
            }
            .childChannelOption(.socketOption(.tcp_nodelay), value: 1)
            // Where a client sends no pings (keep-alive 0), the kernel finds out that it is gone: after 4 minutes here.
            .childChannelOption(.socketOption(.so_keepalive), value: 1)
            .childChannelOption(.tcpOption(.init(rawValue: TCP_KEEPIDLE)), value: 120)
            .childChannelOption(.tcpOption(.init(rawValue: TCP_KEEPINTVL)), value: 30)
            .childChannelOption(.tcpOption(.init(rawValue: TCP_KEEPCNT)), value: 4)
            .childChannelOption(.maxMessagesPerRead, value: 4)
            .childChannelOption(.writeBufferWaterMark, value: .init(low: 64 * 1024, high: 256 * 1024))
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let refusal = NIOLockedValueBox<CertificateRefusal?>(nil)
                    if let tls = listener.makeTLSHandler(refused: { reason in refusal.withLockedValue { $0 = reason } })
                    {
                        try PageMapping.mapped { try channel.pipeline.syncOperations.addHandler(tls) }
                    }
                    try channel.pipeline.syncOperations.addHandler(
                        MQTTConnectionHandler(driver: driver.value, listener: listener, handshakeRefusal: refusal))
                }
            }
        do {
            let channel = try await bootstrap.bind(host: listener.endpoint.address, port: listener.endpoint.port).get()
            logger.notice(
                listener.tls == nil ? "Listening for MQTT without TLS." : "Listening for MQTT over TLS.",
                [.listener: "\(channel.localAddress?.description ?? listener.name)"])
            return channel
        } catch {
            throw GatewayError.bind(listener: listener.name, BindError.reason(error))
        }
    }

    private func startTicking() -> RepeatedTask {
        let driver = driver
        let heartbeat = heartbeat
        let interval = TimeAmount.microseconds(GatewayDriver.tickInterval)
        return driver.eventLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) { _ in
            driver.value.tick()
            heartbeat.beat()
        }
    }

    // MARK: shutdown

    /// Acknowledges what is committed and on its way to be, says goodbye, and waits until the sockets are closed.
    private func drain() async {
        let driver = driver
        let started = EdgeClock.monotonicTime()
        try? await driver.eventLoop.submit { driver.value.stopInput() }.get()
        await wait(atMost: Self.drainTimeout) { $0.pipeline.isIdle && $0.output.group.isEmpty }
        try? await driver.eventLoop.submit {
            let driver = driver.value
            driver.broker.shutdown(now: driver.now(), into: &driver.output)
            driver.cycleEnded()
        }.get()
        await wait(atMost: Self.closeTimeout) {
            $0.connectionCount == 0 && $0.pipeline.isIdle && $0.output.group.isEmpty
        }
        let took = Double(EdgeClock.monotonicTime() - started) / 1_000_000
        logger.notice("The listeners are closed.", [.seconds: "\(took)"])
    }

    private func wait(atMost timeout: TimeAmount, until condition: @escaping @Sendable (GatewayDriver) -> Bool) async {
        let driver = driver
        let deadline = EdgeClock.monotonicTime() + timeout.nanoseconds / 1_000
        while EdgeClock.monotonicTime() < deadline {
            let isMet = try? await driver.eventLoop.submit { condition(driver.value) }.get()
            if isMet == true { return }
            try? await Task.sleep(for: .milliseconds(10))
        }
    }
}
