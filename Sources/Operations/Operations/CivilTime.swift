/// Calendar time in UTC (proleptic Gregorian), without Foundation's formatters.
package struct CivilTime: Sendable, Equatable {
    package var year: Int
    package var month: Int
    package var day: Int
    package var hour: Int
    package var minute: Int
    package var second: Int

    package init(year: Int, month: Int, day: Int, hour: Int, minute: Int, second: Int) {
        self.year = year
        self.month = month
        self.day = day
        self.hour = hour
        self.minute = minute
        self.second = second
    }

    /// Howard Hinnant's `civil_from_days`: eras of 400 years that begin on the first of March, so that the leap day is
    /// the last of its year.
    package init(secondsSince1970 seconds: Int64) {
        let days = Int(seconds.flooredQuotient(86_400))
        let rest = Int(seconds - Int64(days) * 86_400)
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
        month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        hour = rest / 3_600
        minute = rest / 60 % 60
        second = rest % 60
    }

    /// The inverse, `days_from_civil`. Fields must be in their ranges.
    package var secondsSince1970: Int64 {
        let shiftedYear = month <= 2 ? year - 1 : year
        let era = (shiftedYear >= 0 ? shiftedYear : shiftedYear - 399) / 400
        let yearOfEra = shiftedYear - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        let days = era * 146_097 + dayOfEra - 719_468
        return Int64(days) * 86_400 + Int64(hour * 3_600 + minute * 60 + second)
    }

    /// Appends `2026-11-23T21:08:00`, without fraction and zone.
    func append(to bytes: inout [UInt8]) {
        bytes.append(digits: year, width: 4)
        bytes.append(UInt8(ascii: "-"))
        bytes.append(digits: month, width: 2)
        bytes.append(UInt8(ascii: "-"))
        bytes.append(digits: day, width: 2)
        bytes.append(UInt8(ascii: "T"))
        bytes.append(digits: hour, width: 2)
        bytes.append(UInt8(ascii: ":"))
        bytes.append(digits: minute, width: 2)
        bytes.append(UInt8(ascii: ":"))
        bytes.append(digits: second, width: 2)
    }
}

/// Texts of times as RFC 3339 has them, in UTC.
package enum RFC3339 {
    /// `2026-11-23T21:08:00Z`
    package static func text(secondsSince1970 seconds: Int64) -> String {
        var bytes: [UInt8] = []
        CivilTime(secondsSince1970: seconds).append(to: &bytes)
        bytes.append(UInt8(ascii: "Z"))
        return String(decoding: bytes, as: UTF8.self)
    }

    /// `2026-11-23T21:08:00.000000Z`
    package static func text(microsecondsSince1970 microseconds: Int64) -> String {
        var bytes: [UInt8] = []
        append(microsecondsSince1970: microseconds, to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    package static func append(microsecondsSince1970 microseconds: Int64, to bytes: inout [UInt8]) {
        let seconds = microseconds.flooredQuotient(1_000_000)
        CivilTime(secondsSince1970: seconds).append(to: &bytes)
        bytes.append(UInt8(ascii: "."))
        bytes.append(digits: Int(microseconds - seconds * 1_000_000), width: 6)
        bytes.append(UInt8(ascii: "Z"))
    }
}

extension Int64 {
    fileprivate func flooredQuotient(_ divisor: Int64) -> Int64 {
        let (quotient, remainder) = quotientAndRemainder(dividingBy: divisor)
        return remainder < 0 ? quotient - 1 : quotient
    }
}

extension [UInt8] {
    /// At least `width` digits; a negative number gets its sign in front.
    fileprivate mutating func append(digits value: Int, width: Int) {
        if value < 0 { append(UInt8(ascii: "-")) }
        let magnitude = value.magnitude
        var power: UInt = 1
        for _ in 1..<width { power *= 10 }
        while magnitude / power >= 10 { power *= 10 }
        while power > 0 {
            append(UInt8(ascii: "0") + UInt8(magnitude / power % 10))
            power /= 10
        }
    }
}
