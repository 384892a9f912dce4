import Operations
import SyncModel
import Testing

@testable import Buffer

@Suite struct ConcernTests {
    private static let minute: Int64 = 60_000_000

    @Test func droppingIsAnAlarmForMinutesAfterTheLast() {
        var concerns = BufferConcerns()
        #expect(concerns.dropHealth(at: 0) == .good)
        concerns.drop([.bufferFull: 5], at: 0)
        concerns.drop([.bufferFull: 1, .expiredByAge: 2], at: Self.minute)
        #expect(
            concerns.dropHealth(at: 3 * Self.minute)
                == .degraded(
                    "messages are dropped: since the start 6 to make room and 2 because of their age, the last of them "
                        + "2 min ago"))
        #expect(concerns.dropHealth(at: 6 * Self.minute) == .good)
    }

    @Test func deadLettersAreAnAlarmForAWeek() {
        var concerns = BufferConcerns()
        #expect(concerns.deadLetterHealth(at: 0) == .good)
        (concerns.deadLetters, concerns.newestDeadLetter) = (3, 0)
        guard case .degraded(let reason) = concerns.deadLetterHealth(at: 6 * 24 * 60 * Self.minute) else {
            Issue.record("no alarm")
            return
        }
        #expect(reason.contains("3 are kept") && reason.contains("sluice buffer dead-letters"))
        #expect(concerns.deadLetterHealth(at: 7 * 24 * 60 * Self.minute) == .good)
    }
}
