/// A number of a JSON text (RFC 8259, section 6) as a double, where a double can hold it.
package struct JSONNumber: Sendable, Equatable {
    /// The nearest double; `nil` where that is not finite.
    package var value: Double?
    /// The double is not the number that was written: an integer beyond 2⁵³, an overflow, or an underflow to zero.
    package var needsText: Bool
    /// Decimal digits before the point and after it once the exponent is applied: what jsonb would have to hold.
    package var magnitude: Int

    private static let exactLimit: UInt64 = 1 << 53
    /// Powers of ten that a double holds exactly.
    private static let powers: [Double] = [
        1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
        1e20, 1e21, 1e22,
    ]

    /// Reads the number that starts at `position` and moves behind it; `nil`: no number stands there.
    @inline(__always)
    package static func parse(_ bytes: UnsafeRawBufferPointer, _ position: inout Int) -> JSONNumber? {
        let start = position
        var index = start
        let end = bytes.count
        let negative = index < end && bytes[index] == UInt8(ascii: "-")
        if negative { index += 1 }
        var mantissa: UInt64 = 0
        // Digits that are in the mantissa; more than 19 could overflow it.
        var digits = 0
        var exponent = 0
        let integerStart = index
        while index < end {
            let digit = bytes[index] &- 0x30
            guard digit < 10 else { break }
            if digits < 19 {
                mantissa = mantissa &* 10 &+ UInt64(digit)
                if mantissa != 0 { digits += 1 }
            } else {
                exponent += 1
            }
            index += 1
        }
        let integerDigits = index - integerStart
        guard integerDigits > 0, integerDigits == 1 || bytes[integerStart] != 0x30 else { return nil }
        var isInteger = true
        var fractionDigits = 0
        if index < end, bytes[index] == UInt8(ascii: ".") {
            isInteger = false
            index += 1
            let fractionStart = index
            while index < end {
                let digit = bytes[index] &- 0x30
                guard digit < 10 else { break }
                if digits < 19 {
                    mantissa = mantissa &* 10 &+ UInt64(digit)
                    if mantissa != 0 { digits += 1 }
                    exponent -= 1
                }
                index += 1
            }
            fractionDigits = index - fractionStart
            guard fractionDigits > 0 else { return nil }
        }
        var written = 0
        if index < end, bytes[index] | 0x20 == UInt8(ascii: "e") {
            isInteger = false
            index += 1
            var negativeExponent = false
            if index < end, bytes[index] == UInt8(ascii: "-") || bytes[index] == UInt8(ascii: "+") {
                negativeExponent = bytes[index] == UInt8(ascii: "-")
                index += 1
            }
            let exponentStart = index
            while index < end {
                let digit = bytes[index] &- 0x30
                guard digit < 10 else { break }
                // Beyond any double and any bound; more digits change nothing.
                if written < 1_000_000 { written = written * 10 + Int(digit) }
                index += 1
            }
            guard index > exponentStart else { return nil }
            if negativeExponent { written = -written }
        }
        position = index
        let magnitude = max(integerDigits + max(written, 0), fractionDigits + max(-written, 0))
        exponent += written
        if mantissa <= exactLimit, digits < 19 {
            // Mantissa and power are exact, so the one rounding of * or / is the right one (Clinger 1990).
            if exponent == 0 {
                return JSONNumber(
                    value: negative ? -Double(mantissa) : Double(mantissa), needsText: false, magnitude: magnitude)
            }
            if exponent > 0, exponent <= 22 {
                let value = Double(mantissa) * powers[exponent]
                return JSONNumber(value: negative ? -value : value, needsText: false, magnitude: magnitude)
            }
            if exponent < 0, exponent >= -22 {
                let value = Double(mantissa) / powers[-exponent]
                return JSONNumber(value: negative ? -value : value, needsText: false, magnitude: magnitude)
            }
        }
        let text = UnsafeRawBufferPointer(rebasing: bytes[start..<index])
        let value = Double(String(decoding: text, as: UTF8.self)) ?? .infinity
        let vanished = value == 0 && mantissa != 0
        return JSONNumber(
            value: value.isFinite ? value : nil, needsText: isInteger || vanished || !value.isFinite,
            magnitude: magnitude)
    }
}
