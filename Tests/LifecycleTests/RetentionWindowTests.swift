import Lifecycle
import Testing

@Suite struct RetentionWindowTests {
    /// Ninety days, and the four that a record may wait in the log.
    @Test func theOldestDayIsKept() {
        #expect(RetentionWindow(hotDays: 90).oldest(today: 20_000) == 19_906)
        #expect(RetentionWindow(hotDays: 0).hotDays == 1)
    }

    @Test func rollUpsOutliveTheirRows() {
        let window = RetentionWindow(hotDays: 90)
        #expect(window.oldestRollup(today: 20_000, rollupDays: 730) == 19_270)
        #expect(window.oldestRollup(today: 20_000, rollupDays: 1) < window.oldest(today: 20_000) - 30)
    }
}
