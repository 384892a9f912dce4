#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Room on the disk that has the buffer: how much there is, and how some is set aside. A simulation has another.
package struct DiskSpace: Sendable {
    /// Bytes that an unprivileged process may still use; `nil` when it cannot be told.
    package var freeBytes: @Sendable (_ path: String) -> Int64?
    /// Percent of the same; `nil` when it cannot be told.
    package var freePercent: @Sendable (_ path: String) -> Double?
    /// Bytes of the disk that a file has.
    package var allocated: @Sendable (_ path: String) -> Int
    /// Gives a file so many bytes of the disk, or none.
    package var allocate: @Sendable (_ path: String, _ bytes: Int) -> Bool
    /// Gives all of them back.
    package var release: @Sendable (_ path: String) -> Void

    package init(
        freeBytes: @escaping @Sendable (String) -> Int64?, freePercent: @escaping @Sendable (String) -> Double?,
        allocated: @escaping @Sendable (String) -> Int, allocate: @escaping @Sendable (String, Int) -> Bool,
        release: @escaping @Sendable (String) -> Void
    ) {
        self.freeBytes = freeBytes
        self.freePercent = freePercent
        self.allocated = allocated
        self.allocate = allocate
        self.release = release
    }

    package static let ofSystem = DiskSpace(
        freeBytes: { FileSystem.freeBytes(at: $0) },
        freePercent: { FileSystem.freePercent(at: $0) },
        allocated: { path in
            var status = stat()
            // st_blocks counts 512 bytes, whatever the file system's blocks are (POSIX, sys/stat.h).
            return stat(path, &status) == 0 ? Int(status.st_blocks) * 512 : 0
        },
        allocate: { path, bytes in
            let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
            guard descriptor >= 0 else { return false }
            defer { close(descriptor) }
            if posix_fallocate(descriptor, 0, off_t(bytes)) == 0 { return true }
            // What it got before the disk was full.
            _ = ftruncate(descriptor, 0)
            return false
        },
        release: { path in _ = truncate(path, 0) })
}
