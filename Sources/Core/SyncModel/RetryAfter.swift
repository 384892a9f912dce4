/// The Retry-After header (RFC 9110, 10.2.3).
package enum RetryAfter {
    /// Seconds; a server that asks for more is asked again after this.
    package static let maximumSeconds: Int64 = 600

    /// - Parameter now: seconds since 1970, for a header that holds a date.
    /// - Returns: microseconds to wait, from 0 to `maximumSeconds`; `nil` for what is neither a number nor a date as
    ///   senders must write it (`Sun, 06 Nov 1994 08:49:37 GMT`).
    package static func delay(_ value: String, now: Int64) -> Int64? {
        let bytes = Array(value.utf8)
        if !bytes.isEmpty, bytes.allSatisfy({ UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 }) {
            // Digits that overflow ask for more than the maximum.
            return microseconds(Int64(value) ?? .max)
        }
        guard let date = secondsSince1970(bytes) else { return nil }
        return microseconds(date - now)
    }

    private static func microseconds(_ seconds: Int64) -> Int64 { min(max(seconds, 0), maximumSeconds) * 1_000_000 }

    private static let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

    private static func secondsSince1970(_ text: [UInt8]) -> Int64? {
        guard text.count == 29, text[3] == UInt8(ascii: ","), text[19] == UInt8(ascii: ":"),
            text[22] == UInt8(ascii: ":"), text[25...].elementsEqual(" GMT".utf8),
            [4, 7, 11, 16].allSatisfy({ text[$0] == UInt8(ascii: " ") }),
            let month = months.firstIndex(where: { text[8..<11].elementsEqual($0.utf8) }),
            let day = number(text[5..<7]), let year = number(text[12..<16]), let hour = number(text[17..<19]),
            let minute = number(text[20..<22]), let second = number(text[23..<25]),
            1...31 ~= day, 1970...9999 ~= year, hour < 24, minute < 60, second <= 60
        else { return nil }
        return daysSince1970(year: year, month: Int64(month) + 1, day: day) * 86_400 + hour * 3_600 + minute * 60
            + second
    }

    private static func number(_ digits: ArraySlice<UInt8>) -> Int64? {
        digits.reduce(0) { value, digit in
            guard let value, UInt8(ascii: "0")...UInt8(ascii: "9") ~= digit else { return nil }
            return value * 10 + Int64(digit - UInt8(ascii: "0"))
        }
    }

    /// Proleptic Gregorian; the year begins in March, so that the leap day is its last.
    private static func daysSince1970(year: Int64, month: Int64, day: Int64) -> Int64 {
        let shifted = month <= 2 ? year - 1 : year
        let era = shifted / 400
        let yearOfEra = shifted - era * 400
        let dayOfYear = (153 * ((month + 9) % 12) + 2) / 5 + day - 1
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
    }
}
