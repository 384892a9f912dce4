import CSQLite
import Glibc

/// SQLite's way to a `SimulatedDisk`: a VFS of its own for each disk, over the default one (sqlite.org/vfs.html).
///
/// One thread uses it, and it lives longer than every connection that was opened over it.
final class DiskVFS {
    let name: String
    private let disk: SimulatedDisk
    private let vfs: UnsafeMutablePointer<sqlite3_vfs>
    private let cName: UnsafeMutablePointer<CChar>

    init(_ disk: SimulatedDisk, name: String) {
        self.disk = disk
        self.name = name
        let base = sqlite3_vfs_find(nil)!
        vfs = .allocate(capacity: 1)
        cName = strdup(name)
        vfs.initialize(to: base.pointee)
        vfs.pointee.iVersion = 2
        vfs.pointee.szOsFile = Int32(OpenFile.size) + base.pointee.szOsFile
        vfs.pointee.pNext = nil
        vfs.pointee.zName = UnsafePointer(cName)
        vfs.pointee.pAppData = Unmanaged.passUnretained(disk).toOpaque()
        vfs.pointee.xOpen = { vfs, path, file, flags, outFlags in
            OpenFile.open(vfs, path, file, flags, outFlags)
        }
        vfs.pointee.xDelete = { vfs, path, isSynced in OpenFile.delete(vfs, path, isSynced) }
        sqlite3_vfs_register(vfs, 0)
    }

    deinit {
        sqlite3_vfs_unregister(vfs)
        vfs.deallocate()
        free(cName)
    }
}

/// The memory that SQLite gives a file: this, then the default VFS's own.
private struct OpenFile {
    var base: sqlite3_file
    /// Retained by `open`, released by `close`.
    var file: Unmanaged<DiskFile>
    /// Outlives the file, see `DiskVFS`.
    var disk: Unmanaged<SimulatedDisk>

    static var size: Int { (MemoryLayout<OpenFile>.size + 15) & ~15 }

    static func real(_ file: UnsafeMutablePointer<sqlite3_file>?) -> UnsafeMutablePointer<sqlite3_file> {
        (UnsafeMutableRawPointer(file!) + size).assumingMemoryBound(to: sqlite3_file.self)
    }

    static func both(_ file: UnsafeMutablePointer<sqlite3_file>?) -> (DiskFile, SimulatedDisk) {
        let open = UnsafeMutableRawPointer(file!).assumingMemoryBound(to: OpenFile.self)
        return (open.pointee.file.takeUnretainedValue(), open.pointee.disk.takeUnretainedValue())
    }

    static func error(_ kind: Int32) -> Int32 { SQLITE_IOERR | kind << 8 }
    static let (readError, writeError, syncError, truncateError, deleteError) =
        (error(1), error(3), error(4), error(6), error(10))

    static func open(
        _ vfs: UnsafeMutablePointer<sqlite3_vfs>?, _ path: UnsafePointer<CChar>?,
        _ file: UnsafeMutablePointer<sqlite3_file>?, _ flags: Int32, _ outFlags: UnsafeMutablePointer<Int32>?
    ) -> Int32 {
        let base = sqlite3_vfs_find(nil)!
        // Temporary files are none of the disk's.
        guard let path else { return base.pointee.xOpen(base, path, file, flags, outFlags) }
        file!.pointee.pMethods = nil
        let disk = Unmanaged<SimulatedDisk>.fromOpaque(vfs!.pointee.pAppData)
        guard !disk.takeUnretainedValue().isDead else { return SQLITE_CANTOPEN }
        let wasThere = access(path, F_OK) == 0
        let code = base.pointee.xOpen(base, path, real(file), flags, outFlags)
        guard code == SQLITE_OK else { return code }
        let known = disk.takeUnretainedValue().opened(String(cString: path), wasThere: wasThere)
        UnsafeMutableRawPointer(file!).initializeMemory(
            as: OpenFile.self,
            to: OpenFile(
                base: sqlite3_file(pMethods: methods), file: Unmanaged.passRetained(known), disk: disk))
        return SQLITE_OK
    }

    static func delete(
        _ vfs: UnsafeMutablePointer<sqlite3_vfs>?, _ path: UnsafePointer<CChar>?, _ isSynced: Int32
    ) -> Int32 {
        let base = sqlite3_vfs_find(nil)!
        let disk = Unmanaged<SimulatedDisk>.fromOpaque(vfs!.pointee.pAppData).takeUnretainedValue()
        var status = stat()
        let isThere = stat(path!, &status) == 0
        guard disk.survives({}) else { return deleteError }
        let code = base.pointee.xDelete(base, path, 0)
        if code == SQLITE_OK, isThere {
            disk.removed(String(cString: path!), inode: UInt64(status.st_ino), isDurable: isSynced != 0)
        }
        return code
    }

