/// Small values by numbers that are mostly dense, in chunks, so that millions cost little more than themselves.
package struct SparseTable<Value: Sendable>: Sendable {
    private static var chunkBits: UInt64 { 10 }

    private let empty: Value
    private var chunks: [UInt64: [Value]] = [:]

    package init(empty: Value) { self.empty = empty }

    package subscript(_ number: UInt64) -> Value {
        get {
            chunks[number >> Self.chunkBits]?[Int(number & ((1 << Self.chunkBits) - 1))] ?? empty
        }
        _modify {
            let chunk = number >> Self.chunkBits
            let index = Int(number & ((1 << Self.chunkBits) - 1))
            let count = 1 << Int(Self.chunkBits)
            let empty = self.empty
            yield &chunks[chunk, default: Array(repeating: empty, count: count)][index]
        }
    }

    /// Every number of every chunk that was touched, ascending; most are empty where numbers are sparse.
    package func forEach(_ body: (UInt64, Value) -> Void) {
        for (chunk, values) in chunks.sorted(by: { $0.key < $1.key }) {
            for (index, value) in values.enumerated() { body((chunk << Self.chunkBits) + UInt64(index), value) }
        }
    }
}
