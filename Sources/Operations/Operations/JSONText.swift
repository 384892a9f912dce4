/// Writes JSON without a tree in between (RFC 8259).
package enum JSONText {
    private static let digits = Array("0123456789abcdef".utf8)

    /// - Parameter maximum: bytes of the text that are written; a longer one ends in an ellipsis.
    package static func append(_ text: String, to bytes: inout [UInt8], maximum: Int = .max) {
        bytes.append(UInt8(ascii: "\""))
        var text = text
        var isCut = false
        if text.utf8.count > maximum {
            text = String(text.utf8Prefix(maximum))
            isCut = true
        }
        for byte in text.utf8 { append(byte, to: &bytes) }
        if isCut { bytes.append(contentsOf: "…".utf8) }
        bytes.append(UInt8(ascii: "\""))
    }

    private static func append(_ byte: UInt8, to bytes: inout [UInt8]) {
        switch byte {
        case UInt8(ascii: "\""): bytes.append(contentsOf: [UInt8(ascii: "\\"), byte])
        case UInt8(ascii: "\\"): bytes.append(contentsOf: [UInt8(ascii: "\\"), byte])
        case UInt8(ascii: "\n"): bytes.append(contentsOf: "\\n".utf8)
        case UInt8(ascii: "\r"): bytes.append(contentsOf: "\\r".utf8)
        case UInt8(ascii: "\t"): bytes.append(contentsOf: "\\t".utf8)
        case 0..<0x20, 0x7F:
            bytes.append(contentsOf: "\\u00".utf8)
            bytes.append(digits[Int(byte >> 4)])
            bytes.append(digits[Int(byte & 15)])
        default: bytes.append(byte)
        }
    }
}

extension String {
    /// Whole characters of at most `count` bytes.
    fileprivate func utf8Prefix(_ count: Int) -> Substring {
        var end = utf8.index(startIndex, offsetBy: count)
        while end > startIndex, end.samePosition(in: unicodeScalars) == nil { end = utf8.index(before: end) }
        return self[..<end]
    }
}
