import MQTTSession
import Testing

/// When does a group go to the writer, and what does a failure change?
@Suite struct CommitPipelineTests {
    /// A group that was handed over at `now`.
    private func committing(spacing: Int64 = 0, at now: Int64 = 0) -> CommitPipeline {
        var pipeline = CommitPipeline(spacing: spacing)
        _ = pipeline.pending(isLarge: false, now: now)
        _ = pipeline.cycleEnded(now: now)
        return pipeline
    }

    @Test func aGroupWaitsForTheEndOfItsCycleAndNoLonger() {
        var pipeline = CommitPipeline()
        #expect(pipeline.pending(isLarge: false, now: 0) == .scheduleHandOver)
        #expect(pipeline.pending(isLarge: false, now: 0) == .none)
        #expect(pipeline.cycleEnded(now: 0) == .handOver)
        #expect(pipeline.state == .committing)
    }

    @Test func whatArrivedDuringACommitIsTheNextCommit() {
        var pipeline = committing()
        #expect(pipeline.pending(isLarge: true, now: 0) == .none)
        #expect(pipeline.committed(hasMore: true, isLarge: false, now: 0) == .handOver)
        #expect(pipeline.committed(hasMore: false, isLarge: false, now: 0) == .none)
        #expect(pipeline.isIdle)
    }

    @Test func handOversKeepTheirSpacing() {
        var pipeline = committing(spacing: 100, at: 1_000)
        #expect(pipeline.committed(hasMore: true, isLarge: false, now: 1_010) == .wake(at: 1_100))
        #expect(pipeline.pending(isLarge: false, now: 1_020) == .none)
        #expect(pipeline.timer(now: 1_099) == .none)
        #expect(pipeline.timer(now: 1_100) == .handOver)
        #expect(pipeline.committed(hasMore: true, isLarge: false, now: 1_250) == .handOver, "the commit took longer")
        #expect(pipeline.committed(hasMore: false, isLarge: false, now: 1_260) == .none)
        #expect(pipeline.pending(isLarge: false, now: 1_270) == .wake(at: 1_350))
        #expect(pipeline.timer(now: 1_351) == .handOver)
    }

    @Test func aMessageThatComesAloneDoesNotWait() {
        var pipeline = committing(spacing: 100, at: 1_000)
        _ = pipeline.committed(hasMore: false, isLarge: false, now: 1_010)
        #expect(pipeline.pending(isLarge: false, now: 1_100) == .scheduleHandOver)
    }

    @Test func aLargeGroupDoesNotWait() {
        var pipeline = committing(spacing: 100, at: 1_000)
        #expect(pipeline.committed(hasMore: true, isLarge: true, now: 1_010) == .handOver)
        _ = pipeline.committed(hasMore: true, isLarge: false, now: 1_020)
        #expect(pipeline.pending(isLarge: true, now: 1_030) == .scheduleHandOver)
        #expect(pipeline.timer(now: 1_110) == .none, "the timer of the wait that is over")
        #expect(pipeline.cycleEnded(now: 1_110) == .handOver)
    }

    @Test func aFailureThatMayPassIsTriedAgainAfterItsPause() {
        var pipeline = committing()
        let until = 5_000 + CommitPipeline.pauseBetweenAttempts
        #expect(pipeline.failed(mayPass: true, now: 5_000) == .wake(at: until))
        #expect(pipeline.pending(isLarge: true, now: 5_000) == .none)
        #expect(pipeline.timer(now: until - 1) == .none)
        #expect(pipeline.timer(now: until) == .retry)
        #expect(pipeline.committed(hasMore: false, isLarge: false, now: until) == .none)
        #expect(pipeline.isIdle)
    }

    @Test func afterAFailureThatDoesNotPassNothingIsHandedOverAgain() {
        var pipeline = committing()
        #expect(pipeline.failed(mayPass: false, now: 0) == .stop)
        #expect(pipeline.state == .stopped)
        #expect(pipeline.pending(isLarge: true, now: 0) == .none)
        #expect(pipeline.cycleEnded(now: 0) == .none)
        #expect(pipeline.timer(now: .max) == .none)
        #expect(pipeline.committed(hasMore: true, isLarge: true, now: 0) == .none)
    }

    @Test func eventsOutOfPlaceChangeNothing() {
        var pipeline = CommitPipeline()
        #expect(pipeline.cycleEnded(now: 0) == .none)
        #expect(pipeline.committed(hasMore: true, isLarge: true, now: 0) == .none)
        #expect(pipeline.failed(mayPass: true, now: 0) == .none)
        #expect(pipeline.timer(now: .max) == .none)
        #expect(pipeline.isIdle)
    }
}
