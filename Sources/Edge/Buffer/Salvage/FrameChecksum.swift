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

/// What proves a row of `frame` as it was written: its place in the run of all frames, and its bytes.
enum FrameChecksum {
    static func of(id: Int64, totalMessages: Int64, header: ByteBuffer, records: ByteBuffer) -> Int64 {
        var hash = WordHash()
        hash.add(id)
        hash.add(totalMessages)
        header.withUnsafeReadableBytes { hash.add($0) }
        records.withUnsafeReadableBytes { hash.add($0) }
        return hash.value
    }
}
