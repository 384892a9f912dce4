import Foundation
import Glibc
import Testing

/// A whole installation in a temporary folder: PKI, database, `sluice-cloud` and `sluice-edge` as real processes.
actor Cluster {
    struct Options: Sendable {
        var gateway = "plant-7"
        var devices: [String] = []
        /// YAML of the edge's `limits` and `groups`, at the first level.
        var limits = """
            limits: { global: { connectionsPerSecond: unlimited } }
            groups:
              - { name: fleet, devices: ["*"], limits: { messagesPerSecond: unlimited, bytesPerSecond: unlimited } }
            """
        /// A cluster of its own that can be stopped, by scripts/postgres.sh, rather than a database in the shared one.
        var ownsPostgres = false
        /// The edge's buffer, if not in the cluster's folder.
        var buffer: String?
        /// A line of YAML for the edge's `uplink`.
        var uplink = "topics: [\"#\"]"
        /// YAML of the cloud's `eventLog`, if not the embedded one.
        var eventLog: String?
        /// Between the edge and the cloud there is a bad link of this seed.
        var badLink: UInt64?
        /// Variables that the edge gets beside those of the test.
        var edgeEnvironment: [String: String] = [:]
    }

    nonisolated let folder: URL
    nonisolated let options: Options
    nonisolated let mqttPort: Int
    nonisolated let plaintextPort: Int
    nonisolated let syncPort: Int
    nonisolated let edgeStatus: Int
    nonisolated let cloudStatus: Int
    nonisolated let database: String
    nonisolated let link: BadLink?
    private var edge: ChildProcess?
    private var cloud: ChildProcess?

    nonisolated var pki: String { folder.path + "/pki" }
    nonisolated var journal: String { folder.path + "/journal" }
    nonisolated var postgres: String { folder.path + "/postgres" }
    nonisolated var buffer: String { options.buffer ?? folder.path + "/edge/buffer.db" }
    nonisolated var edgeConfiguration: URL { folder.appendingPathComponent("edge.yaml") }
    nonisolated var cloudConfiguration: URL { folder.appendingPathComponent("cloud.yaml") }

    /// Makes everything but starts no daemon.
    init(_ options: Options) async throws {
        self.options = options
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-e2e-\(UUID().uuidString)")
        for part in ["edge", "cloud"] {
            try FileManager.default.createDirectory(
                at: folder.appendingPathComponent(part), withIntermediateDirectories: true)
        }
        // PostgreSQL's user must get to its folder below.
        _ = chmod(folder.path, 0o755)
        let ports = try Ports.free(5)
        (mqttPort, plaintextPort, syncPort) = (ports[0], ports[1], ports[2])
        (edgeStatus, cloudStatus) = (ports[3], ports[4])
        var link: BadLink?
        if let seed = options.badLink { link = try await BadLink(to: syncPort, seed: seed) }
        self.link = link
        database = try await Self.makeDatabase(options, folder: folder)
        do {
            try await makePKI()
            try await Binaries.sluice("migrate", "up", "--database", database)
            try writeConfigurations()
        } catch {
            await remove(failed: true)
            throw error
        }
    }

    private static func makeDatabase(_ options: Options, folder: URL) async throws -> String {
        guard options.ownsPostgres else { return try await Postgres.database() }
        let place = folder.path + "/postgres"
        try await Postgres.script("init", place)
        return try await Postgres.script("url", place).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    private nonisolated func makePKI() async throws {
        try await Binaries.sluice("pki", "init", "--directory", pki)
        for server in ["edge", "cloud"] {
            try await Binaries.sluice(
                "pki", "server", server, "--dns", "localhost", "--ip", "127.0.0.1", "--directory", pki)
        }
        try await Binaries.sluice("pki", "gateway", options.gateway, "--directory", pki)
        if !options.devices.isEmpty {
            try await Binaries.sluice(["pki", "device"] + options.devices + ["--directory", pki])
        }
    }

    private nonisolated func writeConfigurations() throws {
        try """
        gateway: { id: \(options.gateway) }
        listeners:
          - address: 127.0.0.1
            port: \(mqttPort)
            tls:
              certificate: \(pki)/servers/edge.crt
              key: \(pki)/servers/edge.key
              clientCA: \(pki)/ca.crt
              crl: \(pki)/crl.pem
          - { address: 127.0.0.1, port: \(plaintextPort), plaintext: true }
        \(options.limits)
        access:
          - { allow: all, topic: "devices/%d/#" }
        buffer: { path: \(buffer), freeDiskFloor: 0% }
        uplink:
          url: https://localhost:\(link?.port ?? syncPort)
          certificate: \(pki)/gateways/\(options.gateway).crt
          key: \(pki)/gateways/\(options.gateway).key
          ca: \(pki)/ca.crt
          linger: 100ms
          # Tests do not wait for two minutes after a link has come back.
          longestPause: 2s
          \(options.uplink)
        status: { address: 127.0.0.1, port: \(edgeStatus) }
        """.write(to: edgeConfiguration, atomically: true, encoding: .utf8)
        try """
        listener:
          address: 127.0.0.1
          port: \(syncPort)
          tls:
            certificate: \(pki)/servers/cloud.crt
            key: \(pki)/servers/cloud.key
            clientCA: \(pki)/ca.crt
            crl: \(pki)/crl.pem
        eventLog: \(options.eventLog ?? "{ embedded: { path: \(folder.path)/cloud/log.db, partitions: 32 } }")
        database: { url: "\(database)" }
        # The breaker opens as it does everywhere; the tests do not wait half a minute for its probe.
        processor: { breaker: { openFor: 1s } }
        status: { address: 127.0.0.1, port: \(cloudStatus) }
        shutdown: { within: 30s, stateFile: \(folder.path)/cloud/shutdown }
        """.write(to: cloudConfiguration, atomically: true, encoding: .utf8)
    }

    // MARK: daemons

    func startEdge(waiting: Bool = true) async throws {
        let child = try ChildProcess(
            Binaries.path("sluice-edge"), ["--config", edgeConfiguration.path],
            environment: options.edgeEnvironment, output: folder.appendingPathComponent("edge.log"))
        edge = child
        if waiting { try await ready(child, port: edgeStatus) }
    }

    func startCloud(waiting: Bool = true) async throws {
        let child = try ChildProcess(
            Binaries.path("sluice-cloud"), ["--config", cloudConfiguration.path],
            output: folder.appendingPathComponent("cloud.log"))
        cloud = child
        if waiting { try await ready(child, port: cloudStatus) }
    }

    private nonisolated func ready(_ child: ChildProcess, port: Int) async throws {
        _ = try await eventually("\(child.name) is ready", within: 30) { () -> Bool? in
            if let status = child.status {
                throw ChildProcess.Failure(description: "\(child.name) ended with \(status): \(child.log.suffix(2000))")
            }
            return await Self.isReady(port: port) ? true : nil
        }
    }

    static func isReady(port: Int) async -> Bool {
        let result = try? await run(
            "curl", ["-fsS", "-m", "2", "-o", "/dev/null", "http://127.0.0.1:\(port)/health/ready"], within: 5)
        return result?.status == 0
    }

    /// Waits until the edge has ended by itself; gives its exit code.
    func edgeEnds(within seconds: Double) async throws -> Int32 { try await #require(edge).wait(seconds: seconds) }

    func killEdge() { edge?.kill() }
    func killCloud() { cloud?.kill() }
    func signalEdge(_ number: Int32) { edge?.signal(number) }

    /// SIGTERM, and the exit code.
    func stopEdge(within seconds: Double = 15) async throws -> Int32 {
        try await Self.stop(#require(edge), seconds)
    }

    func stopCloud(within seconds: Double = 15) async throws -> Int32 {
        try await Self.stop(#require(cloud), seconds)
    }

    private static func stop(_ child: ChildProcess, _ seconds: Double) async throws -> Int32 {
        child.signal(SIGTERM)
        return try await child.wait(seconds: seconds)
    }

    var edgeProcess: pid_t? { edge?.pid }
    var edgeIsRunning: Bool { edge?.status == nil && edge != nil }
    var cloudIsRunning: Bool { cloud?.status == nil && cloud != nil }

    nonisolated var edgeLog: String { log("edge.log") }
    nonisolated var cloudLog: String { log("cloud.log") }

    private nonisolated func log(_ name: String) -> String {
        (try? String(contentsOf: folder.appendingPathComponent(name), encoding: .utf8)) ?? ""
    }

    /// Waits for a line of the edge's log, written after the first `skipping` characters, that holds all the words.
    @discardableResult
    nonisolated func edgeLogs(_ words: String..., skipping: Int = 0) async throws -> Substring {
        try await eventually("the edge's log has a line with \(words)", within: 10) {
            edgeLog.dropFirst(skipping).split(separator: "\n").last { line in
                words.allSatisfy { line.range(of: $0, options: .caseInsensitive) != nil }
            }
        }
    }

    // MARK: what came of it

    /// The rows of a query, each with its columns.
    @discardableResult
    nonisolated func query(_ sql: String) async throws -> [[String]] {
        let result = try await run(
            "psql", ["-X", "-A", "-t", "-q", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
        guard result.status == 0 else { throw ChildProcess.Failure(description: "psql: \(result.output)") }
        return result.output.split(separator: "\n").map { $0.components(separatedBy: "\t") }
    }

    nonisolated func count(_ sql: String) async throws -> Int {
        Int(try await query(sql).first?.first ?? "") ?? -1
    }

    /// What the tables prove at this moment.
    ///
    /// - Parameter closed: demand that nothing is on its way either.
    nonisolated func audit(journal: Bool = true, closed: Bool = false) async throws -> AuditResult {
        var arguments = [
            "audit", "--database", database, "--buffer", buffer, "--wait", "0", "--json",
        ]
        if journal { arguments += ["--journal", self.journal] }
        if closed { arguments.append("--closed") }
        return try AuditResult(await run(Binaries.path("sluice"), arguments, within: 60))
    }

    /// Waits until the audit closes with nothing on its way; gives the last result in any case.
    nonisolated func settledAudit(journal: Bool = true, within seconds: Double) async throws -> AuditResult {
        let end = ContinuousClock.now + .seconds(seconds)
        while true {
            let result = try await audit(journal: journal, closed: true)
            if result.status == 0 || ContinuousClock.now >= end { return result }
            try await Task.sleep(for: .milliseconds(200))
        }
    }

    // MARK: end

    /// Ends all that was started, in order where it can be; prints the logs' ends when the test has failed.
    func remove(failed: Bool) async {
        for child in [edge, cloud].compactMap({ $0 }) where child.status == nil {
            child.signal(SIGTERM)
            let status = try? await child.wait(seconds: 12)
            if !failed { #expect(status == 0, "\(child.name) after SIGTERM: \(child.log.suffix(2000))") }
            child.kill()
        }
        await link?.close()
        if options.ownsPostgres { _ = try? await Postgres.script("remove", postgres) }
        if failed {
            for (name, text) in [("edge", edgeLog), ("cloud", cloudLog)] {
                print("--- the end of the \(name)'s log\n\(text.suffix(3000))")
            }
        }
        if ProcessInfo.processInfo.environment["SLUICE_TEST_KEEP"] == nil {
            try? FileManager.default.removeItem(at: folder)
        } else {
            print("kept: \(folder.path)")
        }
    }
}

/// What `sluice audit --json` said.
struct AuditResult: Sendable, CustomStringConvertible {
    let status: Int32
    let output: String
    private let numbers: [String: Int]

    init(_ result: ToolResult) throws {
        status = result.status
        output = result.output
        // What it tells people goes to the same file, around the JSON.
        let text = result.output
        let json = text.firstIndex(of: "{").flatMap { start in text.lastIndex(of: "}").map { text[start...$0] } }
        let object = json.flatMap { try? JSONSerialization.jsonObject(with: Data($0.utf8)) } as? [String: Any]
        numbers = (object ?? [:]).compactMapValues { ($0 as? NSNumber)?.intValue }
    }

    /// −1 where the audit does not say.
    subscript(key: String) -> Int { numbers[key] ?? -1 }

    var description: String { "exit \(status): \(output)" }
}

/// Runs a test with a cluster that is removed afterwards, whatever happens.
func withCluster(
    _ options: Cluster.Options = .init(), _ body: (Cluster) async throws -> Void
) async throws {
    let cluster = try await Cluster(options)
    do {
        try await body(cluster)
        await cluster.remove(failed: false)
    } catch {
        await cluster.remove(failed: true)
        throw error
    }
}
