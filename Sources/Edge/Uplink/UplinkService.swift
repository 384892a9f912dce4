import Buffer
import CoreMetrics
import Flow
import Logging
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

        package init(gateway: String, url: String, tls: TLSConfiguration) {
            self.gateway = gateway
            self.url = url
            self.tls = tls
        }
    }

    /// Frames of one batch: with the accounts and ledger lines beside them it stays near 4 MiB.
    static let maximumFrameBytes = 4 * 1024 * 1024 - 256 * 1024
    /// Well below what the cloud takes in one batch.
    static let maximumMessages = 65_536

    private let store: any UplinkStore
    private let settings: Settings
    private let configuration: SyncClient.Configuration
    private let packer: BatchPacker
    private let logger: Logger
    private let metrics = UplinkMetrics()

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
            state: UplinkState(settings: settings.state, backoff: settings.backoff), source: source,
            client: client)
        defer { driver.cancelTimer() }
        let data = store.dataAvailable()
        group.addTask {
            for await _ in data {
                source.yield(.state(.dataAvailable(bytes: await waitingBytes())))
            }
        }
        perform(driver.state.start(), &driver, &group)
        for await event in events {
            switch event {
            case .cancelled: return .success(())
            case .bufferLost(let error):
                logger.error(
                    "the buffer cannot be used any more; the uplink ends",
                    metadata: [LogKey.error.rawValue: "\(error)"])
                return error == .closed ? .success(()) : .failure(error)
            case .cut(let cut):
                driver.cut = cut
                perform(handle(.cut(cut != nil), &driver, &generator), &driver, &group)
            case .state(let event):
                perform(handle(event, &driver, &generator), &driver, &group)
            }
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
        for action in actions {
            switch action {
            case .cut:
                group.addTask { [source = driver.source] in source.yield(await nextCut()) }
            case .send(let timeout):
                guard let cut = driver.cut else { continue }
                let attempt = driver.state.attempts
                group.addTask { [source = driver.source, client = driver.client] in
                    source.yield(await send(cut, over: client, attempt: attempt, timeout: timeout))
                }
            case .acknowledge:
                guard let cut = driver.cut else { continue }
                group.addTask { [source = driver.source] in source.yield(await acknowledge(cut)) }
            case .wake(let time):
                driver.wake(at: time)
            case .alarm:
                metrics.refused.record(1)
            case .stop:
                driver.cancelTimer()
            }
        }
    }

    // MARK: What takes time

    private func nextCut() async -> UplinkEvent {
        do throws(BufferError) {
            return .cut(
                try await store.nextCut(
                    maximumBytes: Self.maximumFrameBytes, maximumMessages: Self.maximumMessages))
        } catch {
            return bufferFailed(error, doing: "cut a batch")
        }
    }

    private func send(_ cut: Cut, over client: SyncClient, attempt: Int, timeout: Int64) async -> UplinkEvent {
        let contents: (frames: [StoredFrame], accounts: [EpochAccount], ledger: [LedgerLine])
        do throws(BufferError) {
            contents = try await store.contents(of: cut)
        } catch {
            return bufferFailed(error, doing: "read a batch")
        }
        do {
            let batch = try await packer.pack(
                frames: contents.frames, accounts: contents.accounts, ledger: contents.ledger)
            let answer = try await client.post(batch, timeout: timeout)
            return answered(answer, cut: cut, batch: batch, attempt: attempt)
        } catch let failure as SyncFailureDetail {
            metrics.failed(.network(failure.kind))
            warn("a batch got no answer", cut, attempt, reason: failure.kind.rawValue, error: failure.description)
        } catch {
            metrics.failed(.buffer)
            warn("a batch could not be packed", cut, attempt, reason: "pack", error: "\(error)")
        }
        return .state(.failure)
    }

    private func answered(_ answer: SyncAnswer, cut: Cut, batch: PackedBatch, attempt: Int) -> UplinkEvent {
        switch UplinkState.verdict(on: answer.status) {
        case .accepted:
            metrics.batches.increment()
            metrics.messages.increment(by: cut.messageCount)
            metrics.bytes.increment(by: batch.body.readableBytes)
            metrics.lastSuccess.record(UplinkClock.secondsSince1970)
            metrics.refused.record(0)
            if attempt > 1 {
                logger.notice("the cloud has the batch", metadata: metadata(cut, attempt))
            }
        case .tryAgain:
            metrics.failed(.busy)
            warn("the cloud cannot take a batch now", cut, attempt, reason: "\(answer.status)", error: answer.reason)
        case .refused:
            metrics.failed(.refused)
            var metadata = metadata(cut, attempt)
            metadata[LogKey.reason.rawValue] = "\(answer.status)"
            metadata[LogKey.error.rawValue] = "\(answer.reason)"
            logger.error(
                "the cloud refuses a batch; nothing is dropped, it is tried again, but someone must look at it",
                metadata: metadata)
        }
        let delay = answer.retryAfter.flatMap { RetryAfter.delay($0, now: Int64(UplinkClock.secondsSince1970)) }
        return .state(.answer(status: answer.status, retryAfter: delay))
    }

    private func acknowledge(_ cut: Cut) async -> UplinkEvent {
        do throws(BufferError) {
            try await store.acknowledge(cut)
        } catch {
            return bufferFailed(error, doing: "delete a batch that the cloud has")
        }
        return .state(.acknowledged(bytes: await waitingBytes()))
    }

    private func waitingBytes() async -> Int {
        let waiting = await store.waiting()
        let bytes = waiting.live.bytes + waiting.backlog.bytes
        metrics.backlogMessages.record(waiting.live.messages + waiting.backlog.messages)
        metrics.backlogBytes.record(bytes)
        return bytes
    }

    // MARK: Words

    private func bufferFailed(_ error: BufferError, doing what: String) -> UplinkEvent {
        switch error {
        case .closed, .corrupt: return .bufferLost(error)
        default:
            metrics.failed(.buffer)
            logger.error(
                "the buffer could not \(what); it is tried again", metadata: [LogKey.error.rawValue: "\(error)"])
            return .state(.bufferFailed)
        }
    }

    /// The first failures of a batch, then each that is a power of two: a long outage is no flood of lines.
    private func warn(_ message: Logger.Message, _ cut: Cut, _ attempt: Int, reason: String, error: String) {
        var metadata = metadata(cut, attempt)
        metadata[LogKey.reason.rawValue] = "\(reason)"
        metadata[LogKey.error.rawValue] = "\(error)"
        logger.log(level: attempt & (attempt - 1) == 0 ? .warning : .debug, message, metadata: metadata)
    }

    private func metadata(_ cut: Cut, _ attempt: Int) -> Logger.Metadata {
        [
            LogKey.gateway.rawValue: "\(settings.gateway)", LogKey.batch.rawValue: "\(cut.id)",
            LogKey.count.rawValue: "\(cut.messageCount)", LogKey.attempt.rawValue: "\(attempt)",
        ]
    }
}
