/// A sign of wrong bits, no defence against intent: any change within one word changes it, others all but one in 2^64.
struct WordHash {
    private var state: UInt64 = 0x9e37_79b9_7f4a_7c15

    var value: Int64 { Int64(bitPattern: state ^ state >> 29) }

    mutating func add(_ word: Int64) { mix(UInt64(bitPattern: word)) }

    mutating func addNull() { mix(0x4e55_4c4c_0000_0000) }

    mutating func add(_ bytes: UnsafeRawBufferPointer) {
        let whole = bytes.count & ~7
        for offset in stride(from: 0, to: whole, by: 8) {
            mix(UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
        }
        // The length in the last word, so that zeros at the end count.
        var rest = UInt64(bytes.count) << 56
        for offset in whole..<bytes.count { rest |= UInt64(bytes[offset]) << (8 * UInt64(offset - whole)) }
        mix(rest)
    }

    /// A bijection of the state for a given word, and of the word for a given state.
    private mutating func mix(_ word: UInt64) {
        state = (state ^ word) &* 0xd6e8_feb8_6659_fd93
        state ^= state >> 32
    }
}
