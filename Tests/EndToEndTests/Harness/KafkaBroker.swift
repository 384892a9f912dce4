import EventLog
import Foundation
import Glibc
import Synchronization

/// A broker of Apache Kafka that the test starts: one KRaft node on 127.0.0.1, of the distribution in
/// `SLUICE_TEST_KAFKA_HOME`, which needs Java.
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
    private let child = Mutex<ChildProcess?>(nil)

    var plaintext: String { "127.0.0.1:\(plain)" }
    private var properties: String { folder.path + "/server.properties" }

    init(folder: URL, security: Security? = nil) async throws {
        let ports = try Ports.free(4)
        (plain, mutualTLS, password) = (ports[0], ports[1], ports[2])
        self.folder = folder
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
        try """
        process.roles=broker,controller
        node.id=1
        controller.quorum.voters=1@127.0.0.1:\(ports[3])
        listeners=\(listeners.joined(separator: ",")),CONTROLLER://127.0.0.1:\(ports[3])
        advertised.listeners=\(listeners.joined(separator: ","))
        controller.listener.names=CONTROLLER
        inter.broker.listener.name=PLAIN
        listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,MTLS:SSL,PASS:SASL_SSL
        log.dirs=\(folder.path)/data
        offsets.topic.replication.factor=1
        transaction.state.log.replication.factor=1
        transaction.state.log.min.isr=1
        group.initial.rebalance.delay.ms=0
        \(lines.joined(separator: "\n"))
        """.write(toFile: properties, atomically: true, encoding: .utf8)
        // Any 16 bytes in base 64.
        let arguments = ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", properties]
        let format = try await run("bash", [Self.script("kafka-storage.sh")] + arguments, within: 60)
        guard format.status == 0 else { throw ChildProcess.Failure(description: "kafka-storage: \(format.output)") }
        try await start()
    }

    /// Again, after `kill`.
    func start() async throws {
        let output = folder.appendingPathComponent("broker-\(UUID().uuidString).log")
        let started = try ChildProcess(
            "bash", [Self.script("kafka-server-start.sh"), properties],
            environment: ["KAFKA_HEAP_OPTS": "-Xmx512m -Xms128m", "LOG_DIR": folder.path + "/logs"], output: output)
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
}
