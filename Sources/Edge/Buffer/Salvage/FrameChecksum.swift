import NIOCore

extension Schema {
    /// SQLite's pages have no checksums of their own. NULL in frames of older layouts.
    static let checksums = """
        ALTER TABLE frame ADD COLUMN checksum INTEGER;
        """

    /// Sequences of an epoch of which this file never had a frame: the salvage that made it left them out, because they
    /// were answered or because they were lost and have ledger lines.
    static let absences = """
        CREATE TABLE absent (
            epoch INTEGER NOT NULL, first_sequence INTEGER NOT NULL, last_sequence INTEGER NOT NULL,
            PRIMARY KEY (epoch, first_sequence)) WITHOUT ROWID;
        """
}

/// What proves a row of `frame` as it was written: its place in the run of all frames, and its bytes. No defence against
/// intent, a sign of wrong bits: any change within one word changes it, others all but one in 2^64.
enum FrameChecksum {
    static func of(id: Int64, totalMessages: Int64, header: ByteBuffer, records: ByteBuffer) -> Int64 {
        var state: UInt64 = 0x9e37_79b9_7f4a_7c15
        mix(UInt64(bitPattern: id), into: &state)
        mix(UInt64(bitPattern: totalMessages), into: &state)
        header.withUnsafeReadableBytes { add($0, to: &state) }
        records.withUnsafeReadableBytes { add($0, to: &state) }
        return Int64(bitPattern: state ^ state >> 29)
    }

    /// Each step is a bijection of the state for a given word, and of the word for a given state.
    private static func mix(_ word: UInt64, into state: inout UInt64) {
        state = (state ^ word) &* 0xd6e8_feb8_6659_fd93
        state ^= state >> 32
    }

    private static func add(_ bytes: UnsafeRawBufferPointer, to state: inout UInt64) {
        let whole = bytes.count & ~7
        for offset in stride(from: 0, to: whole, by: 8) {
            mix(UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)), into: &state)
        }
        // The length in the last word, so that zeros at the end count.
        var rest = UInt64(bytes.count) << 56
        for offset in whole..<bytes.count { rest |= UInt64(bytes[offset]) << (8 * UInt64(offset - whole)) }
        mix(rest, into: &state)
    }
}
