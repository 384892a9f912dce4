import DeadLetters
import Testing

@Suite struct DeadLetterRangeTests {
    @Test func rangesMeetAtMultiples() {
        let length = DeadLetterRange.length
        #expect(DeadLetterRange(partition: 3, containing: length - 1).start == 0)
        let second = DeadLetterRange(partition: 3, containing: length)
        #expect(second.start == length && second.end == 2 * length)
    }
}
