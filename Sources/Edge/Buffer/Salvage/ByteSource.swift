#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Bytes that are read at any place, a piece at a time.
protocol ByteSource {
    var count: Int { get }
    /// As many bytes as there are, `count` at most; none where they cannot be read.
    func bytes(at offset: Int, count: Int) -> [UInt8]
}

/// A file as it is on the disk. Sectors that the disk cannot read count as missing: what lies around them is readable.
final class FileBytes: ByteSource {
    private let descriptor: Int32
    let count: Int
    /// Something could not be read.
    private(set) var hasFailed = false

    /// `nil` when the file cannot be opened; `errno` says why.
    init?(path: String) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            close(descriptor)
            return nil
        }
        self.descriptor = descriptor
        count = Int(status.st_size)
    }

    deinit { close(descriptor) }

    /// Whether all of it can be read; a file that is not there can.
    static func isReadable(_ path: String) -> Bool {
        guard let file = FileBytes(path: path) else { return errno == ENOENT }
        for offset in stride(from: 0, to: file.count, by: 1 << 20) {
            _ = file.bytes(at: offset, count: 1 << 20)
            if file.hasFailed { return false }
        }
        return true
    }

    func bytes(at offset: Int, count: Int) -> [UInt8] {
        guard offset >= 0, count > 0, offset < self.count else { return [] }
        let wanted = min(count, self.count - offset)
        return [UInt8](unsafeUninitializedCapacity: wanted) { buffer, filled in
            while filled < wanted {
                let got = pread(descriptor, buffer.baseAddress! + filled, wanted - filled, off_t(offset + filled))
                if got < 0 && errno == EINTR { continue }
                guard got > 0 else {
                    hasFailed = hasFailed || got < 0
                    break
                }
                filled += got
            }
        }
    }
}

extension [UInt8]: ByteSource {
    func bytes(at offset: Int, count: Int) -> [UInt8] {
        guard offset >= 0, count > 0, offset < self.count else { return [] }
        return Array(self[offset..<Swift.min(offset + count, self.count)])
    }
}

extension [UInt8] {
    /// Big-endian, as all numbers of SQLite's file format; 0 beyond the end.
    func uint32(at offset: Int) -> UInt32 {
        guard offset >= 0, offset <= count - 4 else { return 0 }
        return UInt32(self[offset]) << 24 | UInt32(self[offset + 1]) << 16 | UInt32(self[offset + 2]) << 8
            | UInt32(self[offset + 3])
    }

    func uint16(at offset: Int) -> Int {
        guard offset >= 0, offset <= count - 2 else { return 0 }
        return Int(self[offset]) << 8 | Int(self[offset + 1])
    }
}
