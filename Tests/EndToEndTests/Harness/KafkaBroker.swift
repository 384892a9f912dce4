import EventLog
import Foundation
import Glibc

/// A broker of Apache Kafka that the test starts, with TLS and passwords: one KRaft node on 127.0.0.1, of the distribution
/// in `SLUICE_TEST_KAFKA_HOME`, which needs Java.
final class KafkaBroker: Sendable {
    static let home = ProcessInfo.processInfo.environment["SLUICE_TEST_KAFKA_HOME"]

    /// Each listener is at a port of its own.
    let mutualTLS: Int
    let password: Int
    private let plain: Int
    private let folder: URL
    private let child: ChildProcess

    var plaintext: String { "127.0.0.1:\(plain)" }

    /// - Parameters:
    ///   - identity: PEM of the broker's key (PKCS 8) and its certificate, in one file.
    ///   - ca: PEM of who signs the clients' certificates.
    init(folder: URL, identity: String, ca: String, user: String, password secret: String) async throws {
        let home = Self.home ?? ""
        let ports = try Ports.free(4)
        (plain, mutualTLS, password) = (ports[0], ports[1], ports[2])
        self.folder = folder
        let file = folder.path + "/server.properties"
        try """
        process.roles=broker,controller
        node.id=1
        controller.quorum.voters=1@127.0.0.1:\(ports[3])
        listeners=PLAIN://127.0.0.1:\(ports[0]),MTLS://127.0.0.1:\(ports[1]),PASS://127.0.0.1:\(ports[2]),CONTROLLER://127.0.0.1:\(ports[3])
        advertised.listeners=PLAIN://127.0.0.1:\(ports[0]),MTLS://localhost:\(ports[1]),PASS://localhost:\(ports[2])
        controller.listener.names=CONTROLLER
        inter.broker.listener.name=PLAIN
        listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,MTLS:SSL,PASS:SASL_SSL
        ssl.keystore.type=PEM
        ssl.keystore.location=\(identity)
        ssl.truststore.type=PEM
        ssl.truststore.location=\(ca)
        listener.name.mtls.ssl.client.auth=required
        listener.name.pass.sasl.enabled.mechanisms=PLAIN
        listener.name.pass.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_\(user)="\(secret)";
        log.dirs=\(folder.path)/data
        offsets.topic.replication.factor=1
        transaction.state.log.replication.factor=1
        transaction.state.log.min.isr=1
        group.initial.rebalance.delay.ms=0
        """.write(toFile: file, atomically: true, encoding: .utf8)
        let identifier = "MkU3OEVBNTcwNTJENDM2Qg"
        let format = try await run(
            "bash", [home + "/bin/kafka-storage.sh", "format", "-t", identifier, "-c", file], within: 60)
        guard format.status == 0 else { throw ChildProcess.Failure(description: "kafka-storage: \(format.output)") }
        child = try ChildProcess(
            "bash", [home + "/bin/kafka-server-start.sh", file],
            environment: ["KAFKA_HEAP_OPTS": "-Xmx512m -Xms128m", "LOG_DIR": folder.path + "/logs"],
            output: folder.appendingPathComponent("broker.log"))
        _ = try await eventually("the broker is up", within: 90) { () -> Bool? in
            if let status = self.child.status {
                throw ChildProcess.Failure(
                    description: "the broker ended with \(status): \(self.child.log.suffix(3_000))")
            }
            return self.child.log.contains("Kafka Server started") ? true : nil
        }
    }

    /// Its script has become the server itself (`exec`).
    func stop() { child.kill() }
}
