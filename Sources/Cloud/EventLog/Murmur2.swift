/// The hash by which Kafka's Java client (and librdkafka's `murmur2_random`) chooses a partition, so that a record keeps
/// its partition whichever of the two logs, and whichever client, writes it.
package enum Murmur2 {
    /// `org.apache.kafka.common.utils.Utils.murmur2`.
    package static func hash(_ bytes: UnsafeRawBufferPointer) -> Int32 {
        let multiplier: UInt32 = 0x5bd1_e995
        var hash: UInt32 = 0x9747_b28c ^ UInt32(truncatingIfNeeded: bytes.count)
        let words = bytes.count / 4
        for word in 0..<words {
            var k = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: word * 4, as: UInt32.self))
            k = k &* multiplier
            k ^= k >> 24
            k = k &* multiplier
            hash = hash &* multiplier
            hash ^= k
        }
        let tail = words * 4
        let rest = bytes.count - tail
        if rest > 0 {
            for index in (0..<rest).reversed() { hash ^= UInt32(bytes[tail + index]) << (8 * UInt32(index)) }
            hash = hash &* multiplier
        }
        hash ^= hash >> 13
        hash = hash &* multiplier
        hash ^= hash >> 15
        return Int32(bitPattern: hash)
    }

    package static func hash(_ key: String) -> Int32 {
        var key = key
        return key.withUTF8 { hash(UnsafeRawBufferPointer($0)) }
    }

    /// - Parameter partitions: at least 1.
    package static func partition(of key: String, partitions: Int32) -> Int32 {
        (hash(key) & 0x7fff_ffff) % partitions
    }
}
