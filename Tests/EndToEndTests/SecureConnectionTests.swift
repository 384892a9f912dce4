import EventLog
import Foundation
import Glibc
import Logging
import NIOCore
import Operations
import TestSupport
import Testing

extension EndToEnd {
    /// Certificates and passwords towards Kafka and PostgreSQL, from files and from systemd's credentials.
    @Suite(.serialized) struct SecureConnectionTests {
        /// A PKI with a server's certificate for localhost, a client's, and a second CA that nobody trusts.
        private struct Certificates {
            let folder: URL
            var ca: String { folder.path + "/pki/ca.crt" }
            var client: String { folder.path + "/pki/gateways/cloud-client.crt" }
            var clientKey: String { folder.path + "/pki/gateways/cloud-client.key" }
            var server: String { folder.path + "/pki/servers/localhost.crt" }
            var serverKey: String { folder.path + "/pki/servers/localhost.key" }
            var strangersCA: String { folder.path + "/other/ca.crt" }

            init() async throws {
                folder = FileManager.default.temporaryDirectory.appendingPathComponent(
                    "sluice-tls-\(UUID().uuidString)")
                try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
                _ = chmod(folder.path, 0o755)
                for directory in [folder.path + "/pki", folder.path + "/other"] {
                    try await Binaries.sluice("pki", "init", "--directory", directory)
                }
                let pki = folder.path + "/pki"
                try await Binaries.sluice(
                    "pki", "server", "localhost", "--dns", "localhost", "--ip", "127.0.0.1", "--directory", pki)
                try await Binaries.sluice("pki", "gateway", "cloud-client", "--directory", pki)
            }

            func file(_ name: String, _ text: String) throws -> String {
                let path = folder.appendingPathComponent(name).path
                try text.write(toFile: path, atomically: true, encoding: .utf8)
                return path
            }

            func remove() { try? FileManager.default.removeItem(at: folder) }
        }

        private static let secret = "hunter2-\(UUID().uuidString)"

        // MARK: Kafka

