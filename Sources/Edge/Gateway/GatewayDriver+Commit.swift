import Buffer
import Logging
import MQTTSession
import NIOCore
import Operations
import SyncModel

/// The way of a group: open on the loop → the writer's thread → back to the loop, and only then its effects.
extension GatewayDriver {
    /// Tells the pipeline of what waits in the open group.
    func offerGroup() {
        guard pipeline.takesPending, !output.group.isEmpty else { return }
        apply(pipeline.pending(isLarge: broker.isLarge(output.group), now: EdgeClock.monotonicTime()))
    }

    private func apply(_ action: CommitPipeline.Action) {
        switch action {
        case .none: break
        case .scheduleHandOver:
            // Runs when all sockets that are ready in this cycle have been read, so that they share the fsync.
            let bound = NIOLoopBound(self, eventLoop: eventLoop)
            eventLoop.execute {
                let driver = bound.value
                driver.apply(driver.pipeline.cycleEnded(now: EdgeClock.monotonicTime()))
            }
        case .handOver: handOver()
        case .retry: submit()
        case .wake(let time):
            let bound = NIOLoopBound(self, eventLoop: eventLoop)
            let delay = max(0, time - EdgeClock.monotonicTime())
            eventLoop.scheduleTask(in: .microseconds(delay)) {
                let driver = bound.value
                driver.apply(driver.pipeline.timer(now: EdgeClock.monotonicTime()))
            }
        case .stop:
            break
        }
    }

    private func handOver() {
        let (changes, effects) = output.group.takeState()
        groupInFlight = GroupInFlight(drafts: output.group.frames.take(), changes: changes, effects: effects)
        submit()
        letInputGoOn()
    }

    private func submit() {
        guard let group = groupInFlight else { return }
        guard !group.drafts.isEmpty || !group.changes.isEmpty else {
            // Nothing to store: the effects only had to keep their place behind the commit before them.
            completed()
            return
        }
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        buffer.commit(group.drafts, changes: group.changes) { result in
            bound.eventLoop.execute { bound.value.answered(result) }
        }
    }

    private func answered(_ result: Result<CommitReceipt, BufferError>) {
        switch result {
        case .success(let receipt):
            metrics.committed(receipt)
            if failedCommits > 0 { logger.notice("The buffer commits again.", [.count: "\(failedCommits)"]) }
            failedCommits = 0
            if broker.storage == .full, !buffer.fill().isFull { broker.storage = .open }
            completed()
        case .failure(let error):
            let mayPass = error.mayPass
            if mayPass { broker.storage = .full }
            failedCommits += 1
            metrics.commitFailed(since: failedCommits)
            // At powers of two: it is tried five times a second, and a disk may be full for hours.
            if !mayPass || failedCommits.nonzeroBitCount == 1 {
                logger.error(
                    mayPass
                        ? "The buffer cannot commit: nothing is acknowledged until it can."
                        : "The buffer's file is not trusted any more: nothing is acknowledged, the daemon ends.",
                    [.error: "\(error)", .count: "\(failedCommits)"])
            }
            let action = pipeline.failed(mayPass: mayPass, now: EdgeClock.monotonicTime())
            apply(action)
            if action == .stop { stopped(error) }
        }
    }

    private func completed() {
        guard let group = groupInFlight else { return }
        groupInFlight = nil
        output.group.frames.reuse(group.drafts)
        var next = 0
        while next < group.effects.count {
            output.deliveredBytes = 0
            next = broker.committed(group.effects, from: next, now: now(), into: &output)
            performActions()
        }
        flushTouched()
        apply(
            pipeline.committed(
                hasMore: !output.group.isEmpty, isLarge: broker.isLarge(output.group), now: EdgeClock.monotonicTime()))
    }
}
