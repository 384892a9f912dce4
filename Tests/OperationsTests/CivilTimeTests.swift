import Foundation
import Operations
import Testing

@Suite struct CivilTimeTests {
    @Test(
        arguments: [
            (0, "1970-01-01T00:00:00Z"), (951_782_399, "2000-02-28T23:59:59Z"), (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"), (-1, "1969-12-31T23:59:59Z"),
            (-62_167_219_200, "0000-01-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] as [(Int64, String)])
    func knownTimes(seconds: Int64, text: String) {
        #expect(RFC3339.text(secondsSince1970: seconds) == text)
        #expect(CivilTime(secondsSince1970: seconds).secondsSince1970 == seconds)
    }

    @Test func microsecondsKeepTheirZeros() {
        #expect(RFC3339.text(microsecondsSince1970: 1_000_042) == "1970-01-01T00:00:01.000042Z")
        #expect(RFC3339.text(microsecondsSince1970: -1) == "1969-12-31T23:59:59.999999Z")
    }

    @Test func everyDayOfFourCenturiesAgreesWithFoundation() {
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = TimeZone(secondsFromGMT: 0)!
        for day in stride(from: Int64(-25_000), to: 125_000, by: 97) {
            let seconds = day * 86_400 + 12_345
            let parts = calendar.dateComponents(
                [.year, .month, .day, .hour, .minute, .second], from: Date(timeIntervalSince1970: Double(seconds)))
            let time = CivilTime(secondsSince1970: seconds)
            #expect(time.year == parts.year && time.month == parts.month && time.day == parts.day)
            #expect(time.hour == parts.hour && time.minute == parts.minute && time.second == parts.second)
            #expect(time.secondsSince1970 == seconds)
        }
    }
}
