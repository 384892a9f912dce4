import Foundation
import Glibc

/// A real PostgreSQL for tests: `SLUICE_TEST_DATABASE` where it is set (a URL whose user may create databases), else a
/// private cluster in a temporary folder, one a test process, ended by its pid when the process ends.
package struct PostgresCluster: Sendable {
    package struct Failure: Error, CustomStringConvertible {
        package let description: String
    }

    /// Of the cluster's administration database.
    package let url: String
    /// `nil` where the server is not ours.
    package let folder: String?
    package let port: Int

    /// The one of this process.
    package static func shared() throws -> PostgresCluster { try instance.get() }

    /// The same, but never one of `SLUICE_TEST_DATABASE`: that one is then the caller's own.
    package static func local() throws -> PostgresCluster {
        let cluster = try shared()
        if cluster.folder != nil { return cluster }
        let own = try make()
        try own.start()
        return own
    }

    private static let instance: Result<PostgresCluster, Failure> = Result { () throws(Failure) in
        if let url = ProcessInfo.processInfo.environment["SLUICE_TEST_DATABASE"] {
            return PostgresCluster(url: url, folder: nil, port: 0)
        }
        let cluster = try make()
        try cluster.start()
        return cluster
    }

    /// A cluster of its own that the caller starts, stops and removes.
    ///
    /// - Parameter options: more for `initdb`.
    package static func make(_ options: [String] = []) throws(Failure) -> PostgresCluster {
        let folder = NSTemporaryDirectory() + "sluice-pg-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        do {
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        } catch { throw Failure(description: "\(folder): \(error)") }
        if getuid() == 0 {
            guard let user = getpwnam("postgres") else {
                throw Failure(description: "PostgreSQL refuses root, and there is no user postgres: install postgresql")
            }
            chown(folder, user.pointee.pw_uid, user.pointee.pw_gid)
        }
        let port = try freePort()
        try execute(
            "initdb",
            ["-D", "\(folder)/data", "-U", "sluice", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"] + options)
        try watch(folder: folder)
        return PostgresCluster(
            url: "postgres://sluice@127.0.0.1:\(port)/postgres?sslmode=disable", folder: folder, port: port)
    }

    package func start() throws(Failure) {
        guard let folder else { return }
        try Self.execute(
            "pg_ctl",
            [
                "-D", "\(folder)/data", "-l", "\(folder)/log", "-w", "-t", "60", "-s",
                "-o", Self.options(folder: folder, port: port), "start",
            ])
    }

    private static func options(folder: String, port: Int) -> String {
        "-c listen_addresses=127.0.0.1 -c port=\(port) -c unix_socket_directories=\(folder) -c fsync=off "
            + "-c max_connections=300 -c full_page_writes=off"
    }

    /// SIGINT: fast shutdown, connections are cut. SIGQUIT: at once, as after a crash.
    package func stop(signal: Int32 = SIGINT) {
        guard let folder,
            let lines = try? String(contentsOfFile: "\(folder)/data/postmaster.pid", encoding: .utf8),
            let pid = pid_t(lines.prefix { $0 != "\n" })
        else { return }
        kill(pid, signal)
        for _ in 0..<1_000 where kill(pid, 0) == 0 { usleep(10_000) }
    }

    /// A fresh, empty database.
    package func makeDatabase() throws(Failure) -> String {
        let name = "t_\(getpid())_\(UInt64.random(in: 0...UInt64.max))"
        try Self.execute("psql", ["-X", "-q", "-d", url, "-c", "CREATE DATABASE \(name)"])
        guard var parts = URLComponents(string: url) else { throw Failure(description: "\(url) is no URL") }
        parts.path = "/\(name)"
        return parts.string ?? url
    }

    /// Binaries of `SLUICE_POSTGRES_BIN`, Debian's newest version, or the search path.
    private static let binaries: String = {
        if let given = ProcessInfo.processInfo.environment["SLUICE_POSTGRES_BIN"] { return given + "/" }
        let root = "/usr/lib/postgresql"
        let versions = ((try? FileManager.default.contentsOfDirectory(atPath: root)) ?? []).compactMap { Int($0) }
        return versions.max().map { "\(root)/\($0)/bin/" } ?? ""
    }()

    /// Starts a shell that waits until this process has ended, however it ended: the kernel closes the pipe then. It
    /// stops the server and removes the folder.
    private static func watch(folder: String) throws(Failure) {
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else { throw Failure(description: "pipe: \(errno)") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        defer { close(ends[0]) }
        let script = """
            trap '' INT TERM; read -r _; cd "$0" || exit
            pid=$(head -n 1 data/postmaster.pid 2>/dev/null)
            if [ -n "$pid" ]; then kill -QUIT "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done; fi
            cd / && rm -rf "$0"
            """
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[0], STDIN_FILENO)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0)
        let arguments: [String] = ["setsid", "sh", "-c", script, folder]
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
        defer { words.forEach { free($0) } }
        words.append(nil)
        var pid = pid_t()
        guard posix_spawnp(&pid, "setsid", &actions, nil, words, environ) == 0 else {
            throw Failure(description: "setsid cannot be started")
        }
    }

    /// Not Foundation's `Process`: it waits until every descendant has ended, so for the server that pg_ctl leaves.
    static func execute(_ program: String, _ arguments: [String]) throws(Failure) {
        let dropsRights = program != "psql" && getuid() == 0
        let drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        // Not the caller's folder: the server's user may not enter it.
        let command = ["env", "-C", "/tmp"] + (dropsRights ? drop : []) + [binaries + program] + arguments
        let output = NSTemporaryDirectory() + "sluice-\(program)-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        defer { unlink(output) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        var words: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) }
        defer { words.forEach { free($0) } }
        words.append(nil)
        var pid = pid_t()
        let code = posix_spawnp(&pid, command[0], &actions, nil, words, environ)
        guard code == 0 else { throw Failure(description: "\(command[0]): \(String(cString: strerror(code)))") }
        var status: Int32 = 0
        while waitpid(pid, &status, 0) == -1 && errno == EINTR {}
        guard status == 0 else {
            let text = (try? String(contentsOfFile: output, encoding: .utf8)) ?? ""
            throw Failure(description: "\(command.joined(separator: " ")): \(text)")
        }
    }

    private static func freePort() throws(Failure) -> Int {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let port = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                bind(descriptor, generic, length) == 0 && getsockname(descriptor, generic, &length) == 0
            }
        }
        guard port else { throw Failure(description: "no free port on 127.0.0.1") }
        return Int(UInt16(bigEndian: address.sin_port))
    }
}
