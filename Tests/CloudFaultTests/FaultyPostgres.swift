import Database
import Foundation
import Glibc
import TestSupport

/// A server of its own for faults that hit all of it.
struct FaultyPostgres: Sendable {
    let cluster: PostgresCluster

    /// - Parameter options: more for `initdb`.
    static func start(_ options: [String] = []) async throws -> FaultyPostgres {
        let cluster = try await blocking { () throws in
            let cluster = try PostgresCluster.make(options)
            try cluster.start()
            return cluster
        }
        return FaultyPostgres(cluster: cluster)
    }

    func stop(_ signal: Int32 = SIGINT) async throws { try await blocking { cluster.stop(signal: signal) } }

    /// A server that was killed may have left processes and a lock file that keep the first attempts from starting.
    func startAgain() async throws {
        let deadline = ContinuousClock.now + .seconds(30)
        while true {
            do {
                return try await blocking { try cluster.start() }
            } catch {
                guard ContinuousClock.now < deadline else { throw error }
                try await Task.sleep(for: .milliseconds(200))
            }
        }
    }

    /// After a panic the server recovers by itself, or ends because it cannot.
    func recover() async throws {
        try await eventually("the server has recovered", within: 30) {
            guard let main = postmaster, kill(main, 0) == 0 else {
                try await startAgain()
                return true
            }
            return (try? await Bench.run("SELECT 1", cluster.url)) != nil
        }
    }

    /// What the server has said.
    var log: String { (try? String(contentsOfFile: (cluster.folder ?? "") + "/log", encoding: .utf8)) ?? "" }

    /// Every process of the server at once, as when its machine hangs: the kernel goes on acknowledging.
    func freeze() {
        guard let main = postmaster else { return }
        kill(main, SIGSTOP)
        for child in children(of: main) { kill(child, SIGSTOP) }
    }

    func thaw() {
        guard let main = postmaster else { return }
        for child in children(of: main) { kill(child, SIGCONT) }
        kill(main, SIGCONT)
    }

    private var postmaster: pid_t? {
        guard let folder = cluster.folder,
            let lines = try? String(contentsOfFile: "\(folder)/data/postmaster.pid", encoding: .utf8)
        else { return nil }
        return pid_t(lines.prefix { $0 != "\n" })
    }

    private func children(of parent: pid_t) -> [pid_t] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { pid_t($0) }.filter { pid in
            guard let stat = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8),
                // After the name, which may hold anything: state, then the parent.
                let end = stat.lastIndex(of: ")")
            else { return false }
            return stat[end...].split(separator: " ").dropFirst(2).first.flatMap { pid_t($0) } == parent
        }
    }
}

extension Bench {
    /// Cuts the processors' connections once.
    func cutConnections() async throws {
        try await run(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = 'sluice-processor' AND datname = current_database()
            """)
    }

    /// The administration database of the same server, as a superuser.
    static func administration(_ cluster: PostgresCluster, _ sql: [String]) async throws {
        for statement in sql { try await run(statement, cluster.url) }
    }

    var databaseName: String {
        URLComponents(string: database)?.path.split(separator: "/").last.map { String($0) } ?? ""
    }
}