    /// Version 1: without shared memory, which a connection in exclusive locking mode does not use.
    ///
    /// Unsafe in name only: it is written once, here, and read afterwards.
    private nonisolated(unsafe) static let methods: UnsafePointer<sqlite3_io_methods> = {
        let methods = UnsafeMutablePointer<sqlite3_io_methods>.allocate(capacity: 1)
        methods.initialize(to: sqlite3_io_methods())
        methods.pointee.iVersion = 1
        methods.pointee.xClose = { file in
            let (known, disk) = OpenFile.both(file)
            disk.closed(known)
            let real = OpenFile.real(file)
            let code = real.pointee.pMethods.pointee.xClose(real)
            Unmanaged.passUnretained(known).release()
            return code
        }
        methods.pointee.xRead = { file, buffer, count, offset in
            let (_, disk) = OpenFile.both(file)
            guard !disk.isDead, !disk.chance(disk.faults.read) else { return OpenFile.readError }
            let real = OpenFile.real(file)
            return real.pointee.pMethods.pointee.xRead(real, buffer, count, offset)
        }
        methods.pointee.xWrite = { file, buffer, count, offset in
            OpenFile.write(file, UnsafeRawBufferPointer(start: buffer, count: Int(count)), at: offset)
        }
        methods.pointee.xTruncate = { file, count in
            let (known, disk) = OpenFile.both(file)
            guard disk.survives({ known.truncate(to: Int(count)) }), !disk.chance(disk.faults.write) else {
                return OpenFile.truncateError
            }
            known.truncate(to: Int(count))
            let real = OpenFile.real(file)
            return real.pointee.pMethods.pointee.xTruncate(real, count)
        }
        methods.pointee.xSync = { file, _ in
            let (known, disk) = OpenFile.both(file)
            guard disk.survives({}) else { return OpenFile.syncError }
            guard !disk.chance(disk.faults.sync) else {
                disk.syncFailed(known)
                return OpenFile.syncError
            }
            disk.sync(known)
            return SQLITE_OK
        }
        methods.pointee.xFileSize = { file, size in
            let real = OpenFile.real(file)
            return real.pointee.pMethods.pointee.xFileSize(real, size)
        }
        methods.pointee.xLock = { file, level in
            let real = OpenFile.real(file)
            return real.pointee.pMethods.pointee.xLock(real, level)
        }
        methods.pointee.xUnlock = { file, level in
            let real = OpenFile.real(file)
            return real.pointee.pMethods.pointee.xUnlock(real, level)
        }
        methods.pointee.xCheckReservedLock = { file, result in
            let real = OpenFile.real(file)
            return real.pointee.pMethods.pointee.xCheckReservedLock(real, result)
        }
        methods.pointee.xFileControl = { file, operation, argument in
            // Hints that would let the default VFS write past this one.
            if operation == SQLITE_FCNTL_SIZE_HINT || operation == SQLITE_FCNTL_CHUNK_SIZE { return SQLITE_OK }
            let real = OpenFile.real(file)
            return real.pointee.pMethods.pointee.xFileControl(real, operation, argument)
        }
        methods.pointee.xSectorSize = { file in
            let real = OpenFile.real(file)
            return real.pointee.pMethods.pointee.xSectorSize(real)
        }
        methods.pointee.xDeviceCharacteristics = { file in
            let real = OpenFile.real(file)
            return real.pointee.pMethods.pointee.xDeviceCharacteristics(real)
        }
        return UnsafePointer(methods)
    }()

    private static func copy(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: bytes.count) { buffer, count in
            count = bytes.count
            if let to = buffer.baseAddress, let from = bytes.baseAddress { memcpy(to, from, count) }
        }
    }

    private static func write(
        _ file: UnsafeMutablePointer<sqlite3_file>?, _ bytes: UnsafeRawBufferPointer, at offset: Int64
    ) -> Int32 {
        let (known, disk) = both(file)
        guard disk.survives({ known.write(copy(bytes), at: Int(offset)) }), !disk.chance(disk.faults.write) else {
            return writeError
        }
        guard disk.hasRoom(for: known, end: Int(offset) + bytes.count) else { return SQLITE_FULL }
        let real = real(file)
        let code = real.pointee.pMethods.pointee.xWrite(real, bytes.baseAddress, Int32(bytes.count), offset)
        if code == SQLITE_OK { known.write(copy(bytes), at: Int(offset)) }
        return code
    }
}
