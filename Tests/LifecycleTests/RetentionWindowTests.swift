import Lifecycle
import Testing

@Suite struct RetentionWindowTests {
    @Test func theOldestDayIsKept() {
        #expect(RetentionWindow(hotDays: 90).oldest(today: 20_000) == 19_910)
        #expect(RetentionWindow(hotDays: 0).hotDays == 1)
    }
}
