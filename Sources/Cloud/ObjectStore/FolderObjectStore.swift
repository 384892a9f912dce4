import Glibc
import NIOCore
import NIOPosix
import Operations

/// Objects as files of a folder, for one machine or a file system that several share.
///
/// A file gets its name by link(2) when it is whole and on the disk, so a name never means half an object, and an object
/// never takes another's place.
package struct FolderObjectStore: ObjectStore {
    /// Not in the grammar of keys.
    private static let writing = "~writing"
    /// What a crash left there is removed when it is so old, in seconds: younger ones may be another process's.
    private static let leftoverAge = 86_400

    private let root: String

    /// The folder is made with the first object: who only reads, perhaps as another user, leaves nothing there.
    ///
    /// - Throws: where something else than a folder is there.
    package init(path: String) throws(ObjectStoreError) {
        root = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
        var status = stat()
        if stat(root, &status) == 0, status.st_mode & S_IFMT != S_IFDIR {
            throw .refused("\(root) is no folder")
        }
        removeLeftovers()
    }

    package func create(_ key: String, _ bytes: ByteBuffer) async throws(ObjectStoreError) -> Bool {
        try ObjectKey.check(key)
        return try await onThread { () throws(ObjectStoreError) in try self.createNow(key, bytes) }
    }

    package func read(_ key: String, maximumBytes: Int) async throws(ObjectStoreError) -> ByteBuffer? {
        try ObjectKey.check(key)
        let path = "\(root)/\(key)"
        return try await onThread { () throws(ObjectStoreError) in
            try Self.readNow(path, key: key, maximumBytes: maximumBytes)
        }
    }

    package func list(
        prefix: String, after: String?, maximum: Int
    ) async throws(ObjectStoreError) -> [StoredObject] {
        try ObjectKey.checkPrefix(prefix)
        return try await onThread { () throws(ObjectStoreError) in
            var found: [StoredObject] = []
            try self.walk("", prefix, after, min(max(maximum, 1), 1_000), &found)
            return found
        }
    }

    package func delete(_ key: String) async throws(ObjectStoreError) {
        try ObjectKey.check(key)
        let path = "\(root)/\(key)"
        try await onThread { () throws(ObjectStoreError) in
            guard unlink(path) == 0 else {
                if errno == ENOENT || errno == ENOTDIR || errno == EISDIR { return }
                throw Self.failure("delete", path, errno)
            }
            try Self.sync(Self.parent(of: path))
        }
    }

    // MARK: On a thread that may wait for the disk

    private func createNow(_ key: String, _ bytes: ByteBuffer) throws(ObjectStoreError) -> Bool {
        let path = "\(root)/\(key)"
        let folder = Self.parent(of: path)
        try Self.makeFolder("\(root)/\(Self.writing)")
        try makeFolders(of: key)
        let temporary = "\(root)/\(Self.writing)/\(UInt64.random(in: 0...UInt64.max))"
        defer { unlink(temporary) }
        try Self.write(bytes, to: temporary)
        let code = link(temporary, path) == 0 ? 0 : errno
        guard code == 0 || code == EEXIST else { throw Self.failure("create", path, code) }
        if code == EEXIST {
            var status = stat()
            if stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR {
                throw .refused("\(path) is a folder: its name is the beginning of other objects' keys")
            }
        }
        // For one that was there too: who made it may have crashed before this.
        try Self.sync(folder)
        return code == 0
    }

    private static func write(_ bytes: ByteBuffer, to path: String) throws(ObjectStoreError) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o640)
        guard descriptor >= 0 else { throw failure("create", path, errno) }
        defer { close(descriptor) }
        let code = bytes.withUnsafeReadableBytes { bytes -> Int32 in
            var done = 0
            while done < bytes.count {
                let count = Glibc.write(descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done)
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { return count == 0 ? EIO : errno }
                done += count
            }
            return fsync(descriptor) == 0 ? 0 : errno
        }
        guard code == 0 else { throw failure("write", path, code) }
    }

    private static func readNow(
        _ path: String, key: String, maximumBytes: Int
    ) throws(ObjectStoreError) -> ByteBuffer? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT || errno == ENOTDIR { return nil }
            throw failure("read", path, errno)
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("read", path, errno) }
        guard status.st_mode & S_IFMT == S_IFREG else { return nil }
        guard status.st_size <= maximumBytes else { throw .tooLarge(key: key, maximumBytes: maximumBytes) }
        var buffer = ByteBuffer()
        let size = Int(status.st_size)
        var code: Int32 = 0
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: size) { target in
            var done = 0
            while done < size {
                let count = Glibc.read(descriptor, target.baseAddress.map { $0 + done }, size - done)
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else {
                    // It became shorter: objects never change, so somebody else's hand was in it.
                    code = count == 0 ? EIO : errno
                    break
                }
                done += count
            }
            return done
        }
        guard code == 0 else { throw failure("read", path, code) }
        return buffer
    }

    /// Adds the objects under `folder` (with a slash at its end, or empty) in the order of their keys' bytes.
    private func walk(
        _ folder: String, _ prefix: String, _ after: String?, _ maximum: Int, _ found: inout [StoredObject]
    ) throws(ObjectStoreError) {
        // A folder sorts as its name with the slash: "a-b" comes before "a/b", as in S3.
        for name in try names(folder).sorted(by: { $0.precedesByBytes($1) }) {
            guard found.count < maximum else { return }
            let key = folder + name
            if name.hasSuffix("/") {
                guard key.hasPrefix(prefix) || prefix.hasPrefix(key) else { continue }
                // All in it come before `after` where the folder does, unless `after` is in it.
                if let after, !after.hasPrefix(key), key.precedesByBytes(after) { continue }
                try walk(key, prefix, after, maximum, &found)
            } else if key.hasPrefix(prefix), after.map({ $0.precedesByBytes(key) }) ?? true {
                var status = stat()
                // Deleted meanwhile.
                guard stat("\(root)/\(key)", &status) == 0 else { continue }
                found.append(StoredObject(key: key, bytes: Int(status.st_size)))
            }
        }
    }

    /// Files, and folders with a slash at the end.
    private func names(_ folder: String) throws(ObjectStoreError) -> [String] {
        let path = folder.isEmpty ? root : "\(root)/\(folder.dropLast())"
        guard let directory = opendir(path) else {
            if errno == ENOENT { return [] }
            throw Self.failure("list", path, errno)
        }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            guard ObjectKey.isValid(name) else { continue }
            var status = stat()
            guard stat("\(path)/\(name)", &status) == 0 else { continue }
            switch status.st_mode & S_IFMT {
            case S_IFDIR: names.append(name + "/")
            case S_IFREG: names.append(name)
            default: break
            }
        }
        return names
    }

    /// The folders of a key, each durable in its parent before anything is in it.
    private func makeFolders(of key: String) throws(ObjectStoreError) {
        var folder = root
        for part in key.split(separator: "/").dropLast() {
            folder += "/\(part)"
            try Self.makeFolder(folder)
        }
    }

    private static func makeFolder(_ path: String) throws(ObjectStoreError) {
        guard mkdir(path, 0o750) != 0 else {
            try sync(parent(of: path))
            return
        }
        let code = errno
        if code == ENOENT, path != "/" {
            try makeFolder(parent(of: path))
            return try makeFolder(path)
        }
        var status = stat()
        guard code == EEXIST, stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            guard code == EEXIST else { throw failure("create", path, code) }
            throw .refused("\(path) is an object or a file, and a folder is needed there")
        }
        // Who made it may have crashed before this.
        try sync(parent(of: path))
    }

    private func removeLeftovers() {
        let folder = "\(root)/\(Self.writing)"
        guard let directory = opendir(folder) else { return }
        defer { closedir(directory) }
        let now = Int(SystemClock.wallMicroseconds() / 1_000_000)
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            var status = stat()
            guard stat("\(folder)/\(name)", &status) == 0, status.st_mode & S_IFMT == S_IFREG,
                now - status.st_mtim.tv_sec > Self.leftoverAge
            else { continue }
            unlink("\(folder)/\(name)")
        }
    }

    private static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    private static func sync(_ folder: String) throws(ObjectStoreError) {
        do {
            try AtomicFile.syncDirectory(folder)
        } catch {
            throw failure("sync", folder, error.code)
        }
    }

    /// A full or failing disk may be mended without anybody's change to the configuration; a missing right may not.
    private static func failure(_ operation: String, _ path: String, _ code: Int32) -> ObjectStoreError {
        let text = FileError(path: path, operation: operation, code: code).description
        switch code {
        case EACCES, EPERM, EROFS, ENOTDIR, EISDIR, ENAMETOOLONG, ELOOP, EINVAL: return .refused(text)
        default: return .unavailable(text)
        }
    }

    private func onThread<Value: Sendable>(
        _ body: @escaping @Sendable () throws(ObjectStoreError) -> Value
    ) async throws(ObjectStoreError) -> Value {
        let result: Result<Value, ObjectStoreError>
        do {
            result = try await NIOThreadPool.singleton.runIfActive {
                Result { () throws(ObjectStoreError) in try body() }
            }
        } catch {
            throw .unavailable("the task was cancelled")
        }
        return try result.get()
    }
}
