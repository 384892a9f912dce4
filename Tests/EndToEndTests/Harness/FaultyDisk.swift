import Foundation

/// A disk with faults that a test switches on and off: a library that is loaded into the daemon in front of libc. Only files
/// of the buffer are concerned.
final class FaultyDisk: Sendable {
    /// The name of a file that switches the fault on.
    enum Fault: String, CaseIterable {
        /// fsync does not come back.
        case stall
        /// fsync fails with EIO.
        case failingSync = "fail-sync"
        /// Writing fails with EIO.
        case failingWrite = "fail-write"
        /// Writing fails as on a file system that was remounted read-only.
        case readOnly = "read-only"
        /// A page of the database cannot be read: `begin(reading:at:times:)`.
        case failingRead = "fail-read"
    }

    private let folder: URL
    private var heldFile: String { folder.path + "/held" }

    private static let source = """
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <errno.h>
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/stat.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static int is_on(const char *fault) {
            char path[4096];
            const char *folder = getenv("FAULT_FOLDER");
            if (!folder) return 0;
            snprintf(path, sizeof path, "%s/%s", folder, fault);
            return access(path, F_OK) == 0;
        }
        static int is_buffer(int fd) {
            char link[64], path[4096];
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t length = readlink(link, path, sizeof path - 1);
            if (length < 0) return 0;
            path[length] = 0;
            return strstr(path, "buffer.db") != NULL;
        }
        static int sync_fault(int fd) {
            if (!is_buffer(fd)) return 0;
            if (is_on("stall")) {
                char held[4096];
                snprintf(held, sizeof held, "%s/held", getenv("FAULT_FOLDER"));
                close(open(held, O_CREAT | O_WRONLY, 0644));
                while (is_on("stall")) usleep(2000);
            }
            return is_on("fail-sync") ? EIO : 0;
        }
        static int write_fault(int fd) {
            if (!is_buffer(fd)) return 0;
            return is_on("fail-write") ? EIO : is_on("read-only") ? EROFS : 0;
        }
        static int read_fault(int fd, size_t n, off_t o) {
            if (!is_buffer(fd) || !is_on("fail-read")) return 0;
            char link[64], path[4096];
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t length = readlink(link, path, sizeof path - 1);
            if (length < 9 || strncmp(path + length - 9, "buffer.db", 9)) return 0;
            snprintf(path, sizeof path, "%s/fail-read", getenv("FAULT_FOLDER"));
            FILE *file = fopen(path, "r+");
            long place = 0, times = 0;
            unsigned long inode = 0;
            struct stat status;
            int hits = file && fscanf(file, "%lu %ld %ld", &inode, &place, &times) == 3 && times != 0
                && o < place + 4096 && (off_t)(o + n) > place && !fstat(fd, &status) && status.st_ino == inode;
            if (hits) { rewind(file); fprintf(file, "%lu %ld %ld      ", inode, place, times - 1); }
            if (file) fclose(file);
            return hits ? EIO : 0;
        }
        int fsync(int fd) { int e = sync_fault(fd); if (e) { errno = e; return -1; } return syscall(SYS_fsync, fd); }
        int fdatasync(int fd) { int e = sync_fault(fd); if (e) { errno = e; return -1; } return syscall(SYS_fdatasync, fd); }
        ssize_t pwrite(int fd, const void *b, size_t n, off_t o) {
            int e = write_fault(fd); if (e) { errno = e; return -1; }
            return syscall(SYS_pwrite64, fd, b, n, o);
        }
        ssize_t pread(int fd, void *b, size_t n, off_t o) {
            int e = read_fault(fd, n, o); if (e) { errno = e; return -1; }
            return syscall(SYS_pread64, fd, b, n, o);
        }
        ssize_t pread64(int fd, void *b, size_t n, off64_t o) { return pread(fd, b, n, o); }
        ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { return pwrite(fd, b, n, o); }
        """

    init() async throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-faults-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        // Swift's own compiler of C is wherever Swift is.
        let result = try await run(
            "clang", ["-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", folder.path + "/faults.so"],
            input: Array(Self.source.utf8))
        guard result.status == 0 else { throw ChildProcess.Failure(description: "clang: \(result.output)") }
    }

    deinit { try? FileManager.default.removeItem(at: folder) }

    /// For the daemon.
    var environment: [String: String] {
        ["LD_PRELOAD": folder.path + "/faults.so", "FAULT_FOLDER": folder.path]
    }

    func begin(_ fault: Fault) throws {
        try? FileManager.default.removeItem(atPath: heldFile)
        try Data().write(to: folder.appendingPathComponent(fault.rawValue))
    }

    /// The page at an offset of this database cannot be read; another file in its place can.
    ///
    /// - Parameter times: so often; below 0: always.
    func begin(reading database: String, at offset: Int, times: Int) throws {
        let attributes = try FileManager.default.attributesOfItem(atPath: database)
        let inode = (attributes[.systemFileNumber] as? Int) ?? 0
        try Data("\(inode) \(offset) \(times)".utf8).write(
            to: folder.appendingPathComponent(Fault.failingRead.rawValue))
    }

    /// How often the page is still to fail.
    func readsToFail() throws -> Int? {
        let text = try String(
            contentsOf: folder.appendingPathComponent(Fault.failingRead.rawValue), encoding: .utf8)
        return text.split(separator: " ").last.flatMap { Int($0) }
    }

    func end(_ fault: Fault) throws {
        try FileManager.default.removeItem(at: folder.appendingPathComponent(fault.rawValue))
    }

    /// An fsync has been called and does not come back.
    func holdsOne() async throws {
        _ = try await eventually("an fsync stalls", within: 10) {
            FileManager.default.fileExists(atPath: heldFile) ? true : nil
        }
    }
}
