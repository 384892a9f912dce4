import EventLog
import Foundation
import Glibc
import Synchronization

/// A broker of Apache Kafka that the test starts: a KRaft node on 127.0.0.1, broker and controller in one, of the
/// distribution in `SLUICE_TEST_KAFKA_HOME`, which needs Java.
final class KafkaBroker: Sendable {
    static let home = ProcessInfo.processInfo.environment["SLUICE_TEST_KAFKA_HOME"]

    /// For a listener that asks for certificates, and one that asks for a password.
    struct Security: Sendable {
        /// PEM of the broker's key (PKCS 8) and its certificate, in one file.
        var identity: String
        /// PEM of who signs the clients' certificates.
        var ca: String
        var user: String
        var password: String
    }

    /// Each listener is at a port of its own.
    let mutualTLS: Int
    let password: Int
    private let plain: Int
    private let folder: URL
    private let heap: String
    private let child = Mutex<ChildProcess?>(nil)

    var plaintext: String { "127.0.0.1:\(plain)" }
    private var properties: String { folder.path + "/server.properties" }

    /// One alone, started.
    convenience init(folder: URL, security: Security? = nil) async throws {
        let ports = try Ports.free(4)
        try await self.init(
            node: 1, controllers: [ports[3]], ports: Array(ports[..<3]), folder: folder, security: security, heap: 512)
        try await start()
    }

    /// So many that are one cluster, started.
    static func cluster(of count: Int, folder: URL) async throws -> [KafkaBroker] {
        let ports = try Ports.free(4 * count)
        let controllers = Array(ports[..<count])
        var brokers: [KafkaBroker] = []
        for node in 1...count {
            let place = folder.appendingPathComponent("broker-\(node)")
            try FileManager.default.createDirectory(at: place, withIntermediateDirectories: true)
            let own = Array(ports[(count + 3 * (node - 1))...].prefix(3))
            brokers.append(
                try await KafkaBroker(
                    node: node, controllers: controllers, ports: own, folder: place, security: nil, heap: 384))
        }
        try await start(brokers)
        return brokers
    }

    /// None is up before most are.
    static func start(_ brokers: [KafkaBroker]) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for broker in brokers { group.addTask { try await broker.start() } }
            try await group.waitForAll()
        }
    }

    /// - Parameters:
    ///   - controllers: ports of all nodes' controllers, that of node 1 first.
    ///   - ports: of the three listeners.
    ///   - heap: MiB.
    private init(
        node: Int, controllers: [Int], ports: [Int], folder: URL, security: Security?, heap: Int
    ) async throws {
        (plain, mutualTLS, password) = (ports[0], ports[1], ports[2])
        self.folder = folder
        self.heap = "-Xmx\(heap)m -Xms128m"
        var listeners = ["PLAIN://127.0.0.1:\(ports[0])"]
        var lines: [String] = []
        if let security {
            listeners += ["MTLS://localhost:\(ports[1])", "PASS://localhost:\(ports[2])"]
            let login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
            lines = [
                "ssl.keystore.type=PEM", "ssl.keystore.location=\(security.identity)", "ssl.truststore.type=PEM",
                "ssl.truststore.location=\(security.ca)", "listener.name.mtls.ssl.client.auth=required",
                "listener.name.pass.sasl.enabled.mechanisms=PLAIN",
                "listener.name.pass.plain.sasl.jaas.config=\(login) user_\(security.user)=\"\(security.password)\";",
            ]
        }
        let voters = controllers.enumerated().map { "\($0 + 1)@127.0.0.1:\($1)" }.joined(separator: ",")
        let replicas = min(3, controllers.count)
        try """
        process.roles=broker,controller
        node.id=\(node)
        controller.quorum.voters=\(voters)
        listeners=\(listeners.joined(separator: ",")),CONTROLLER://127.0.0.1:\(controllers[node - 1])
        advertised.listeners=\(listeners.joined(separator: ","))
        controller.listener.names=CONTROLLER
        inter.broker.listener.name=PLAIN
        listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,MTLS:SSL,PASS:SASL_SSL
        log.dirs=\(folder.path)/data
        offsets.topic.replication.factor=\(replicas)
        transaction.state.log.replication.factor=\(replicas)
        transaction.state.log.min.isr=\(max(1, replicas - 1))
        group.initial.rebalance.delay.ms=0
        \(lines.joined(separator: "\n"))
        """.write(toFile: properties, atomically: true, encoding: .utf8)
        // Any 16 bytes in base 64.
        let arguments = ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", properties]
        let format = try await run("bash", [Self.script("kafka-storage.sh")] + arguments, within: 60)
        guard format.status == 0 else { throw ChildProcess.Failure(description: "kafka-storage: \(format.output)") }
    }

    /// Again, after `kill`.
    func start() async throws {
        let output = folder.appendingPathComponent("broker-\(UUID().uuidString).log")
        let started = try ChildProcess(
            "bash", [Self.script("kafka-server-start.sh"), properties],
            environment: ["KAFKA_HEAP_OPTS": heap, "LOG_DIR": folder.path + "/logs"], output: output)
        child.withLock { $0 = started }
        _ = try await eventually("the broker is up", within: 90) { () -> Bool? in
            if let status = started.status {
                throw ChildProcess.Failure(description: "the broker ended with \(status): \(started.log.suffix(3_000))")
            }
            return started.log.contains("Kafka Server started") ? true : nil
        }
    }

    private static func script(_ name: String) -> String { "\(home ?? "")/bin/\(name)" }

    /// SIGKILL; the script has become the server itself (`exec`).
    func kill() { child.withLock { $0 }?.kill() }

    /// What Kafka's own tool says of the topics' partitions that have fewer replicas in sync than they should.
    func underReplicated() async throws -> String {
        let arguments = ["--bootstrap-server", plaintext, "--describe", "--under-replicated-partitions"]
        let result = try await run("bash", [Self.script("kafka-topics.sh")] + arguments, within: 60)
        guard result.status == 0 else { throw ChildProcess.Failure(description: "kafka-topics: \(result.output)") }
        return result.output
    }
}
