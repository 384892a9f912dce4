/// Takes a payload apart: its numbers with their paths, and the rest as JSON text. One scan over the bytes, strict about
/// RFC 8259, with storage that is used again for the next message. A value, not a class: its many small accesses would each be checked for exclusivity.
package struct PayloadFlattener {
    /// Nested objects and arrays; jsonb's own bound is its stack.
    package static let maximumDepth = 64
    /// Digits of a number inside an array, before or after the point.
    private static let maximumMagnitude = 1_000

    package struct Leaf {
        /// In `paths`.
        package var path: Range<Int>
        package var value: Double?
        /// In the payload, where the double is not the number written.
        package var text: Range<Int>?
    }

    package enum Outcome: Equatable {
        /// A JSON object, or a bare number: `leaves`, and in `rest` what is not numeric (empty: nothing).
        case flat
        /// JSON that is no object and no number.
        case value
        case event(EventKind)
    }

    private enum Stop { case none, syntax, depth }

    package private(set) var leaves: [Leaf] = []
    /// Dotted paths of the leaves, one after the other. In a key, `.` is written `\.` and `\` is written `\\`, so that
    /// different places never have the same path.
    package private(set) var paths: [UInt8] = []
    package private(set) var rest: [UInt8] = []
    /// Microseconds since 1970 from the time field.
    package private(set) var time: Int64?
    /// The time field was there but held no time.
    package private(set) var hasUnusableTime = false

    private let maximumLeaves: Int
    private let timePath: [UInt8]
    private var bytes = UnsafeRawBufferPointer(start: nil, count: 0)
    private var position = 0
    private var stop = Stop.none
    private var prefix: [UInt8] = []
    private var keys = JSONKeys()
    private var isUnstorable = false
    private var hasDuplicateKey = false

    /// - Parameter timeField: the path of the time field, in the form of `paths`; `nil`: none.
    package init(maximumLeaves: Int, timeField: String?) {
        self.maximumLeaves = maximumLeaves
        timePath = timeField.map { Array($0.utf8) } ?? []
    }

    /// Results stay until the next call; ranges of texts are in `payload`.
    package mutating func flatten(_ payload: UnsafeRawBufferPointer) -> Outcome {
        reset(payload)
        defer { bytes = UnsafeRawBufferPointer(start: nil, count: 0) }
        skipSpace()
        guard position < bytes.count else { return .event(.noJSON) }
        let outcome: Outcome
        switch bytes[position] {
        case UInt8(ascii: "{"):
            _ = object(depth: 1)
            outcome = .flat
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
            paths.append(contentsOf: "value".utf8)
            number(path: 0..<paths.count)
            outcome = .flat
        default:
            value(depth: 0)
            outcome = .value
        }
        skipSpace()
        if stop == .depth { return .event(.tooDeep) }
        if stop == .syntax || position != bytes.count { return .event(.noJSON) }
        if hasDuplicateKey { return .event(.duplicateKey) }
        if isUnstorable { return .event(.unstorable) }
        if leaves.count > maximumLeaves { return .event(.tooManyMetrics) }
        // Only the time field was there: it is the message.
        if leaves.isEmpty, rest.isEmpty { return .value }
        return outcome
    }

    private mutating func reset(_ payload: UnsafeRawBufferPointer) {
        bytes = payload
        position = 0
        stop = .none
        leaves.removeAll(keepingCapacity: true)
        paths.removeAll(keepingCapacity: true)
        rest.removeAll(keepingCapacity: true)
        prefix.removeAll(keepingCapacity: true)
        keys.removeAll()
        time = nil
        hasUnusableTime = false
        isUnstorable = false
        hasDuplicateKey = false
    }

    // MARK: Grammar

    @inline(__always)
    private mutating func skipSpace() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x09, 0x0A, 0x0D: position += 1
            default: return
            }
        }
    }

    @inline(__always)
    private mutating func take(_ character: UInt8) -> Bool {
        guard position < bytes.count, bytes[position] == character else { return false }
        position += 1
        return true
    }

    /// An object whose numbers become leaves.
    ///
    /// - Returns: whether anything of it stands in `rest`.
    private mutating func object(depth: Int) -> Bool {
        guard depth <= Self.maximumDepth else {
            stop = .depth
            return false
        }
        let restStart = rest.count
        let prefixStart = prefix.count
        let firstKey = keys.count
        rest.append(UInt8(ascii: "{"))
        position += 1
        skipSpace()
        if take(UInt8(ascii: "}")) {
            rest.append(UInt8(ascii: "}"))
            return true
        }
        repeat {
            skipSpace()
            let keyStart = position
            guard let key = self.key() else { return false }
            let rawKey = keyStart..<position
            skipSpace()
            guard take(UInt8(ascii: ":")) else {
                stop = .syntax
                return false
            }
            skipSpace()
            appendComponent(key, isFirst: depth == 1)
            member(rawKey: rawKey, restStart: restStart, depth: depth)
            prefix.removeLast(prefix.count - prefixStart)
            guard stop == .none else { return false }
            skipSpace()
        } while take(UInt8(ascii: ","))
        guard take(UInt8(ascii: "}")) else {
            stop = .syntax
            return false
        }
        closeKeys(from: firstKey)
        guard rest.count > restStart + 1 else {
            rest.removeLast(rest.count - restStart)
            return false
        }
        rest.append(UInt8(ascii: "}"))
        return true
    }

    /// The value of a member, with its path in `prefix`.
    private mutating func member(rawKey: Range<Int>, restStart: Int, depth: Int) {
        guard position < bytes.count else {
            stop = .syntax
            return
        }
        switch bytes[position] {
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
            number(path: pushPath())
        case UInt8(ascii: "t"):
            if literal("true") { append(Leaf(path: pushPath(), value: 1, text: nil)) }
        case UInt8(ascii: "f"):
            if literal("false") { append(Leaf(path: pushPath(), value: 0, text: nil)) }
        case UInt8(ascii: "{"):
            let mark = rest.count
            appendKey(rawKey, restStart: restStart)
            if !object(depth: depth + 1) { rest.removeLast(rest.count - mark) }
        case UInt8(ascii: "\""):
            let start = position
            guard string() else { return }
            if !timePath.isEmpty, prefix == timePath, takeTime(string: start + 1..<position - 1) { return }
            appendKey(rawKey, restStart: restStart)
            rest.append(contentsOf: bytes[start..<position])
        default:
            let start = position
            value(depth: depth)
            guard stop == .none else { return }
            appendKey(rawKey, restStart: restStart)
            rest.append(contentsOf: bytes[start..<position])
        }
    }

    /// Any value that stays as it is written.
    private mutating func value(depth: Int) {
        guard position < bytes.count else {
            stop = .syntax
            return
        }
        switch bytes[position] {
        case UInt8(ascii: "\""): _ = string()
        case UInt8(ascii: "t"): _ = literal("true")
        case UInt8(ascii: "f"): _ = literal("false")
        case UInt8(ascii: "n"): _ = literal("null")
        case UInt8(ascii: "["): array(depth: depth + 1)
        case UInt8(ascii: "{"): opaqueObject(depth: depth + 1)
        default:
            guard let number = JSONNumber.parse(bytes, &position) else {
                stop = .syntax
                return
            }
            if number.magnitude > Self.maximumMagnitude { isUnstorable = true }
        }
    }

    private mutating func array(depth: Int) {
        guard depth <= Self.maximumDepth else {
            stop = .depth
            return
        }
        position += 1
        skipSpace()
        if take(UInt8(ascii: "]")) { return }
        repeat {
            skipSpace()
            value(depth: depth)
            guard stop == .none else { return }
            skipSpace()
        } while take(UInt8(ascii: ","))
        if !take(UInt8(ascii: "]")) { stop = .syntax }
    }

    /// An object inside an array: its keys are checked, its numbers stay where they are.
    private mutating func opaqueObject(depth: Int) {
        guard depth <= Self.maximumDepth else {
            stop = .depth
            return
        }
        let firstKey = keys.count
        position += 1
        skipSpace()
        if take(UInt8(ascii: "}")) { return }
        repeat {
            skipSpace()
            guard key() != nil else { return }
            skipSpace()
            guard take(UInt8(ascii: ":")) else {
                stop = .syntax
                return
            }
            skipSpace()
            value(depth: depth)
            guard stop == .none else { return }
            skipSpace()
        } while take(UInt8(ascii: ","))
        guard take(UInt8(ascii: "}")) else {
            stop = .syntax
            return
        }
        closeKeys(from: firstKey)
    }

    private mutating func literal(_ text: StaticString) -> Bool {
        let count = text.utf8CodeUnitCount
        guard position + count <= bytes.count,
            UnsafeRawBufferPointer(rebasing: bytes[position..<position + count])
                .elementsEqual(UnsafeRawBufferPointer(start: text.utf8Start, count: count))
        else {
            stop = .syntax
            return false
        }
        position += count
        return true
    }

    // MARK: Leaves

    /// Beyond the leaves that a message may have it becomes an event as a whole, and no path of it is used.
    private mutating func pushPath() -> Range<Int> {
        guard leaves.count <= maximumLeaves else { return 0..<0 }
        let start = paths.count
        paths.append(contentsOf: prefix)
        return start..<paths.count
    }

    private mutating func append(_ leaf: Leaf) {
        // One more than allowed is enough to know.
        if leaves.count <= maximumLeaves { leaves.append(leaf) }
    }

    private mutating func number(path: Range<Int>) {
        let start = position
        guard let number = JSONNumber.parse(bytes, &position) else {
            stop = .syntax
            return
        }
        if !timePath.isEmpty, prefix == timePath {
            if let value = number.value, let found = PayloadTime.microseconds(value) {
                time = found
                return
            }
            hasUnusableTime = true
        }
        append(Leaf(path: path, value: number.value, text: number.needsText ? start..<position : nil))
    }

    private mutating func takeTime(string range: Range<Int>) -> Bool {
        time = PayloadTime.microseconds(rfc3339: UnsafeRawBufferPointer(rebasing: bytes[range]))
        hasUnusableTime = time == nil
        return time != nil
    }

    private mutating func appendKey(_ raw: Range<Int>, restStart: Int) {
        if rest.count > restStart + 1 { rest.append(UInt8(ascii: ",")) }
        rest.append(contentsOf: bytes[raw])
        rest.append(UInt8(ascii: ":"))
    }

    // MARK: Keys

    private mutating func appendComponent(_ key: JSONKeys.Key, isFirst: Bool) {
        if !isFirst { prefix.append(UInt8(ascii: ".")) }
        keys.withBytes(of: key, in: bytes) { content in
            for byte in content {
                if byte == UInt8(ascii: ".") || byte == UInt8(ascii: "\\") { prefix.append(UInt8(ascii: "\\")) }
                prefix.append(byte)
            }
        }
    }

    private mutating func key() -> JSONKeys.Key? {
        let start = position
        guard position < bytes.count, bytes[position] == UInt8(ascii: "\"") else {
            stop = .syntax
            return nil
        }
        var hasEscape = false
        guard string(hasEscape: &hasEscape) else { return nil }
        return keys.append(start + 1..<position - 1, hasEscape: hasEscape, in: bytes)
    }

    private mutating func closeKeys(from first: Int) {
        if keys.close(from: first, in: bytes) { hasDuplicateKey = true }
    }

    // MARK: Strings

    private mutating func string() -> Bool {
        var hasEscape = false
        return string(hasEscape: &hasEscape)
    }

    /// Moves behind the string that starts at `position`.
    private mutating func string(hasEscape: inout Bool) -> Bool {
        guard let end = JSONString.end(bytes, from: position, hasEscape: &hasEscape, isUnstorable: &isUnstorable) else {
            stop = .syntax
            return false
        }
        position = end
        return true
    }
}
