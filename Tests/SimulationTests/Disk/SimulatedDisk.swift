import Flow
import Glibc

@testable import Buffer

/// A directory of real files of which it is known what a power cut would leave.
///
/// Reads and writes go to the files, as through a kernel's cache. Beside them stand each file's durable contents: those of
/// its last sync. `cutPower` makes an image of the directory in which each sector that was written since then is old, new
/// or torn, and from then on every call fails, until `restore` has put the image into the directory's place.
///
/// Files are known by their inodes, so that renames need not be seen. What the buffer writes without SQLite (marks, moves)
/// is fsynced there and then, and counts as durable.
///
/// `@unchecked Sendable`: a simulation is one thread; the buffer's configuration wants closures that may be sent.
final class SimulatedDisk: @unchecked Sendable {
    /// By chance, as parts of a thousand calls.
    struct FaultRates {
        var write = 0
        var sync = 0
        var read = 0
    }

    let directory: String
    var random: SplitMix64
    var faults = FaultRates()
    /// Bytes that all files may have together; `nil`: no bound.
    var budget: Int?
    /// Power is cut at this write, sync, truncation or deletion, counted from now on.
    var callsUntilCut: Int?
    /// The same for changes that the buffer makes without SQLite: marks and moves.
    var changesUntilCut: Int?
    /// Bytes that are set aside.
    private(set) var reserved = 0
    private(set) var isDead = false
    /// So that a salvage may find a log without a header.
    private(set) var hasTornHeader = false
    private(set) var cuts = 0
    private var files: [UInt64: DiskFile] = [:]
    /// Deletions whose directory was not synced.
    private var deleted: [String: DiskFile] = [:]
    /// What the next `restore` finds; by name.
    var image: [String: [UInt8]] = [:]

    init(directory: String, seed: UInt64) {
        self.directory = directory
        random = SplitMix64(seed: seed)
    }

    func chance(_ perThousand: Int) -> Bool {
        perThousand > 0 && Int.random(in: 0..<1_000, using: &random) < perThousand
    }

    // MARK: Calls

    /// The file that SQLite has just opened.
    func opened(_ path: String, wasThere: Bool) -> DiskFile {
        var status = stat()
        guard stat(path, &status) == 0 else { return DiskFile(contents: [], isEntryDurable: true) }
        let inode = UInt64(status.st_ino)
        if let file = files[inode], file.size == Int(status.st_size), file.links > 0 || wasThere {
            file.links += 1
            file.isRebuild = path.hasSuffix(".rebuild")
            return file
        }
        let file = DiskFile(contents: Self.contents(path), isEntryDurable: wasThere)
        file.links = 1
        file.isRebuild = path.hasSuffix(".rebuild")
        files[inode] = file
        return file
    }

    func closed(_ file: DiskFile) {
        file.links -= 1
        // The buffer fsyncs what it rebuilt after SQLite has closed it.
        if file.isRebuild, !isDead { file.sync() }
    }

    /// - Returns: false for a call that the power cut has prevented; a write may have reached the disk in part.
    func survives(_ change: () -> Void) -> Bool {
        guard !isDead else { return false }
        guard let left = callsUntilCut else { return true }
        callsUntilCut = left - 1
        guard left <= 1 else { return true }
        change()
        cutPower()
        return false
    }

    /// A mark or a move of the buffer's.
    func changes() throws(BufferError) {
        if let left = changesUntilCut {
            changesUntilCut = left - 1
            if left <= 1 { cutPower() }
        }
        guard survives({}) else { throw .io("the power is gone") }
    }

    // MARK: Room

    func hasRoom(for file: DiskFile, end: Int) -> Bool {
        guard budget != nil, end > file.size else { return true }
        return end - file.size <= free
    }

    private var free: Int {
        budget.map { $0 - reserved - files.values.reduce(0) { $0 + ($1.links > 0 ? $1.size : 0) } } ?? .max
    }

    /// As the buffer sees it.
    var space: DiskSpace {
        DiskSpace(
            freeBytes: { _ in Int64(max(0, self.free)) },
            freePercent: { _ in self.budget.map { 100 * Double(max(0, self.free)) / Double($0) } ?? 100 },
            allocated: { _ in self.reserved },
            allocate: { _, bytes in
                let isThere = self.free == .max || self.free + self.reserved >= bytes
                self.reserved = isThere ? bytes : 0
                return isThere
            },
            release: { _ in self.reserved = 0 })
    }

    /// Looks at files without faults, and without being counted.
    func quietly<Value>(_ body: () -> Value) -> Value {
        let (faults, calls) = (faults, callsUntilCut)
        (self.faults, callsUntilCut) = (FaultRates(), nil)
        defer { (self.faults, callsUntilCut) = (faults, calls) }
        return body()
    }

    /// With a new file its directory is synced (SQLite's os_unix.c, `UNIXFILE_DIRSYNC`), and with that all other names in it.
    func sync(_ file: DiskFile) {
        if !file.isEntryDurable {
            deleted = [:]
            for other in files.values { other.isEntryDurable = true }
        }
        file.sync()
    }

    func syncFailed(_ file: DiskFile) {
        file.loseCleanly(using: &random)
    }

    func removed(_ path: String, inode: UInt64, isDurable: Bool) {
        guard let file = files.removeValue(forKey: inode) else { return }
        let name = Self.name(of: path)
        deleted[name] = isDurable ? nil : file
    }

    // MARK: Power

    func cutPower() {
        guard !isDead else { return }
        isDead = true
        cuts += 1
        callsUntilCut = nil
        changesUntilCut = nil
        image = [:]
        for name in Self.names(in: directory) {
            let path = directory + "/" + name
            var status = stat()
            guard stat(path, &status) == 0 else { continue }
            guard let file = files[UInt64(status.st_ino)] else {
                image[name] = Self.contents(path)
                continue
            }
            guard file.isEntryDurable || Bool.random(using: &random) else { continue }
            image[name] = file.survivor(using: &random).array
            hasTornHeader = hasTornHeader || file.hasTornHeader
        }
        for name in deleted.keys.sorted() where image[name] == nil && Bool.random(using: &random) {
            image[name] = deleted[name]?.survivor(using: &random).array
        }
    }

    /// What runs fails from now on, as a process that is killed; the files stay as the kernel has them.
    func freeze() { isDead = true }

    func thaw() {
        isDead = false
        for file in files.values { file.links = 0 }
    }

    /// The machine is on again.
    func restore() {
        for name in Self.names(in: directory) { unlink(directory + "/" + name) }
        for (name, bytes) in image { Self.write(bytes, to: directory + "/" + name) }
        image = [:]
        files = [:]
        deleted = [:]
        isDead = false
    }

    // MARK: Files

    static func names(in directory: String) -> [String] {
        guard let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    static func contents(_ path: String) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return [] }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { return [] }
        return [UInt8](unsafeUninitializedCapacity: Int(status.st_size)) { buffer, count in
            count = max(0, pread(descriptor, buffer.baseAddress, buffer.count, 0))
        }
    }

    static func write(_ bytes: [UInt8], to path: String) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        _ = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
    }

    private static func name(of path: String) -> String {
        path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
    }
}
