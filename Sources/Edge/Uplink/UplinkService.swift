import Buffer
import CoreMetrics
import Flow
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import NIOSSL
import Operations
import ServiceLifecycle
import SyncModel

/// Sends what the buffer holds to the cloud, and tells the buffer to delete it once the cloud has answered 200.
///
/// It does what `UplinkState` says: each action that takes time is a task of its own, whose outcome comes back as an
/// event.
package struct UplinkService: Service {
    package struct Settings: Sendable {
        package var gateway: String
        /// `https://host[:port]`.
        package var url: String
        package var tls: TLSConfiguration
        package var state = UplinkState.Settings()
        package var backoff = Backoff()
        package var breaker = CircuitBreaker.Settings()

        package init(gateway: String, url: String, tls: TLSConfiguration) {
            self.gateway = gateway
            self.url = url
            self.tls = tls
        }
    }

    /// Well below what the cloud takes in one batch.
    static let maximumMessages = 65_536

    let store: any UplinkStore
    let settings: Settings
    private let configuration: SyncClient.Configuration
    let packer: BatchPacker
    let logger: Logger
    let metrics = UplinkMetrics()
    private let snapshot = NIOLockedValueBox(UplinkStatus())

    /// - Parameter judge: decides whether the certificate of the cloud is a sync server's.
    package init(
        settings: Settings, store: any UplinkStore, logger: Logger, judge: ServerJudge,
        group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
    ) throws(UplinkConfigurationError) {
        self.store = store
        self.settings = settings
        self.logger = logger
        configuration = try SyncClient.Configuration(url: settings.url, tls: settings.tls, group: group, judge: judge)
        packer = BatchPacker(gateway: settings.gateway)
    }

    /// As of the last thing that happened.
    package var status: UplinkStatus { snapshot.withLockedValue { $0 } }

    /// Ends after a graceful shutdown, or with the buffer's error when the buffer cannot be trusted any more.
    package func run() async throws {
        let client = SyncClient(configuration)
        let (events, source) = AsyncStream.makeStream(of: UplinkEvent.self)
        let outcome = await withGracefulShutdownHandler {
            await withTaskCancellationHandler {
                await withDiscardingTaskGroup { group in
                    let outcome = await drive(events, source, client, in: &group)
                    group.cancelAll()
                    return outcome
                }
            } onCancel: {
                source.yield(.cancelled)
            }
        } onGracefulShutdown: {
            source.yield(.state(.shutdown))
        }
        await client.shutdown()
        try outcome.get()
    }

    private func drive(
        _ events: AsyncStream<UplinkEvent>, _ source: AsyncStream<UplinkEvent>.Continuation,
        _ client: SyncClient, in group: inout DiscardingTaskGroup
    ) async -> Result<Void, BufferError> {
        var generator = SystemRandomNumberGenerator()
        var driver = UplinkDriver(
            state: UplinkState(settings: settings.state, backoff: settings.backoff, breaker: settings.breaker),
            source: source, client: client)
        driver.status.bytesPerHour = settings.state.bytesPerHour
        defer { driver.cancelTimer() }
        let data = store.dataAvailable()
        group.addTask {
            for await _ in data { source.yield(.data(await store.waiting(), .committed)) }
        }
        perform(driver.state.start(now: driver.now), &driver, &group)
        for await event in events {
            let actions: [UplinkState.Action]
            switch event {
            case .cancelled: return .success(())
            case .bufferLost(let error):
                logger.error(
                    "the buffer cannot be used any more; the uplink ends",
                    metadata: [LogKey.error.rawValue: "\(error)"])
                return error == .closed ? .success(()) : .failure(error)
            case .cut(let cut):
                driver.cut = cut
                actions = handle(.cut(cut.map { .init(id: $0.id, bytes: $0.byteCount) }), &driver, &generator)
            case .data(let waiting, let cause):
                driver.observe(waiting)
                if cause == .acknowledged { driver.status.isRefused = false }
                actions = handle(cause.event(.init(waiting)), &driver, &generator)
            case .answer(let answer, let isAccepted):
                driver.answered(answer, isAccepted: isAccepted)
                actions = handle(answer, &driver, &generator)
            case .buried:
                driver.status.buried += 1
                metrics.deadLetters.increment()
                actions = handle(.buried, &driver, &generator)
            case .state(let event):
                actions = handle(event, &driver, &generator)
            }
            perform(actions, &driver, &group)
            driver.refreshStatus()
            metrics.show(driver.status)
            snapshot.withLockedValue { $0 = driver.status }
            if driver.state.state == .stopped { break }
        }
        return .success(())
    }

    private func handle(
        _ event: UplinkState.Event, _ driver: inout UplinkDriver, _ generator: inout SystemRandomNumberGenerator
    ) -> [UplinkState.Action] {
        driver.state.handle(event, now: driver.now, using: &generator)
    }

    private func perform(
        _ actions: [UplinkState.Action], _ driver: inout UplinkDriver, _ group: inout DiscardingTaskGroup
    ) {
        let (source, client) = (driver.source, driver.client)
        for action in actions {
            switch action {
            case .startLive:
                group.addTask { source.yield(await startLive()) }
            case .cut(let lane, let maximumBytes):
                group.addTask { source.yield(await nextCut(in: lane, maximumBytes: maximumBytes)) }
            case .send(let content, let timeout):
                guard let cut = driver.cut else { continue }
                let attempt = driver.state.attempt(in: cut.lane)
                group.addTask {
                    source.yield(await send(content, of: cut, over: client, attempt: attempt, timeout: timeout))
                }
            case .acknowledge:
                guard let cut = driver.cut else { continue }
                group.addTask { source.yield(await acknowledge(cut)) }
            case .bury(let suspect):
                guard let cut = driver.cut else { continue }
                group.addTask { source.yield(await bury(suspect, in: cut)) }
            case .wake(let time):
                driver.wake(at: time)
            case .alarm(let status):
                driver.status.isRefused = true
                logger.error(
                    "nothing of the batch is dropped, it is tried again, but someone must look at it",
                    metadata: [LogKey.reason.rawValue: "\(status)"])
            case .breaker(let state):
                logger.notice("the uplink's circuit breaker changes", metadata: [LogKey.reason.rawValue: "\(state)"])
            case .stop:
                driver.cancelTimer()
            }
        }
    }
}
