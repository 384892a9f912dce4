import SyncModel

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// `<path>.lock`, held with flock(2) for as long as a process uses the buffer; it contains that process's id, and what it has
/// acknowledged. That is not fsynced: it is at most what the buffer has, and tells of a log that has lost its end without a
/// trace.
///
/// A file of its own, because closing any descriptor of the database file would drop SQLite's POSIX locks on it.
struct LockFile: Sendable {
    private let descriptor: Int32
    /// What a process that did not end cleanly had acknowledged.
    let formerEnd: KnownEnd?

    /// Bytes; the end follows.
    private static let processLength = 32
    private static let endLength = 128

    static func path(for path: String) -> String { path + ".lock" }

    static func acquire(for path: String) throws(BufferError) -> LockFile {
        let lockPath = Self.path(for: path)
        let descriptor = open(lockPath, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw .io("\(lockPath): \(reason(errno)); the directory must exist and belong to the daemon's user")
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let code = errno
            let holder = holder(in: descriptor)
            close(descriptor)
            guard code == EWOULDBLOCK else { throw .io("\(lockPath): \(reason(code))") }
            throw .locked(
                "\(path) is in use by process \(holder.isEmpty ? "unknown" : holder); end that process, or give "
                    + "this one a buffer.path of its own")
        }
        leaveToOwner(of: path, descriptor)
        let lock = LockFile(descriptor: descriptor, formerEnd: end(in: descriptor))
        lock.write("\(getpid())\n", length: processLength, at: 0)
        return lock
    }

    /// Cheap enough for each commit.
    func note(_ end: KnownEnd) {
        var hash = WordHash()
        for word in [end.epoch.high, end.epoch.low, end.lastSequence] { hash.add(Int64(bitPattern: word)) }
        write(
            "\(end.epoch.hexadecimal) \(end.lastSequence) \(hash.value)\n", length: Self.endLength,
            at: Self.processLength)
    }

    /// The file has what the former process had acknowledged: from now on that is this process's to note.
    func forgetFormerEnd() { write("", length: Self.endLength, at: Self.processLength) }

    private static func end(in descriptor: Int32) -> KnownEnd? {
        let words = text(of: descriptor, length: endLength, at: processLength).split(whereSeparator: \.isWhitespace)
        guard words.count == 3, let epoch = Epoch(hexadecimal: words[0]), let last = UInt64(words[1]),
            SyncLimits.numbers ~= last, let stored = Int64(words[2])
        else { return nil }
        var hash = WordHash()
        for word in [epoch.high, epoch.low, last] { hash.add(Int64(bitPattern: word)) }
        return hash.value == stored ? KnownEnd(epoch: epoch, lastSequence: last) : nil
    }

    private func write(_ text: String, length: Int, at offset: Int) {
        var bytes = [UInt8](repeating: 0x20, count: length)
        for (index, byte) in text.utf8.prefix(length).enumerated() { bytes[index] = byte }
        _ = pwrite(descriptor, bytes, length, off_t(offset))
    }

    private static func text(of descriptor: Int32, length: Int, at offset: Int) -> String {
        var bytes = [UInt8](repeating: 0, count: length)
        let count = pread(descriptor, &bytes, length, off_t(offset))
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }

    /// Root may look into a buffer whose daemon is down; the lock that it makes must not keep the daemon out.
    private static func leaveToOwner(of path: String, _ descriptor: Int32) {
        var status = stat()
        guard geteuid() == 0, stat(path, &status) == 0 else { return }
        _ = fchown(descriptor, status.st_uid, status.st_gid)
    }

    /// - Parameter isClean: all that was acknowledged is in the file; else what is known of the end stays for the next.
    func release(isClean: Bool) {
        if isClean { _ = ftruncate(descriptor, 0) } else { write("", length: Self.processLength, at: 0) }
        close(descriptor)
    }

    private static func holder(in descriptor: Int32) -> String {
        String(text(of: descriptor, length: processLength, at: 0).prefix { $0.isASCII && $0.isNumber })
    }
}
