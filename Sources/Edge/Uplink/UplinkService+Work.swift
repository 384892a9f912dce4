import Buffer
import CoreMetrics
import Logging
import NIOCore
import Operations
import SyncModel

/// What takes time: each is a task whose outcome comes back to the loop as an event.
extension UplinkService {
    func startLive() async -> UplinkEvent {
        do throws(BufferError) {
            if try await store.startLive() {
                logger.notice("what waited for the cloud is backlog now; new data goes first")
            }
        } catch {
            return bufferFailed(error, doing: "tell live data from the backlog")
        }
        return .data(await store.waiting(), .liveStarted)
    }

    func nextCut(in lane: Lane, maximumBytes: Int) async -> UplinkEvent {
        do throws(BufferError) {
            return .cut(
                try await store.nextCut(
                    in: lane, maximumBytes: maximumBytes, maximumMessages: Self.maximumMessages))
        } catch {
            return bufferFailed(error, doing: "cut a batch")
        }
    }

    func send(
        _ content: UplinkState.Content, of cut: Cut, over client: SyncClient, attempt: Int, timeout: Int64
    ) async -> UplinkEvent {
        var contents: (frames: [StoredFrame], accounts: [EpochAccount], ledger: [LedgerLine])
        var corrections: [ClockCorrection]
        do throws(BufferError) {
            contents = try await store.contents(of: cut)
            corrections = try await store.corrections(of: cut)
        } catch {
            return bufferFailed(error, doing: "read a batch")
        }
        let all = contents.frames
        switch content {
        case .whole: break
        case .probe: contents.frames = []
        case .pieces(let pieces):
            guard let frames = all.parts(pieces) else {
                return bufferFailed(.io("a frame cannot be taken apart"), doing: "split a batch")
            }
            // All of it was dropped meanwhile: it is in the ledger, and nothing is left to ask for.
            guard !frames.isEmpty else { return .state(.gone) }
            contents = (frames, [], [])
            corrections = []
        }
        var sentBytes = 0
        do {
            let batch = try await packer.pack(
                lane: cut.lane, frames: contents.frames, accounts: contents.accounts, ledger: contents.ledger,
                corrections: corrections)
            sentBytes = batch.body.readableBytes
            metrics.bytes.increment(by: sentBytes)
            let answer = try await client.post(batch, timeout: timeout)
            return answered(
                answer, content, cut: cut, messages: contents.frames.reduce(0) { $0 + $1.count },
                sentBytes: sentBytes, attempt: attempt, pieces: all.pieces)
        } catch let failure as SyncFailureDetail {
            metrics.failed(.network(failure.kind))
            warn("a batch got no answer", cut, attempt, reason: failure.kind.rawValue, error: failure.description)
        } catch {
            metrics.failed(.buffer)
            warn("a batch could not be packed", cut, attempt, reason: "pack", error: "\(error)")
        }
        return .answer(
            .failure(sentBytes: sentBytes, pieces: content == .whole ? all.pieces : []), isAccepted: false)
    }

    private func answered(
        _ answer: SyncAnswer, _ content: UplinkState.Content, cut: Cut, messages: Int, sentBytes: Int, attempt: Int,
        pieces: @autoclosure () -> [BatchSplit.Piece]
    ) -> UplinkEvent {
        let delay = answer.retryAfter.flatMap { RetryAfter.delay($0, now: Int64(UplinkClock.secondsSince1970)) }
        let said = UplinkState.Answer(status: answer.status, retryAfter: delay, sentBytes: sentBytes)
        switch UplinkState.verdict(on: answer.status) {
        case .accepted:
            metrics.batches.increment()
            metrics.messages.increment(by: messages)
            metrics.lastSuccess.record(UplinkClock.secondsSince1970)
            noteAcceptance(of: content, messages: messages, cut, attempt)
            return .answer(.answer(said), isAccepted: true)
        case .tryAgain:
            metrics.failed(.busy)
            warn("the cloud cannot take a batch now", cut, attempt, reason: "\(answer.status)", error: answer.reason)
            if answer.status == 408 {
                let pieces = content == .whole ? pieces() : []
                return .answer(.failure(sentBytes: sentBytes, pieces: pieces, isTooSlow: true), isAccepted: false)
            }
            return .answer(.answer(said), isAccepted: false)
        case .malformed:
            metrics.failed(.refused)
            note(answer, cut, attempt, content == .whole ? .error : .info)
            // Its parts are known already.
            let refusal = UplinkState.Refusal(
                pieces: content == .whole ? pieces() : [], reason: String(answer.reason.prefix(500)))
            return .answer(.refused(said, refusal), isAccepted: false)
        case .refused:
            metrics.failed(.refused)
            note(answer, cut, attempt, .error)
            return .answer(.answer(said), isAccepted: false)
        }
    }

    func acknowledge(_ cut: Cut) async -> UplinkEvent {
        do throws(BufferError) {
            try await store.acknowledge(cut)
        } catch {
            return bufferFailed(error, doing: "delete a batch that the cloud has")
        }
        return .data(await store.waiting(), .acknowledged)
    }

    func bury(_ suspect: BatchSplit.Suspect, in cut: Cut) async -> UplinkEvent {
        do throws(BufferError) {
            guard try await store.bury(suspect, in: cut) else { return .state(.gone) }
        } catch {
            return bufferFailed(error, doing: "keep a message that the cloud refuses")
        }
        var metadata = metadata(cut, 0)
        metadata[LogKey.count.rawValue] = "1"
        metadata[LogKey.reason.rawValue] = "\(suspect.status)"
        metadata[LogKey.error.rawValue] = "\(suspect.reason)"
        logger.error("a message that the cloud refuses is a dead letter now, the rest goes on", metadata: metadata)
        return .buried
    }

    // MARK: Words

    /// A batch that is split has dozens of parts.
    private func noteAcceptance(of content: UplinkState.Content, messages: Int, _ cut: Cut, _ attempt: Int) {
        guard attempt > 1 else { return }
        var metadata = metadata(cut, attempt)
        metadata[LogKey.count.rawValue] = "\(messages)"
        switch content {
        case .whole: logger.notice("the cloud has the batch", metadata: metadata)
        case .pieces: logger.debug("the cloud has a part of the batch", metadata: metadata)
        case .probe: logger.debug("the cloud takes an empty batch", metadata: metadata)
        }
    }

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

    private func note(_ answer: SyncAnswer, _ cut: Cut, _ attempt: Int, _ level: Logger.Level) {
        var metadata = metadata(cut, attempt)
        metadata[LogKey.reason.rawValue] = "\(answer.status)"
        metadata[LogKey.error.rawValue] = "\(answer.reason)"
        logger.log(level: level, "the cloud refuses a batch", metadata: metadata)
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
