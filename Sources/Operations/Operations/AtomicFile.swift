import Glibc

/// A file operation that the system refused.
package struct FileError: Error, Equatable, CustomStringConvertible {
    package var path: String
    /// What was tried, as a verb: "read", "create", "replace".
    package var operation: String
    /// `errno`.
    package var code: Int32

    package init(path: String, operation: String, code: Int32) {
        self.path = path
        self.operation = operation
        self.code = code
    }

    package var description: String {
        "cannot \(operation) \(path): \(String(cString: strerror(code)))"
    }
}

/// Small files, read whole with a bound and written so that a crash leaves either the old or the new one.
package enum AtomicFile {
    /// - Throws: `EFBIG` where the file is longer than `maximumBytes`.
    package static func read(_ path: String, maximumBytes: Int) throws(FileError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FileError(path: path, operation: "read", code: errno) }
        defer { close(descriptor) }
        var contents: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 * 1024)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw FileError(path: path, operation: "read", code: errno) }
            if count == 0 { return contents }
            guard contents.count + count <= maximumBytes else {
                throw FileError(path: path, operation: "read", code: EFBIG)
            }
            contents.append(contentsOf: chunk[..<count])
        }
    }

    /// Writes beside the target, fsyncs, then renames. The directory is not fsynced: see `syncDirectory`, so that many
    /// files can share one.
    ///
    /// - Throws: `EEXIST` where the file is there and `replacing` is false; nothing is changed then.
    package static func write(
        _ contents: [UInt8], to path: String, mode: mode_t, replacing: Bool
    ) throws(FileError) {
        let temporary = "\(path).\(getpid()).tmp"
        unlink(temporary)
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)
        guard descriptor >= 0 else { throw FileError(path: path, operation: "create", code: errno) }
        let written = writeAll(contents, to: descriptor, mode: mode)
        close(descriptor)
        guard written == 0 else {
            unlink(temporary)
            throw FileError(path: path, operation: "write", code: written)
        }
        if replacing {
            guard rename(temporary, path) == 0 else {
                let code = errno
                unlink(temporary)
                throw FileError(path: path, operation: "replace", code: code)
            }
        } else {
            // link(2) fails where the name is taken, rename(2) would overwrite.
            let linked = link(temporary, path) == 0 ? 0 : errno
            unlink(temporary)
            guard linked == 0 else { throw FileError(path: path, operation: "create", code: linked) }
        }
    }

    package static func syncDirectory(_ path: String) throws(FileError) {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FileError(path: path, operation: "open", code: errno) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw FileError(path: path, operation: "sync", code: errno) }
    }

    package static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    /// 0 or `errno`.
    private static func writeAll(_ contents: [UInt8], to descriptor: Int32, mode: mode_t) -> Int32 {
        // The umask may have taken bits away.
        guard fchmod(descriptor, mode) == 0 else { return errno }
        var done = 0
        while done < contents.count {
            let count = contents.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + done, $0.count - done) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return count == 0 ? EIO : errno }
            done += count
        }
        return fsync(descriptor) == 0 ? 0 : errno
    }
}
