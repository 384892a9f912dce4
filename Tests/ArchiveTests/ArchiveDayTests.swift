import Archive
import Testing

@Suite struct ArchiveDayTests {
    @Test func daysAreOrdered() { #expect(ArchiveDay(number: 1) < ArchiveDay(number: 2)) }
}