        @Test(
            .enabled(
                if: KafkaBroker.home != nil, "set SLUICE_TEST_KAFKA_HOME to the folder of a Kafka distribution"))
        func kafkaWithCertificatesAndPasswords() async throws {
            let certificates = try await Certificates()
            defer { certificates.remove() }
            let pem =
                try String(contentsOfFile: certificates.serverKey, encoding: .utf8)
                + String(contentsOfFile: certificates.server, encoding: .utf8)
            let identity = try certificates.file("broker.pem", pem)
            let broker = try await KafkaBroker(
                folder: certificates.folder,
                security: .init(identity: identity, ca: certificates.ca, user: "sluice", password: Self.secret))
            defer { broker.kill() }
            _ = try certificates.file("kafka.password", Self.secret + "\n")
            let wrong = try certificates.file("wrong.password", "hunter3\n")
            let opener = try certificates.file("key.password", "open sesame\n")
            let encrypted = certificates.folder.path + "/encrypted.key"
            let made = try await run(
                "openssl",
                [
                    "pkcs8", "-topk8", "-v2", "aes256", "-in", certificates.clientKey, "-out", encrypted, "-passout",
                    "file:\(opener)",
                ])
            #expect(made.status == 0, "\(made.output)")

            var topics = 0
            /// What `sluice topics apply` says through this listener.
            func apply(_ port: Int, _ security: String, credentials: String? = nil) async throws -> ToolResult {
                topics += 1
                let config = try certificates.file(
                    "cloud.yaml",
                    "eventLog: { kafka: { brokers: [\"localhost:\(port)\"], topic: t\(topics), \(security) } }")
                let declared = try String(contentsOfFile: Repository.path("cloud/topics.yaml"), encoding: .utf8)
                    .replacingOccurrences(of: "name: sensor-data", with: "name: t\(topics)")
                let file = try certificates.file("topics.yaml", declared)
                let output = certificates.folder.appendingPathComponent("tool-\(topics).log")
                let child = try ChildProcess(
                    Binaries.path("sluice"),
                    ["topics", "apply", "--config", config, "--topics", file, "--replication", "1"],
                    environment: credentials.map { ["CREDENTIALS_DIRECTORY": $0] } ?? [:], output: output)
                let status = try await child.wait(seconds: 60)
                return ToolResult(status: status, output: child.log, bytes: [])
            }
            let (ca, client, key) = (certificates.ca, certificates.client, certificates.clientKey)
            let mutual = try await apply(broker.mutualTLS, "tls: { ca: \(ca), certificate: \(client), key: \(key) }")
            #expect(mutual.status == 0, "\(mutual.output)")
            let opened = try await apply(
                broker.mutualTLS,
                "tls: { ca: \(ca), certificate: \(client), key: \(encrypted), keyPasswordFile: \(opener) }")
            #expect(opened.status == 0, "\(opened.output)")
            let passed = try await apply(
                broker.password,
                """
                tls: { ca: "${CREDENTIALS_DIRECTORY}/pki/ca.crt" }, \
                sasl: { mechanism: PLAIN, user: sluice, passwordFile: "${CREDENTIALS_DIRECTORY}/kafka.password" }
                """, credentials: certificates.folder.path)
            #expect(passed.status == 0, "\(passed.output)")

            // What must not work: no certificate, a broker whose CA is not trusted, a wrong password, a closed key.
            let bare = try await apply(broker.mutualTLS, "tls: { ca: \(ca) }")
            let strange = try await apply(
                broker.mutualTLS, "tls: { ca: \(certificates.strangersCA), certificate: \(client), key: \(key) }")
            let refused = try await apply(
                broker.password,
                "tls: { ca: \(ca) }, sasl: { mechanism: PLAIN, user: sluice, passwordFile: \(wrong) }")
            let closed = try await apply(
                broker.mutualTLS,
                "tls: { ca: \(ca), certificate: \(client), key: \(encrypted), keyPasswordFile: \(wrong) }")
            for result in [bare, strange, refused, closed] {
                #expect(result.status != 0 && result.output.contains("Kafka"), "\(result.output)")
            }
            for result in [mutual, opened, passed, bare, strange, refused, closed] {
                #expect(!result.output.contains("hunter") && !result.output.contains("sesame"))
            }
            try await appends(through: broker.mutualTLS, topic: "t1", certificates)
        }

        private func appends(through port: Int, topic: String, _ certificates: Certificates) async throws {
            var settings = KafkaConfiguration(brokers: "localhost:\(port)")
            settings.topic = topic
            settings.tls = .init()
            settings.tls?.ca = certificates.ca
            settings.tls?.certificate = certificates.client
            settings.tls?.key = certificates.clientKey
            let log = try KafkaEventLog.open(settings, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            try await log.append((0..<100).map { LogRecord(key: "d\($0)", value: ByteBuffer(string: "v")) })
            #expect(try await log.bounds().map(\.next).reduce(0, +) == 100)
            await log.close()
        }

        // MARK: PostgreSQL

        /// A cluster that takes TLS with a client's certificate and a password, and nothing else over TCP.
        private func securePostgres(_ certificates: Certificates) throws -> PostgresCluster {
            let cluster = try PostgresCluster.make()
            let data = try #require(cluster.folder) + "/data"
            for (from, to) in [
                (certificates.server, "server.crt"), (certificates.serverKey, "server.key"),
                (certificates.ca, "root.crt"),
            ] {
                let path = "\(data)/\(to)"
                try FileManager.default.copyItem(atPath: from, toPath: path)
                _ = chmod(path, 0o600)
                if getuid() == 0, let user = getpwnam("postgres") {
                    _ = chown(path, user.pointee.pw_uid, user.pointee.pw_gid)
                }
            }
            func append(_ text: String, to file: String) throws {
                let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: "\(data)/\(file)"))
                try handle.seekToEnd()
                try handle.write(contentsOf: Data(text.utf8))
                try handle.close()
            }
            try append(
                "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'root.crt'\n",
                to: "postgresql.conf")
            try """
            local all all trust
            hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
            """.appending("\n").write(toFile: "\(data)/pg_hba.conf", atomically: true, encoding: .utf8)
            if getuid() == 0, let user = getpwnam("postgres") {
                _ = chown("\(data)/pg_hba.conf", user.pointee.pw_uid, user.pointee.pw_gid)
            }
            try cluster.start()
            return cluster
        }

