/// A set of packet ids as a bitmap that grows to the highest id met: 8 KiB at most, no hashing.
struct PacketIDSet: Sendable, Equatable {
    private var words: [UInt64] = []
    private(set) var count = 0

    func contains(_ id: UInt16) -> Bool {
        let word = Int(id >> 6)
        return word < words.count && words[word] & (1 << UInt64(id & 63)) != 0
    }

    /// - Returns: `false` when it was there already.
    @discardableResult
    mutating func insert(_ id: UInt16) -> Bool {
        let word = Int(id >> 6)
        while words.count <= word { words.append(0) }
        let bit: UInt64 = 1 << UInt64(id & 63)
        guard words[word] & bit == 0 else { return false }
        words[word] |= bit
        count += 1
        return true
    }

    /// - Returns: whether it was there.
    @discardableResult
    mutating func remove(_ id: UInt16) -> Bool {
        guard contains(id) else { return false }
        words[Int(id >> 6)] &= ~(1 << UInt64(id & 63))
        count -= 1
        return true
    }
}
