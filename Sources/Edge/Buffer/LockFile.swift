#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// `<path>.lock`, held with flock(2) for as long as a process uses the buffer; it contains that process's id.
///
/// A file of its own, because closing any descriptor of the database file would drop SQLite's POSIX locks on it.
struct LockFile: Sendable {
    private let descriptor: Int32

    static func acquire(for path: String) throws(BufferError) -> LockFile {
        let lockPath = path + ".lock"
        let descriptor = open(lockPath, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw .io("\(lockPath): \(reason(errno)); the directory must exist and belong to the daemon's user")
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let code = errno
            let holder = contents(of: descriptor)
            close(descriptor)
            guard code == EWOULDBLOCK else { throw .io("\(lockPath): \(reason(code))") }
            throw .locked(
                "\(path) is in use by process \(holder.isEmpty ? "unknown" : holder); end that process, or give "
                    + "this one a buffer.path of its own")
        }
        leaveToOwner(of: path, descriptor)
        let pid = "\(getpid())\n"
        _ = ftruncate(descriptor, 0)
        _ = pid.withCString { pwrite(descriptor, $0, strlen($0), 0) }
        return LockFile(descriptor: descriptor)
    }

    /// Root may look into a buffer whose daemon is down; the lock that it makes must not keep the daemon out.
    private static func leaveToOwner(of path: String, _ descriptor: Int32) {
        var status = stat()
        guard geteuid() == 0, stat(path, &status) == 0 else { return }
        _ = fchown(descriptor, status.st_uid, status.st_gid)
    }

    func release() {
        _ = ftruncate(descriptor, 0)
        close(descriptor)
    }

    private static func contents(of descriptor: Int32) -> String {
        var bytes = [UInt8](repeating: 0, count: 32)
        let count = pread(descriptor, &bytes, bytes.count, 0)
        return String(decoding: bytes.prefix(max(0, count)).prefix { $0 >= 0x30 && $0 <= 0x39 }, as: UTF8.self)
    }
}

func reason(_ code: Int32) -> String { String(cString: strerror(code)) }

/// The calls on the file system that SQLite does not do for us.
enum FileSystem {
    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    /// Makes an empty file that its owner alone can read, and makes its name durable.
    static func create(_ path: String) throws(BufferError) {
        let descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw .io("\(path): cannot be made: \(reason(errno))") }
        let code = fsync(descriptor) == 0 ? nil : errno
        close(descriptor)
        if let code { throw .io("\(path): cannot be made durable: \(reason(code))") }
        try syncParent(of: path)
    }

    /// Makes the bytes of a file durable that is not open any more.
    static func sync(_ path: String) throws(BufferError) {
        let descriptor = open(path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { throw .io("\(path): \(reason(errno))") }
        let code = fsync(descriptor) == 0 ? nil : errno
        close(descriptor)
        if let code { throw .io("\(path): cannot be made durable: \(reason(code))") }
    }

    static func syncParent(of path: String) throws(BufferError) {
        let parent = directory(of: path)
        let descriptor = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .io("\(parent): \(reason(errno))") }
        let code = fsync(descriptor) == 0 ? nil : errno
        close(descriptor)
        if let code { throw .io("\(parent): cannot be made durable: \(reason(code))") }
    }

    static func directory(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// Bytes that an unprivileged process may still use; `nil` when it cannot be told.
    static func freeBytes(at path: String) -> Int64? {
        var status = statvfs()
        guard statvfs(path, &status) == 0 else { return nil }
        return Int64(status.f_bavail) * Int64(status.f_frsize)
    }

    /// Percent of the file system that an unprivileged process may still use; `nil` when it cannot be told.
    static func freePercent(at path: String) -> Double? {
        var status = statvfs()
        guard statvfs(path, &status) == 0, status.f_blocks > 0 else { return nil }
        return Double(status.f_bavail) / Double(status.f_blocks) * 100
    }
}

/// Microseconds.
enum Clock {
    static func monotonic() -> Int64 { read(CLOCK_MONOTONIC) }
    /// Since 1970.
    static func wall() -> Int64 { read(CLOCK_REALTIME) }

    private static func read(_ clock: clockid_t) -> Int64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
    }
}
