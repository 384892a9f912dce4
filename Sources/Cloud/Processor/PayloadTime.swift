import Operations

/// Times that devices write into their payloads, as microseconds since 1970.
package enum PayloadTime {
    /// Seconds, milliseconds or microseconds, told apart by their size: below 10¹¹ seconds (to the year 5138), below
    /// 10¹⁴ milliseconds, below 10¹⁷ microseconds; `nil` beyond.
    package static func microseconds(_ number: Double) -> Int64? {
        switch number.magnitude {
        case ..<1e11: Int64((number * 1e6).rounded())
        case ..<1e14: Int64((number * 1e3).rounded())
        case ..<1e17: Int64(number.rounded())
        default: nil
        }
    }

    /// RFC 3339, section 5.6: `2026-11-23T21:08:00.123456+01:00`; also with a space or lower-case letters, as its notes
    /// allow. Digits beyond microseconds are cut; a leap second is the first of the next minute.
    package static func microseconds(rfc3339 bytes: UnsafeRawBufferPointer) -> Int64? {
        guard bytes.count >= 20, bytes.count <= 64 else { return nil }
        func digits(_ start: Int, _ count: Int) -> Int? {
            guard start + count <= bytes.count else { return nil }
            var value = 0
            for index in start..<start + count {
                let digit = bytes[index] &- 0x30
                guard digit < 10 else { return nil }
                value = value * 10 + Int(digit)
            }
            return value
        }
        func character(_ index: Int, _ allowed: String) -> Bool {
            index < bytes.count && allowed.utf8.contains(bytes[index])
        }
        guard let year = digits(0, 4), character(4, "-"), let month = digits(5, 2), character(7, "-"),
            let day = digits(8, 2), character(10, "Tt "), let hour = digits(11, 2), character(13, ":"),
            let minute = digits(14, 2), character(16, ":"), let second = digits(17, 2),
            (1...12).contains(month), day >= 1, day <= days(in: month, of: year), hour < 24, minute < 60, second <= 60
        else { return nil }
        var index = 19
        var fraction = 0
        if character(index, ".") {
            index += 1
            var scale = 100_000
            let start = index
            while index < bytes.count, bytes[index] &- 0x30 < 10 {
                fraction += Int(bytes[index] &- 0x30) * scale
                scale /= 10
                index += 1
            }
            if index == start { return nil }
        }
        var offset = 0
        if character(index, "Zz") {
            index += 1
        } else {
            guard character(index, "+-"), let hours = digits(index + 1, 2), character(index + 3, ":"),
                let minutes = digits(index + 4, 2), hours < 24, minutes < 60
            else { return nil }
            offset = (hours * 60 + minutes) * (bytes[index] == UInt8(ascii: "-") ? -60 : 60)
            index += 6
        }
        guard index == bytes.count else { return nil }
        let civil = CivilTime(year: year, month: month, day: day, hour: hour, minute: minute, second: second)
        return (civil.secondsSince1970 - Int64(offset)) * 1_000_000 + Int64(fraction)
    }

    private static func days(in month: Int, of year: Int) -> Int {
        switch month {
        case 4, 6, 9, 11: 30
        case 2: year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28
        default: 31
        }
    }
}
