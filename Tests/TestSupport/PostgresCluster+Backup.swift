import Foundation
import Glibc

extension PostgresCluster {
    /// A base backup beside the cluster, of which it can be set back; only of a cluster that `make` has made.
    package func backUp(_ name: String) throws(Failure) {
        guard let folder else { throw Failure(description: "not our cluster") }
        try Self.execute("pg_basebackup", ["-D", "\(folder)/\(name)", "-d", url, "-X", "stream", "-c", "fast"])
    }

    /// Stops the server, puts the backup in the place of its data, and starts it.
    ///
    /// - Parameter asNewTimeline: as a recovery to a point in time ends; else as a copy of the disk comes back.
    package func restore(_ name: String, asNewTimeline: Bool) throws(Failure) {
        guard let folder else { throw Failure(description: "not our cluster") }
        stop()
        do {
            try FileManager.default.moveItem(atPath: "\(folder)/data", toPath: "\(folder)/\(name)-before")
            try FileManager.default.moveItem(atPath: "\(folder)/\(name)", toPath: "\(folder)/data")
            if asNewTimeline {
                let settings = "\(folder)/data/postgresql.auto.conf"
                let text = try String(contentsOfFile: settings, encoding: .utf8) + "restore_command = 'false'\n"
                // Written where it is, so that it stays the server's.
                guard let file = FileHandle(forWritingAtPath: settings) else {
                    throw Failure(description: "\(settings) cannot be written")
                }
                try file.write(contentsOf: Data(text.utf8))
                try file.close()
                let signal = "\(folder)/data/recovery.signal"
                try Data().write(to: URL(fileURLWithPath: signal))
                if let user = getpwnam("postgres") { chown(signal, user.pointee.pw_uid, user.pointee.pw_gid) }
            }
        } catch { throw Failure(description: "\(folder): \(error)") }
        try start()
    }
}
