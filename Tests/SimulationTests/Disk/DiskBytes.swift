import Glibc

/// The contents of a file. Memory of its own, moved and filled as a whole: an array's ways to grow cost calls for each byte
/// in a build that is not optimised, and a simulation does little else than write.
struct DiskBytes {
    private var memory: Memory

    private final class Memory {
        var start: UnsafeMutableRawPointer
        var count: Int
        var capacity: Int

        init(capacity: Int) {
            self.capacity = max(4_096, capacity)
            start = .allocate(byteCount: self.capacity, alignment: 16)
            count = 0
        }

        deinit { start.deallocate() }
    }

    init(_ bytes: [UInt8]) {
        memory = Memory(capacity: bytes.count)
        put(bytes, at: 0)
    }

    var count: Int { memory.count }

    var array: [UInt8] {
        [UInt8](unsafeUninitializedCapacity: memory.count) { buffer, count in
            count = memory.count
            if let base = buffer.baseAddress { memcpy(base, memory.start, count) }
        }
    }

    mutating func put(_ bytes: [UInt8], at offset: Int) { put(bytes, 0..<bytes.count, at: offset) }

    /// - Parameter offset: where the first byte of the range goes.
    mutating func put(_ bytes: [UInt8], _ range: Range<Int>, at offset: Int) {
        guard !range.isEmpty else { return }
        if offset + range.count > memory.count { resize(to: offset + range.count) } else { makeUnique() }
        bytes.withUnsafeBytes { source in
            if let base = source.baseAddress {
                _ = memcpy(memory.start + offset, base + range.lowerBound, range.count)
            }
        }
    }

    /// New bytes are zero.
    mutating func resize(to count: Int) {
        if count > memory.capacity {
            reallocate(2 * count)
        } else {
            makeUnique()
        }
        if count > memory.count { memset(memory.start + memory.count, 0, count - memory.count) }
        memory.count = count
    }

    private mutating func makeUnique() {
        if !isKnownUniquelyReferenced(&memory) { reallocate(memory.capacity) }
    }

    private mutating func reallocate(_ capacity: Int) {
        let new = Memory(capacity: capacity)
        memcpy(new.start, memory.start, memory.count)
        new.count = memory.count
        memory = new
    }
}
