/// 128 random bits, new at every start of the edge daemon; a message keeps the epoch in which it was committed.
package struct Epoch: Hashable, Sendable, Comparable {
    package let high: UInt64
    package let low: UInt64

    package init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    package static func random(using generator: inout some RandomNumberGenerator) -> Epoch {
        Epoch(high: generator.next(), low: generator.next())
    }

    /// Not an order in time: only for stable listings.
    package static func < (a: Epoch, b: Epoch) -> Bool { (a.high, a.low) < (b.high, b.low) }
}

/// Order holds per device within a lane, not across lanes.
package enum Lane: UInt8, Sendable {
    case live = 0
    case backlog = 1
}

extension Epoch {
    /// 32 lower-case hexadecimal digits.
    package var hex: String { hexadecimal(high) + hexadecimal(low) }

    /// `nil` unless exactly 32 hexadecimal digits.
    package init?(hex: String) {
        let digits = Array(hex.utf8)
        guard digits.count == 32, let high = hexadecimalValue(digits[..<16]), let low = hexadecimalValue(digits[16...])
        else { return nil }
        self.init(high: high, low: low)
    }
}

/// 16 lower-case hexadecimal digits.
func hexadecimal(_ value: UInt64) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}

/// `nil` unless every byte is a hexadecimal digit. At most 16 digits.
func hexadecimalValue(_ digits: ArraySlice<UInt8>) -> UInt64? {
    guard 1...16 ~= digits.count else { return nil }
    var value: UInt64 = 0
    for digit in digits {
        switch digit {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt64(digit - UInt8(ascii: "0"))
        case UInt8(ascii: "a")...UInt8(ascii: "f"): value = value << 4 | UInt64(digit - UInt8(ascii: "a") + 10)
        case UInt8(ascii: "A")...UInt8(ascii: "F"): value = value << 4 | UInt64(digit - UInt8(ascii: "A") + 10)
        default: return nil
        }
    }
    return value
}

/// Ids of gateways and devices.
package enum Identifier {
    package static let maximumBytes = 128

    /// 1 to 128 bytes of UTF-8 without control characters (U+0000 to U+001F, U+007F): what the sync protocol carries.
    /// Where an id becomes part of a topic filter, `/`, `+` and `#` must be refused as well.
    package static func isValid(_ id: String) -> Bool {
        1...maximumBytes ~= id.utf8.count && id.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F }
    }
}
