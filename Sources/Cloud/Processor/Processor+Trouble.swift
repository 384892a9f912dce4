import Database
import EventLog
import Flow
import Logging
import Operations
import ServiceLifecycle

extension Processor {
    func react(to outcome: WriteOutcome) async {
        switch outcome {
        case .stored: break
        case .lost(let partitions):
            logger.warning(
                "Another processor has taken partitions", [.partition: "\(partitions)"])
            for partition in partitions {
                forget(partition)
                reclaims[partition] = .now + configuration.reclaimDelay
            }
        case .ahead(let next):
            logger.notice("A batch whose answer was lost had been stored", [.partition: "\(next.keys.sorted())"])
            for (partition, offset) in next { claims[partition]?.next = offset }
            status.update { state in for (partition, offset) in next { state.offsets[partition] = offset } }
        case .registryChanged: preparer.forget()
        case .overflow(let partition, let device, let ranges):
            stop(partition, "device \(device) has more than \(ranges) gaps in its numbers")
        case .corrupt(let partition, let reason): stop(partition, reason)
        case .failed(let error): await recover(from: error)
        // Only replays and complements end so.
        case .settled: break
        }
    }

    /// Nothing more of this partition until an operator has looked: never a guess.
    func stop(_ partition: Int32, _ reason: String) {
        claims[partition] = nil
        reclaims[partition] = nil
        diversion?.remove(partition)
        status.update { $0.stopped[partition] = reason }
        metrics.stopped(partitions: status.state.stopped.count)
        logger.critical(
            "A partition is stopped: nothing of it is stored until this is resolved and the processor restarted",
            [.partition: "\(partition)", .reason: "\(reason)"])
    }

    func forget(_ partition: Int32) {
        group.forget(partition)
        claims[partition] = nil
        reclaims[partition] = nil
        diversion?.remove(partition)
        status.update {
            $0.offsets[partition] = nil
            $0.stopped[partition] = nil
            $0.ofOtherLog.remove(partition)
        }
        metrics.stopped(partitions: status.state.stopped.count)
    }

    /// Notes the failure and waits before the next attempt.
    func recover(from error: any Error) async {
        if isStopping { return }
        metrics.failed()
        switch error {
        case let error as PostgresError:
            if error.category != .contention { status.update { $0.isDatabaseReachable = false } }
            let hint = error.category == .setup ? "; run sluice migrate up, or grant the rights it names" : ""
            logger.error(
                "The database does not take the batch: trying again",
                [.error: "\(error)\(hint)"])
            // A migration may have taken away what a flag allowed.
            if error.category == .setup { writer.flags.forget() }
            preparer.forget()
            // The breaker says when the next attempt may be made.
            if fallback.isOpen, error.verdict != .untold { return }
        case EventLogError.outOfRange(let partition, let offset, let first, let next):
            stop(partition, "offset \(offset) is outside the log, which holds \(first) to \(next)")
            return
        case let error as EventLogError:
            status.update { $0.isLogReachable = false }
            logger.error(
                "The event log cannot be read: trying again", [.error: "\(error)"])
            await dropReader()
        default:
            logger.error("Trying again", [.error: "\(error)"])
        }
        let wait = backoff.next(using: &generator)
        try? await cancelWhenGracefulShutdown { try await Task.sleep(for: .microseconds(wait)) }
    }

    func dropReader() async {
        await settle()
        await reader?.close()
        reader = nil
        for partition in assigned { forget(partition) }
        assigned = []
    }
}
