import MQTTSession
import Testing

/// When does a group go to the writer, and what does a failure change?
@Suite struct CommitPipelineTests {
    @Test func aGroupWaitsForTheEndOfItsCycleAndNoLonger() {
        var pipeline = CommitPipeline()
        #expect(pipeline.pending() == .scheduleHandOver)
        #expect(pipeline.pending() == .none)
        #expect(pipeline.cycleEnded() == .handOver)
        #expect(pipeline.state == .committing)
    }

    @Test func whatArrivedDuringACommitIsTheNextCommit() {
        var pipeline = CommitPipeline()
        _ = pipeline.pending()
        _ = pipeline.cycleEnded()
        #expect(pipeline.pending() == .none)
        #expect(pipeline.committed(hasMore: true) == .handOver)
        #expect(pipeline.committed(hasMore: false) == .none)
        #expect(pipeline.isIdle)
    }

    @Test func aFailureThatMayPassIsTriedAgainAfterItsPause() {
        var pipeline = CommitPipeline()
        _ = pipeline.pending()
        _ = pipeline.cycleEnded()
        let until = 5_000 + CommitPipeline.pauseBetweenAttempts
        #expect(pipeline.failed(mayPass: true, now: 5_000) == .pause(until: until))
        #expect(pipeline.pending() == .none)
        #expect(pipeline.pauseEnded(now: until - 1) == .none)
        #expect(pipeline.pauseEnded(now: until) == .retry)
        #expect(pipeline.committed(hasMore: false) == .none)
        #expect(pipeline.isIdle)
    }

    @Test func afterAFailureThatDoesNotPassNothingIsHandedOverAgain() {
        var pipeline = CommitPipeline()
        _ = pipeline.pending()
        _ = pipeline.cycleEnded()
        #expect(pipeline.failed(mayPass: false, now: 0) == .stop)
        #expect(pipeline.state == .stopped)
        #expect(pipeline.pending() == .none)
        #expect(pipeline.cycleEnded() == .none)
        #expect(pipeline.pauseEnded(now: .max) == .none)
        #expect(pipeline.committed(hasMore: true) == .none)
    }

    @Test func eventsOutOfPlaceChangeNothing() {
        var pipeline = CommitPipeline()
        #expect(pipeline.cycleEnded() == .none)
        #expect(pipeline.committed(hasMore: true) == .none)
        #expect(pipeline.failed(mayPass: true, now: 0) == .none)
        #expect(pipeline.isIdle)
    }
}
