#if canImport(Musl)
    import Musl
#else
    import Glibc
#endif

/// Keeps a second process (or a second open in this one) out of the file: SQLite before 3.51.3 can lose committed writes
/// when two connections write and checkpoint a WAL at once. The kernel drops the lock when the process ends.
///
/// The lock lies on a file of its own: SQLite's own locks on the database vanish when any descriptor of it is closed.
final class FileLock: Sendable {
    private let descriptor: Int32

    init(path: String) throws(EventLogError) {
        let opened = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard opened >= 0 else { throw .other("cannot open \(path): \(errorText(errno))") }
        guard flock(opened, LOCK_EX | LOCK_NB) == 0 else {
            let code = errno
            let holder = code == EWOULDBLOCK ? Self.holder(opened) : nil
            close(opened)
            guard code == EWOULDBLOCK else { throw .other("cannot lock \(path): \(errorText(code))") }
            throw .unavailable(
                "the event log is in use\(holder.map { " by process \($0)" } ?? ""): only one process may open it; stop "
                    + "that one, or give this one a path of its own (lock \(path))")
        }
        descriptor = opened
        let text = Array("\(getpid())\n".utf8)
        // Only a help for the error above: the lock holds without it.
        if ftruncate(opened, 0) == 0 { _ = text.withUnsafeBytes { pwrite(opened, $0.baseAddress, $0.count, 0) } }
    }

    /// The lock goes when its owner does.
    deinit { close(descriptor) }

    private static func holder(_ descriptor: Int32) -> Int32? {
        var bytes = [UInt8](repeating: 0, count: 16)
        let count = bytes.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, $0.count, 0) }
        guard count > 0 else { return nil }
        return Int32(String(decoding: bytes[..<count].prefix { $0 != 10 }, as: UTF8.self))
    }
}

func errorText(_ code: Int32) -> String { String(cString: strerror(code)) }

/// Makes a new or renamed file's name durable.
func syncDirectory(of path: String) throws(EventLogError) {
    let directory = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw .other("cannot open the folder \(directory): \(errorText(errno))") }
    defer { close(descriptor) }
    guard fsync(descriptor) == 0 else { throw .unavailable("cannot sync the folder \(directory): \(errorText(errno))") }
}
