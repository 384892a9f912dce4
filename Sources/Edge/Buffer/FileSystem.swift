#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

func reason(_ code: Int32) -> String { String(cString: strerror(code)) }

/// The calls on the file system that SQLite does not do for us.
enum FileSystem {
    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    struct Identity: Equatable {
        var device: UInt64
        var inode: UInt64
    }

    /// `nil` where there is no file.
    static func identity(of path: String) -> Identity? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return Identity(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
    }

    /// Whether the path leads to another file than the one it was, or to none. A disk that does not answer tells neither.
    static func isElsewhere(_ path: String, than identity: Identity?) -> Bool {
        var status = stat()
        guard stat(path, &status) == 0 else { return errno == ENOENT || errno == ENOTDIR }
        return Identity(device: UInt64(status.st_dev), inode: UInt64(status.st_ino)) != identity
    }

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

    /// SQLite puts the log beside the file that a symbolic link leads to, and so must all else.
    static func resolved(_ path: String) throws(BufferError) -> String {
        var status = stat()
        guard lstat(path, &status) == 0 else { return path }
        guard let found = realpath(path, nil) else {
            throw .unusable(
                "\(path) is a link that leads nowhere (\(reason(errno))): name the file itself in buffer.path")
        }
        defer { free(found) }
        guard stat(found, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw .unusable("\(path) is no regular file: name a file of its own in buffer.path")
        }
        return String(cString: found)
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
