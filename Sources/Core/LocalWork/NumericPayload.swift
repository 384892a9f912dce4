import NIOCore

/// A payload that can be aggregated: a JSON number, or a JSON object whose members are numbers or such objects again.
///
/// It is strict, because what it reads is not sent: an object with anything else in it would lose that. Integers that a
/// double does not hold exactly, keys with escapes and keys that come twice are left to those who keep the bytes.
package struct NumericPayload: Sendable, Equatable {
    package static let maximumBytes = 16 * 1024
    package static let maximumMembers = 64
    /// Of objects within each other.
    package static let maximumDepth = 4
    /// The sum of as many such numbers as one window can have stays finite.
    static let largest = 1e290
    /// From here on doubles leave out integers.
    static let largestInteger = 9_007_199_254_740_992.0

    /// The path of a number that stands alone. It can be no member's: keys have no control characters.
    package static let alone = "\u{0}"
    /// Between the keys of a path.
    package static let separator: Character = "\u{1}"

    package struct Member: Sendable, Equatable {
        /// The keys that lead to it.
        package var path: String
        package var value: Double
    }

    /// In their order.
    package let members: [Member]

    /// - Returns: `nil` for what cannot be read so.
    package init?(_ payload: ByteBuffer) {
        guard 1...Self.maximumBytes ~= payload.readableBytes else { return nil }
        let members = payload.withUnsafeReadableBytes { bytes in
            var scanner = Scanner(bytes)
            return scanner.document(maximumMembers: Self.maximumMembers)
        }
        guard let members else { return nil }
        self.members = members
    }
}

/// RFC 8259, as far as numbers and one level of members go.
private struct Scanner {
    private let bytes: UnsafeRawBufferPointer
    private var position = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    mutating func document(maximumMembers: Int) -> [NumericPayload.Member]? {
        skipSpace()
        var members: [NumericPayload.Member] = []
        if next == UInt8(ascii: "{") {
            guard object(within: "", depth: 1, maximumMembers, &members) else { return nil }
        } else {
            guard let value = number() else { return nil }
            members.append(.init(path: NumericPayload.alone, value: value))
        }
        skipSpace()
        return position == bytes.count ? members : nil
    }

    private mutating func object(
        within prefix: String, depth: Int, _ maximum: Int, _ members: inout [NumericPayload.Member]
    ) -> Bool {
        guard depth <= NumericPayload.maximumDepth, take("{") else { return false }
        var keys: Set<String> = []
        repeat {
            skipSpace()
            guard let key = key(), keys.insert(key).inserted else { return false }
            skipSpace()
            guard take(":") else { return false }
            skipSpace()
            if next == UInt8(ascii: "{") {
                let inner = "\(prefix)\(key)\(NumericPayload.separator)"
                guard object(within: inner, depth: depth + 1, maximum, &members) else { return false }
            } else {
                guard members.count < maximum, let value = number() else { return false }
                members.append(.init(path: prefix + key, value: value))
            }
            skipSpace()
        } while take(",")
        return take("}")
    }

    private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func take(_ character: Unicode.Scalar) -> Bool {
        guard next == UInt8(ascii: character) else { return false }
        position += 1
        return true
    }

    private mutating func skipSpace() {
        while let byte = next, [0x20, 0x09, 0x0A, 0x0D].contains(byte) { position += 1 }
    }

    /// A string without escapes.
    private mutating func key() -> String? {
        guard take("\"") else { return nil }
        let begin = position
        while let byte = next, byte != UInt8(ascii: "\"") {
            guard byte >= 0x20, byte != UInt8(ascii: "\\") else { return nil }
            position += 1
        }
        let end = position
        guard take("\"") else { return nil }
        return String(validating: bytes[begin..<end], as: UTF8.self)
    }

    private mutating func number() -> Double? {
        let begin = position
        var isInteger = true
        _ = take("-")
        if take("0") {
            if let byte = next, Self.isDigit(byte) { return nil }
        } else {
            guard digits() else { return nil }
        }
        if take(".") {
            isInteger = false
            guard digits() else { return nil }
        }
        if take("e") || take("E") {
            isInteger = false
            if !take("+") { _ = take("-") }
            guard digits() else { return nil }
        }
        guard let value = Double(String(decoding: bytes[begin..<position], as: UTF8.self)),
            value.magnitude <= NumericPayload.largest,
            !isInteger || value.magnitude < NumericPayload.largestInteger
        else { return nil }
        return value
    }

    private mutating func digits() -> Bool {
        let begin = position
        while let byte = next, Self.isDigit(byte) { position += 1 }
        return position > begin
    }

    private static func isDigit(_ byte: UInt8) -> Bool { UInt8(ascii: "0")...UInt8(ascii: "9") ~= byte }
}
