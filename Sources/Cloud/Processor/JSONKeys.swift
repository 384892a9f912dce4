/// The keys of the objects that a scan is inside of, so that a key twice in one object is noticed.
struct JSONKeys {
    /// A key's content, without quotes and escapes.
    struct Key {
        /// In `unescaped` or in the payload.
        fileprivate var range: Range<Int>
        fileprivate var isUnescaped: Bool
    }

    /// Keys of one object that are compared pairwise; beyond, they are sorted.
    private static let pairwise = 16

    private var keys: [Key] = []
    private var unescaped: [UInt8] = []

    var count: Int { keys.count }

    mutating func removeAll() {
        keys.removeAll(keepingCapacity: true)
        unescaped.removeAll(keepingCapacity: true)
    }

    /// - Parameter range: of the string's content in `payload`.
    mutating func append(_ range: Range<Int>, hasEscape: Bool, in payload: UnsafeRawBufferPointer) -> Key {
        var key = Key(range: range, isUnescaped: false)
        if hasEscape {
            let begin = unescaped.count
            JSONString.unescape(UnsafeRawBufferPointer(rebasing: payload[range]), into: &unescaped)
            key = Key(range: begin..<unescaped.count, isUnescaped: true)
        }
        keys.append(key)
        return key
    }

    func withBytes<Value>(
        of key: Key, in payload: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Value
    ) -> Value {
        guard key.isUnescaped else { return body(UnsafeRawBufferPointer(rebasing: payload[key.range])) }
        return unescaped.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[key.range])) }
    }

    /// Forgets the keys from `first` on, those of the object that ends.
    ///
    /// - Returns: whether two of them are equal.
    mutating func close(from first: Int, in payload: UnsafeRawBufferPointer) -> Bool {
        defer { keys.removeLast(keys.count - first) }
        if keys.count - first <= Self.pairwise {
            for one in keys.indices.dropFirst(first) {
                for other in keys.indices.dropFirst(one + 1) where compare(keys[one], keys[other], payload) == 0 {
                    return true
                }
            }
            return false
        }
        // By content, not by hash: an attacker could choose keys that collide.
        let sorted = keys[first...].sorted { compare($0, $1, payload) < 0 }
        return zip(sorted, sorted.dropFirst()).contains { compare($0, $1, payload) == 0 }
    }

    /// By length, then by content.
    private func compare(_ a: Key, _ b: Key, _ payload: UnsafeRawBufferPointer) -> Int {
        if a.range.count != b.range.count { return a.range.count - b.range.count }
        return withBytes(of: a, in: payload) { first in
            withBytes(of: b, in: payload) { second in
                for index in 0..<first.count where first[index] != second[index] {
                    return Int(first[index]) - Int(second[index])
                }
                return 0
            }
        }
    }
}
