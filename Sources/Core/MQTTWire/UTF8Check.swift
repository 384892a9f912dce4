/// Judges UTF-8 encoded strings of MQTT: well-formed, no surrogates, no U+0000 (MQTT-1.5.4-1, MQTT-1.5.4-2).
enum UTF8Check {
    private static let ones: UInt64 = 0x0101_0101_0101_0101
    private static let highBits: UInt64 = 0x8080_8080_8080_8080

    /// Non-zero if a byte of `word` is 0.
    @inline(__always)
    private static func zeroByte(_ word: UInt64) -> UInt64 { (word &- ones) & ~word & highBits }

    static func flaw(in bytes: UnsafeRawBufferPointer) -> DecodingError.Flaw? {
        var index = 0
        while index &+ 8 <= bytes.count {
            let word = bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self)
            if (word & highBits) | zeroByte(word) != 0 { return flaw(in: bytes, from: index) }
            index &+= 8
        }
        return flaw(in: bytes, from: index)
    }

    /// Well-formed, U+0000 allowed: text that is no MQTT string.
    static func isWellFormed(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var index = 0
        while index &+ 8 <= bytes.count {
            if bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self) & highBits != 0 { break }
            index &+= 8
        }
        return flaw(in: bytes, from: index, allowsNull: true) == nil
    }

    /// As `flaw(in:)`, and no wildcard character (MQTT-3.3.2-2).
    static func topicNameFlaw(in bytes: UnsafeRawBufferPointer) -> DecodingError.Flaw? {
        let plus = ones &* UInt64(UInt8(ascii: "+"))
        let hash = ones &* UInt64(UInt8(ascii: "#"))
        var index = 0
        while index &+ 8 <= bytes.count {
            let word = bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self)
            let suspicious = (word & highBits) | zeroByte(word) | zeroByte(word ^ plus) | zeroByte(word ^ hash)
            if suspicious != 0 { break }
            index &+= 8
        }
        if let flaw = flaw(in: bytes, from: index) { return flaw }
        while index < bytes.count {
            if bytes[index] == UInt8(ascii: "+") || bytes[index] == UInt8(ascii: "#") { return .wildcard }
            index &+= 1
        }
        return nil
    }

    /// Byte by byte after table 3-7 of the Unicode standard (well-formed UTF-8 byte sequences).
    private static func flaw(
        in bytes: UnsafeRawBufferPointer, from start: Int, allowsNull: Bool = false
    ) -> DecodingError.Flaw? {
        var index = start
        while index < bytes.count {
            let first = bytes[index]
            index += 1
            if first < 0x80 {
                if first == 0, !allowsNull { return .containsNull }
                continue
            }
            let second: ClosedRange<UInt8>
            let more: Int
            switch first {
            case 0xC2...0xDF: (second, more) = (0x80...0xBF, 0)
            case 0xE0: (second, more) = (0xA0...0xBF, 1)
            case 0xED: (second, more) = (0x80...0x9F, 1)
            case 0xE1...0xEF: (second, more) = (0x80...0xBF, 1)
            case 0xF0: (second, more) = (0x90...0xBF, 2)
            case 0xF1...0xF3: (second, more) = (0x80...0xBF, 2)
            case 0xF4: (second, more) = (0x80...0x8F, 2)
            default: return .notUTF8
            }
            guard index + more < bytes.count, second.contains(bytes[index]) else { return .notUTF8 }
            for offset in 0..<more where bytes[index + 1 + offset] & 0xC0 != 0x80 { return .notUTF8 }
            index += 1 + more
        }
        return nil
    }
}
