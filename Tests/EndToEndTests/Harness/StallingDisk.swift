import Foundation

/// A disk whose fsync does not come back while a test says so: a library that is loaded into the daemon in front of libc.
final class StallingDisk: Sendable {
    private let folder: URL
    private var stallFile: String { folder.path + "/stall" }
    private var heldFile: String { folder.path + "/held" }

    private static let source = """
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <stdlib.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static void stall(void) {
            const char *file = getenv("STALL_FILE"), *held = getenv("STALL_HELD");
            if (!file || !held || access(file, F_OK) != 0) return;
            close(open(held, O_CREAT | O_WRONLY, 0644));
            while (access(file, F_OK) == 0) usleep(2000);
        }
        int fsync(int fd) { stall(); return syscall(SYS_fsync, fd); }
        int fdatasync(int fd) { stall(); return syscall(SYS_fdatasync, fd); }
        """

    init() async throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-stall-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        // Swift's own compiler of C is wherever Swift is.
        let result = try await run(
            "clang", ["-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", folder.path + "/stall.so"],
            input: Array(Self.source.utf8))
        guard result.status == 0 else { throw ChildProcess.Failure(description: "clang: \(result.output)") }
    }

    deinit { try? FileManager.default.removeItem(at: folder) }

    /// For the daemon.
    var environment: [String: String] {
        ["LD_PRELOAD": folder.path + "/stall.so", "STALL_FILE": stallFile, "STALL_HELD": heldFile]
    }

    /// From now on no fsync comes back.
    func stall() throws {
        try? FileManager.default.removeItem(atPath: heldFile)
        try Data().write(to: URL(fileURLWithPath: stallFile))
    }

    /// An fsync has been called and does not come back.
    func holdsOne() async throws {
        _ = try await eventually("an fsync stalls", within: 10) {
            FileManager.default.fileExists(atPath: heldFile) ? true : nil
        }
    }

    func release() throws { try FileManager.default.removeItem(atPath: stallFile) }
}
