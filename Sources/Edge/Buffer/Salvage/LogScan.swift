/// What a write-ahead log holds, told before SQLite opens it (SQLite file format, section 4, "The Write-Ahead Log").
///
/// Recovery goes up to the last commit frame of an unbroken chain of checksums and forgets the rest without a word. What
/// it forgets is the torn end of a transaction that was never acknowledged, or the sign of damage; `isDamaged` tells
/// them apart. `docs/decisions/0014-salvage.md` has the reasoning.
struct LogScan {
    struct Entry: Equatable {
        /// The page that the frame is a version of.
        var page: UInt32
        /// Pages of the database after the commit; 0 in a frame that is no commit frame.
        var databaseSize: UInt32
        /// The salts are the log's: the frame was written since the log was begun anew.
        var isCurrent: Bool
        /// The checksum is right when it is seeded with the one stored in the frame before.
        var isValid: Bool

        var isCommit: Bool { isCurrent && databaseSize > 0 }
    }

    static let headerSize = 32
    static let frameHeaderSize = 24

    let pageSize: Int
    /// SQLite ignores the whole log when its header is not right.
    let isHeaderValid: Bool
    let entries: [Entry]
    /// Frames that recovery keeps.
    let recoveredEnd: Int
    /// Acknowledged transactions lie beyond the place where recovery ends.
    let isDamaged: Bool
    /// Frames up to here belong to transactions that were committed, as far as the log can tell.
    let committedEnd: Int

    /// Where a frame's page begins in the log.
    func offset(of frame: Int) -> Int {
        Self.headerSize + frame * (Self.frameHeaderSize + pageSize) + Self.frameHeaderSize
    }

    /// `nil` for a log that holds no frame.
    ///
    /// - Parameter pageSize: of the database, for a log whose header does not tell.
    init?(_ log: some ByteSource, pageSize fallback: Int) {
        let header = LogHeader(log.bytes(at: 0, count: Self.headerSize))
        let pageSize = header?.pageSize ?? fallback
        let size = Self.frameHeaderSize + pageSize
        guard log.count >= Self.headerSize + size else { return nil }
        self.pageSize = pageSize
        isHeaderValid = header != nil
        var reader = FrameReader(
            identity: header?.identity ?? LogHeader.Identity(ofFirstFrameIn: log, pageSize: pageSize),
            checksum: header?.checksum)
        var entries: [Entry] = []
        // A whole number of frames near 1 MiB a read.
        let step = max(1, (1 << 20) / size)
        let count = (log.count - Self.headerSize) / size
        entries.reserveCapacity(count)
        for first in stride(from: 0, to: count, by: step) {
            let frames = min(step, count - first)
            let bytes = log.bytes(at: Self.headerSize + first * size, count: frames * size)
            bytes.withUnsafeBytes { bytes in
                for frame in 0..<frames {
                    let begin = frame * size
                    guard begin + size <= bytes.count else {
                        // The disk cannot read it.
                        reader.skip()
                        entries.append(Entry(page: 0, databaseSize: 0, isCurrent: false, isValid: false))
                        continue
                    }
                    entries.append(reader.read(UnsafeRawBufferPointer(rebasing: bytes[begin..<begin + size])))
                }
            }
        }
        self.entries = entries
        recoveredEnd = header == nil ? 0 : Self.endOfRecovery(entries)
        // A header is fsynced before the first frame that follows it.
        isDamaged =
            header == nil
            ? entries.contains { $0.isCommit } : Self.holdsLaterTransaction(entries, after: recoveredEnd)
        committedEnd =
            isDamaged ? (entries.lastIndex { $0.isCommit }.map { $0 + 1 } ?? recoveredEnd) : recoveredEnd
    }

    private static func endOfRecovery(_ entries: [Entry]) -> Int {
        let chain = entries.firstIndex { !$0.isValid } ?? entries.count
        return entries[..<chain].lastIndex { $0.isCommit }.map { $0 + 1 } ?? 0
    }

    /// One transaction is written at a time, each page once, in ascending order, and fsynced before the next begins. So
    /// the frames of one may be torn in any way; but a frame whose checksum goes on from a commit frame's, or a page that
    /// does not ascend from the one before, prove that a later transaction had begun: then what lies before it was on the
    /// disk whole, and acknowledged.
    private static func holdsLaterTransaction(_ entries: [Entry], after end: Int) -> Bool {
        var page: UInt32 = 0
        for index in entries.indices[end...] where entries[index].isValid {
            if index > end, entries[index - 1].databaseSize > 0 { return true }
            if entries[index].page <= page { return true }
            page = entries[index].page
        }
        return false
    }
}

