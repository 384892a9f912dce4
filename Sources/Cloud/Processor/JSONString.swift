/// Strings of JSON (RFC 8259, section 7) as bytes.
enum JSONString {
    /// Checks the string whose opening quote stands at `start`: escapes, control characters, UTF-8.
    ///
    /// - Parameters:
    ///   - isUnstorable: set where it is JSON but holds U+0000 or half a surrogate pair.
    /// - Returns: the position behind the closing quote; `nil`: no string of JSON.
    static func end(
        _ bytes: UnsafeRawBufferPointer, from start: Int, hasEscape: inout Bool, isUnstorable: inout Bool
    ) -> Int? {
        var index = start + 1
        while index < bytes.count {
            let byte = bytes[index]
            switch byte {
            case UInt8(ascii: "\""): return index + 1
            case UInt8(ascii: "\\"):
                hasEscape = true
                guard let next = escape(bytes, at: index, isUnstorable: &isUnstorable) else { return nil }
                index = next
            case 0x20...0x7F: index += 1
            case 0xC2...0xF4:
                guard let length = sequenceLength(bytes, at: index) else { return nil }
                index += length
            default: return nil
            }
        }
        return nil
    }

    /// The position behind the escape at `index`.
    private static func escape(_ bytes: UnsafeRawBufferPointer, at index: Int, isUnstorable: inout Bool) -> Int? {
        guard index + 1 < bytes.count else { return nil }
        guard bytes[index + 1] == UInt8(ascii: "u") else {
            return #""\/bfnrt"#.utf8.contains(bytes[index + 1]) ? index + 2 : nil
        }
        guard let unit = unit(bytes, at: index) else { return nil }
        switch unit {
        case 0: isUnstorable = true
        case 0xD800...0xDBFF:
            if let low = self.unit(bytes, at: index + 6), 0xDC00...0xDFFF ~= low { return index + 12 }
            isUnstorable = true
        case 0xDC00...0xDFFF: isUnstorable = true
        default: break
        }
        return index + 6
    }

    /// The code unit of `\uXXXX`.
    private static func unit(_ bytes: UnsafeRawBufferPointer, at index: Int) -> UInt32? {
        guard index + 6 <= bytes.count, bytes[index] == UInt8(ascii: "\\"), bytes[index + 1] == UInt8(ascii: "u") else {
            return nil
        }
        var unit: UInt32 = 0
        for byte in bytes[index + 2..<index + 6] {
            let digit: UInt8
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = byte - UInt8(ascii: "A") + 10
            default: return nil
            }
            unit = unit << 4 | UInt32(digit)
        }
        return unit
    }

    /// Length of a well-formed multi-byte sequence (Unicode, table 3-7).
    private static func sequenceLength(_ bytes: UnsafeRawBufferPointer, at index: Int) -> Int? {
        let lead = bytes[index]
        let length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4
        guard index + length <= bytes.count else { return nil }
        let second: ClosedRange<UInt8> =
            switch lead {
            case 0xE0: 0xA0...0xBF
            case 0xED: 0x80...0x9F
            case 0xF0: 0x90...0xBF
            case 0xF4: 0x80...0x8F
            default: 0x80...0xBF
            }
        guard second ~= bytes[index + 1] else { return nil }
        for byte in bytes[index + 2..<index + length] where byte & 0xC0 != 0x80 { return nil }
        return length
    }

    /// Appends the content of a checked string, without its quotes, as UTF-8; half a surrogate pair becomes U+FFFD.
    static func unescape(_ content: UnsafeRawBufferPointer, into output: inout [UInt8]) {
        var index = 0
        while index < content.count {
            guard content[index] == UInt8(ascii: "\\") else {
                output.append(content[index])
                index += 1
                continue
            }
            switch content[index + 1] {
            case UInt8(ascii: "b"): output.append(0x08)
            case UInt8(ascii: "f"): output.append(0x0C)
            case UInt8(ascii: "n"): output.append(0x0A)
            case UInt8(ascii: "r"): output.append(0x0D)
            case UInt8(ascii: "t"): output.append(0x09)
            case UInt8(ascii: "u"):
                index += appendUnit(content, at: index, to: &output)
                continue
            default: output.append(content[index + 1])
            }
            index += 2
        }
    }

    /// - Returns: the bytes of the escape or the pair of escapes.
    private static func appendUnit(_ content: UnsafeRawBufferPointer, at index: Int, to output: inout [UInt8]) -> Int {
        let high = unit(content, at: index) ?? 0xFFFD
        if 0xD800...0xDBFF ~= high, let low = unit(content, at: index + 6), 0xDC00...0xDFFF ~= low {
            let value = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
            output.append(contentsOf: String(Unicode.Scalar(value) ?? "\u{FFFD}").utf8)
            return 12
        }
        output.append(contentsOf: String(Unicode.Scalar(high) ?? "\u{FFFD}").utf8)
        return 6
    }
}
