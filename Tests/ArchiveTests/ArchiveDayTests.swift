import Archive
import Testing

@Suite struct ArchiveDayTests {
    @Test func daysAreOrdered() { #expect(ArchiveDay(number: 1) < ArchiveDay(number: 2)) }

    @Test func textsAndTimes() {
        #expect(ArchiveDay("1970-01-01") == ArchiveDay(number: 0))
        #expect(ArchiveDay("2024-02-29")?.next.description == "2024-03-01")
        #expect(ArchiveDay(secondsSince1970: -1).description == "1969-12-31")
        #expect(ArchiveDay(secondsSince1970: 86_399) == ArchiveDay(number: 0))
        #expect(ArchiveDay(secondsSince1970: -86_400) == ArchiveDay(number: -1))
        for text in ["2026-02-30", "2026-1-01", "2026-13-01", "", "2026-01-01x", "20260101", "a026-01-01"] {
            #expect(ArchiveDay(text) == nil, "\(text)")
        }
    }
}
