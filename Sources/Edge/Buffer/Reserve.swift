#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// `<path>.reserve`: disk space that is set aside while there is some. It is given up when a write finds the disk full, so
/// that answers, deletions and ledger lines can still be written, which is what makes room again.
struct Reserve {
    private let path: String
    private let bytes: Int
    private(set) var isHeld = false

    init(ofBuffer path: String, bytes: Int) {
        self.path = path + ".reserve"
        self.bytes = bytes
    }

    /// Takes the space if the disk has it.
    mutating func hold() {
        guard !isHeld, bytes > 0 else { return }
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        isHeld = posix_fallocate(descriptor, 0, off_t(bytes)) == 0
        // What it got before the disk was full.
        if !isHeld { _ = ftruncate(descriptor, 0) }
    }

    mutating func release() {
        isHeld = false
        _ = truncate(path, 0)
    }
}
