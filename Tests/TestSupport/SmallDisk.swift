import Foundation
import Glibc

/// A file system of a few megabytes in memory. It needs the right to mount: root's, or sudo without a password.
package final class SmallDisk: Sendable {
    package let path: String

    /// Whether this user may mount.
    package static let isPossible: Bool = geteuid() == 0 || succeeds(["sudo", "-n", "true"])

    package init(bytes: Int) throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-disk-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        let options = "size=\(bytes),mode=0700,uid=\(geteuid()),gid=\(getegid())"
        guard Self.privileged(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path]) else {
            throw CocoaError(.fileWriteUnknown)
        }
    }

    deinit {
        _ = Self.privileged(["umount", "-l", path])
        try? FileManager.default.removeItem(atPath: path)
    }

    /// A folder on it that PostgreSQL's server may write to, which refuses to run as root.
    package func folderOfPostgres(_ name: String) throws -> String {
        let folder = path + "/" + name
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        chmod(path, 0o755)
        if getuid() == 0 {
            guard let user = getpwnam("postgres") else { throw CocoaError(.fileWriteNoPermission) }
            chown(folder, user.pointee.pw_uid, user.pointee.pw_gid)
        }
        return folder
    }

    /// Takes every byte that is free; `false` when nothing was.
    @discardableResult
    package func fill() throws -> Bool {
        let descriptor = open(filler, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw CocoaError(.fileWriteUnknown) }
        defer { close(descriptor) }
        let page = [UInt8](repeating: 0, count: 4_096)
        var taken = 0
        while write(descriptor, page, page.count) > 0 { taken += 1 }
        return taken > 0
    }

    /// Gives it back.
    package func free() throws { try FileManager.default.removeItem(atPath: filler) }

    package func remount(readOnly: Bool) -> Bool {
        Self.privileged(["mount", "-o", "remount,\(readOnly ? "ro" : "rw")", path])
    }

    private var filler: String { path + "/filler" }

    private static func privileged(_ command: [String]) -> Bool {
        succeeds(geteuid() == 0 ? command : ["sudo", "-n"] + command)
    }

    private static func succeeds(_ command: [String]) -> Bool {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = command
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        do { try process.run() } catch { return false }
        process.waitUntilExit()
        return process.terminationStatus == 0
    }
}