/// The first 32 bytes of a log, when they are right.
private struct LogHeader {
    /// What all frames of one life of the log have in common.
    struct Identity {
        var salts: UInt64
        var isBigEndian: Bool
    }

    var pageSize: Int
    var identity: Identity
    var checksum: LogChecksum

    init?(_ bytes: [UInt8]) {
        guard bytes.count == LogScan.headerSize, bytes.uint32(at: 0) & ~1 == 0x377f_0682,
            bytes.uint32(at: 4) == 3_007_000
        else { return nil }
        pageSize = Int(bytes.uint32(at: 8))
        guard PageSize.isValid(pageSize) else { return nil }
        identity = Identity(
            salts: UInt64(bytes.uint32(at: 16)) << 32 | UInt64(bytes.uint32(at: 20)),
            isBigEndian: bytes.uint32(at: 0) & 1 == 1)
        let stored = LogChecksum(first: bytes.uint32(at: 24), second: bytes.uint32(at: 28))
        checksum = LogChecksum()
        bytes.withUnsafeBytes {
            checksum.add(UnsafeRawBufferPointer(rebasing: $0[..<24]), isBigEndian: identity.isBigEndian)
        }
        guard checksum == stored else { return nil }
    }
}

extension LogHeader.Identity {
    /// For a log whose header is lost: the first frame's, if the frame after it shows that it was one. This machine's
    /// byte order is what SQLite writes checksums in.
    init(ofFirstFrameIn log: some ByteSource, pageSize: Int) {
        let isBigEndian = 1.bigEndian == 1
        self.init(salts: 0, isBigEndian: isBigEndian)
        let size = LogScan.frameHeaderSize + pageSize
        for frame in 0..<Self.searchedFrames {
            let bytes = log.bytes(at: LogScan.headerSize + frame * size, count: LogScan.frameHeaderSize)
            guard bytes.count == LogScan.frameHeaderSize else { return }
            let salts = UInt64(bytes.uint32(at: 8)) << 32 | UInt64(bytes.uint32(at: 12))
            let next = log.bytes(at: LogScan.headerSize + (frame + 1) * size, count: size)
            guard next.count == size else { return }
            var reader = FrameReader(
                identity: Self(salts: salts, isBigEndian: isBigEndian),
                checksum: LogChecksum(first: bytes.uint32(at: 16), second: bytes.uint32(at: 20)))
            if next.withUnsafeBytes({ reader.read($0).isValid }) {
                self.salts = salts
                return
            }
        }
    }

    /// Damage that reaches further than this into the log leaves nothing of it.
    private static let searchedFrames = 4_096
}

private struct FrameReader {
    let identity: LogHeader.Identity
    /// As stored in the frame before, or in the header; `nil`: it could not be read.
    var checksum: LogChecksum?

    mutating func skip() { checksum = nil }

    mutating func read(_ frame: UnsafeRawBufferPointer) -> LogScan.Entry {
        func word(_ offset: Int) -> UInt32 {
            UInt32(bigEndian: frame.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        }
        let stored = LogChecksum(first: word(16), second: word(20))
        let page = word(0)
        let isCurrent = page > 0 && UInt64(word(8)) << 32 | UInt64(word(12)) == identity.salts
        var isValid = false
        if isCurrent, var computed = checksum {
            computed.add(UnsafeRawBufferPointer(rebasing: frame[..<8]), isBigEndian: identity.isBigEndian)
            computed.add(
                UnsafeRawBufferPointer(rebasing: frame[LogScan.frameHeaderSize...]), isBigEndian: identity.isBigEndian)
            isValid = computed == stored
        }
        checksum = stored
        return LogScan.Entry(page: page, databaseSize: word(4), isCurrent: isCurrent, isValid: isValid)
    }
}

/// Section 4.2, "Checksum Algorithm".
struct LogChecksum: Equatable {
    var first: UInt32 = 0
    var second: UInt32 = 0

    /// A multiple of eight bytes.
    mutating func add(_ bytes: UnsafeRawBufferPointer, isBigEndian: Bool) {
        for offset in stride(from: 0, to: bytes.count - 7, by: 8) {
            let low = bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
            let high = bytes.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self)
            first &+= (isBigEndian ? UInt32(bigEndian: low) : UInt32(littleEndian: low)) &+ second
            second &+= (isBigEndian ? UInt32(bigEndian: high) : UInt32(littleEndian: high)) &+ first
        }
    }
}

enum PageSize {
    /// A power of two from 512 to 65,536.
    static func isValid(_ size: Int) -> Bool { 512...65_536 ~= size && size & (size - 1) == 0 }
}