        @Test func postgresWithCertificatesAndPassword() async throws {
            let certificates = try await Certificates()
            defer { certificates.remove() }
            let cluster = try securePostgres(certificates)
            defer { cluster.stop() }
            let socket = "postgresql:///postgres?host=\(try #require(cluster.folder))&port=\(cluster.port)&user=sluice"
            let made = try await run(
                "psql", ["-X", "-q", "-d", socket, "-c", "ALTER USER sluice PASSWORD '\(Self.secret)'"])
            #expect(made.status == 0, "\(made.output)")
            let base = "postgresql://sluice@localhost:\(cluster.port)/postgres?sslmode=verify-full"
            let place = "${CREDENTIALS_DIRECTORY}/pki"
            let certificate = "&sslcert=\(place)/gateways/cloud-client.crt&sslkey=\(place)/gateways/cloud-client.key"
            _ = try certificates.file("password", Self.secret + "\n")
            _ = try certificates.file("wrong", "hunter3\n")

            /// Runs the api role until its readiness has spoken of the database.
            func ready(_ url: String, password: String) async throws -> ToolResult {
                let port = try Ports.free(1)[0]
                let config = try certificates.file(
                    "cloud.yaml",
                    """
                    eventLog: { kafka: { brokers: ["127.0.0.1:1"] } }
                    database: { url: "\(url)", passwordFile: "${CREDENTIALS_DIRECTORY}/\(password)" }
                    status: { address: 127.0.0.1, port: \(port) }
                    """)
                let child = try ChildProcess(
                    Binaries.path("sluice-cloud"), ["--config", config, "--role", "api"],
                    environment: ["CREDENTIALS_DIRECTORY": certificates.folder.path],
                    output: certificates.folder.appendingPathComponent("cloud-\(port).log"))
                defer { child.kill() }
                let answer = try await eventually("it answers", within: 30) { () -> ToolResult? in
                    if let status = child.status {
                        return ToolResult(status: status, output: child.log, bytes: [])
                    }
                    let result = try await run(
                        "curl", ["-sS", "-m", "5", "-w", " %{http_code}", "http://127.0.0.1:\(port)/health/ready"],
                        within: 8)
                    return result.output.contains("database") ? result : nil
                }
                #expect(!child.log.contains("hunter"))
                return answer
            }
            let trusted = "&sslrootcert=\(place)/ca.crt"
            let good = try await ready(base + trusted + certificate, password: "password")
            #expect(good.output.hasSuffix(" 200"), "\(good.output)")
            for (url, password) in [
                (base + trusted, "password"), (base + trusted + certificate, "wrong"),
                (base + "&sslrootcert=${CREDENTIALS_DIRECTORY}/other/ca.crt" + certificate, "password"),
            ] {
                let bad = try await ready(url, password: password)
                #expect(bad.output.hasSuffix(" 503") && !bad.output.contains("hunter"), "\(bad.output)")
            }
        }

        /// Every user of a host can read every command line.
        @Test func aPasswordOnACommandLineIsRefused() async throws {
            for url in ["postgresql://u:hunter2@db.example/d", "host=db.example password=hunter2"] {
                let result = try await run(Binaries.path("sluice"), ["migrate", "status", "--database", url])
                #expect(result.status != 0 && result.output.contains("SLUICE_DATABASE"), "\(result.output)")
                #expect(!result.output.contains("hunter2"))
            }
        }
    }
}
