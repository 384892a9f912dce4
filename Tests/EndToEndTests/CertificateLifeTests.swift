import Foundation
import Glibc
import PKI
import Testing

extension EndToEnd {
    /// Certificates and lists change under a running daemon: who stays connected, and who does not?
    @Suite(.serialized) struct CertificateLifeTests {
        /// `mosquitto_sub` on a device's own topic; it tells each packet, and connects again when it is disconnected.
        struct Subscriber {
            let cluster: Cluster
            let device: String
            let child: ChildProcess

            init(_ cluster: Cluster, _ device: String) async throws {
                self.cluster = cluster
                self.device = device
                child = try ChildProcess(
                    "stdbuf",
                    [
                        "-oL", "mosquitto_sub", "-d", "-h", "localhost", "-p", String(cluster.mqttPort), "--cafile",
                        cluster.pki + "/ca.crt", "--cert", "\(cluster.pki)/devices/\(device).crt", "--key",
                        "\(cluster.pki)/devices/\(device).key", "-V", "5", "-q", "1", "-i", device, "-t",
                        "devices/\(device)/commands",
                    ], output: cluster.folder.appendingPathComponent("\(device).log"))
                let child = child
                _ = try await eventually("\(device) has subscribed", within: 10) {
                    child.log.contains("SUBACK") ? true : nil
                }
            }

            /// It is on its first connection, and gets what is sent to it.
            func isConnectedStill() async throws {
                let word = "to-\(UUID().uuidString)"
                #expect(
                    try await CertificateLifeTests.publish(
                        cluster, device: device, as: "\(device)-sender", message: word
                    ).status == 0)
                _ = try await eventually("\(device) gets a message", within: 5) {
                    child.log.contains(word) ? true : nil
                }
                #expect(child.log.components(separatedBy: "received CONNACK").count == 2, "\(child.log)")
            }

            /// DISCONNECT with 0x87 has come.
            func wasRefused(within seconds: Double) async throws {
                _ = try await eventually("\(device) is disconnected with 0x87", within: seconds) {
                    child.log.contains("DISCONNECT (135)") ? true : nil
                }
            }
        }

        private static func publish(
            _ cluster: Cluster, device: String, as client: String, message: String = "x"
        ) async throws -> ToolResult {
            try await run(
                "mosquitto_pub",
                [
                    "-h", "localhost", "-p", String(cluster.mqttPort), "--cafile", cluster.pki + "/ca.crt", "--cert",
                    "\(cluster.pki)/devices/\(device).crt", "--key", "\(cluster.pki)/devices/\(device).key", "-V", "5",
                    "-q", "1", "-i", client, "-t", "devices/\(device)/commands", "-m", message,
                ], within: 20)
        }

        private static func options(_ devices: [String], more: String) -> Cluster.Options {
            var options = Cluster.Options(devices: devices)
            options.limits += "\n" + more
            return options
        }

        private func ready(_ cluster: Cluster) async throws -> String {
            try await run("curl", ["-sS", "http://127.0.0.1:\(cluster.edgeStatus)/health/ready"]).output
        }

        private func logLines(_ cluster: Cluster, with words: String) -> Int {
            cluster.edgeLog.split(separator: "\n").count { $0.contains(words) }
        }

        @Test func theTimerFindsARevocationAndKeepsTheOldListWhereTheNewOneIsDamaged() async throws {
            let options = Self.options(["press-1", "press-2"], more: "certificates: { reloadInterval: 1s }")
            try await withCluster(options) { cluster in
                try await cluster.startEdge()
                let revoked = try await Subscriber(cluster, "press-1")
                let other = try await Subscriber(cluster, "press-2")
                #expect(try await Metrics.edge(cluster)["sluice_connections"] == 2)
                try await Binaries.sluice("pki", "revoke", "press-1", "--directory", cluster.pki)
                try await revoked.wasRefused(within: 10)
                try await cluster.edgeLogs("revoked", "press-1")
                try await other.isConnectedStill()
                let reason = "sluice_connections_closed_total{reason=\"certificateRevoked\"}"
                #expect(try await Metrics.series(cluster)[reason] ?? 0 >= 1)

                // Damaged for some readings: told once, nothing changes for anybody, and the revocation holds.
                let list = cluster.pki + "/crl.pem"
                let good = try String(contentsOfFile: list, encoding: .utf8)
                try "no list".write(toFile: list, atomically: true, encoding: .utf8)
                _ = try await eventually("three readings fail", within: 10) {
                    try await Metrics.edge(cluster)["sluice_certificate_reload_failures_total"] ?? 0 >= 3 ? true : nil
                }
                #expect(logLines(cluster, with: "cannot be read again") == 1)
                #expect(try await ready(cluster).contains("cannot be read again"))
                #expect(await Cluster.isReady(port: cluster.edgeStatus))
                try await other.isConnectedStill()
                #expect(try await Self.publish(cluster, device: "press-1", as: "press-1").status != 0)
                try good.write(toFile: list, atomically: true, encoding: .utf8)
                try await cluster.edgeLogs("in order again")
                try await other.isConnectedStill()
            }
        }

        /// Nothing is read again here: the interval is five minutes.
        @Test func aCertificateThatExpiresEndsItsSession() async throws {
            try await withCluster(.init(devices: ["press-1"])) { cluster in
                try await cluster.startEdge()
                let other = try await Subscriber(cluster, "press-1")
                let nearest = "sluice_certificate_expiry_days{kind=\"nearest_client\"}"
                _ = try await eventually("two years are left", within: 5) {
                    try await Metrics.series(cluster)[nearest].flatMap { (729...730).contains($0) ? true : nil }
                }
                let expiry = Int64(Date().timeIntervalSince1970) + 6
                try PKIDirectory(cluster.pki).issue(
                    [.init(role: try PeerRole(.device, id: "press-9"), names: [])], days: 1, force: false,
                    now: expiry - 86_400)
                let ending = try await Subscriber(cluster, "press-9")
                _ = try await eventually("seconds are left", within: 3) {
                    try await Metrics.series(cluster)[nearest].flatMap { $0 < 0.001 ? true : nil }
                }
                try await ending.wasRefused(within: 12)
                let late = Date().timeIntervalSince1970 - Double(expiry)
                #expect(late > 0 && late < 4, "\(late) s after its end")
                try await cluster.edgeLogs("expired", "press-9")
                let reason = "sluice_connections_closed_total{reason=\"certificateExpired\"}"
                #expect(try await Metrics.series(cluster)[reason] ?? 0 >= 1)
                try await other.isConnectedStill()
            }
        }

        @Test func aRenewedServersCertificateIsForNewConnections() async throws {
            let options = Self.options(["press-1"], more: "certificates: { reloadInterval: 1s }")
            try await withCluster(options) { cluster in
                try await cluster.startEdge()
                let old = try await Subscriber(cluster, "press-1")
                func serial() async throws -> String {
                    try await run(
                        "bash",
                        [
                            "-c",
                            """
                            openssl s_client -connect localhost:\(cluster.mqttPort) -CAfile '\(cluster.pki)/ca.crt' \
                            -cert '\(cluster.pki)/devices/press-1.crt' -key '\(cluster.pki)/devices/press-1.key' \
                            </dev/null 2>/dev/null | openssl x509 -noout -serial
                            """,
                        ]
                    ).output
                }
                let before = try await serial()
                #expect(before.hasPrefix("serial="))
                let server =
                    "sluice_certificate_expiry_days{kind=\"server\",listener=\"127.0.0.1:\(cluster.mqttPort)\"}"
                let list = "sluice_revocation_list_next_update_days{listener=\"127.0.0.1:\(cluster.mqttPort)\"}"
                let first = try await Metrics.series(cluster)
                #expect((729...730).contains(first[server] ?? 0) && (29...30).contains(first[list] ?? 0))
                #expect(!(try await ready(cluster).contains("degraded")))

                try await Binaries.sluice(
                    "pki", "server", "edge", "--dns", "localhost", "--ip", "127.0.0.1", "--days", "3", "--force",
                    "--directory", cluster.pki)
                let after = try await eventually("new connections see the new certificate", within: 10) {
                    let found = try await serial()
                    return found.hasPrefix("serial=") && found != before ? found : nil
                }
                #expect(after != before)
                try await old.isConnectedStill()
                #expect((2...3).contains(try await Metrics.series(cluster)[server] ?? 0))
                #expect(try await ready(cluster).contains("the server's certificate expires at"))
                #expect(await Cluster.isReady(port: cluster.edgeStatus))
                #expect(logLines(cluster, with: "the server's certificate expires at") == 1)

                // A list that is overdue is used on, and told.
                let past = Int64(Date().timeIntervalSince1970) - 3 * 86_400
                try PKIDirectory(cluster.pki).renewRevocationList(days: 1, now: past)
                try await cluster.edgeLogs("was due to be replaced")
                #expect((-2.1 ... -1.9).contains(try await Metrics.series(cluster)[list] ?? 0))
                // The report is up to a second old.
                _ = try await eventually("the health report says so", within: 5) {
                    try await ready(cluster).contains("was due to be replaced") ? true : nil
                }
                try await old.isConnectedStill()
            }
        }

        @Test(arguments: ["commonName", "subjectAltName"])
        func aForeignFieldIsTheDevice(source: String) async throws {
            let options = Self.options([], more: "identity: { from: \(source) }")
            try await withCluster(options) { cluster in
                let base = "\(cluster.pki)/devices/foreign"
                let made = try await run(
                    "bash",
                    [
                        "-ec",
                        """
                        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=Maker/CN=pump-7 \
                          -keyout '\(base).key' -out '\(base).csr'
                        openssl x509 -req -in '\(base).csr' -CA '\(cluster.pki)/ca.crt' -CAkey '\(cluster.pki)/ca.key' \
                          -CAcreateserial -days 1 -extfile <(echo subjectAltName=DNS:pump-7.plant) -out '\(base).crt'
                        """,
                    ])
                #expect(made.status == 0, "\(made.output)")
                try await cluster.startEdge()
                func publish(_ id: String) async throws -> ToolResult {
                    try await run(
                        "mosquitto_pub",
                        [
                            "-h", "localhost", "-p", String(cluster.mqttPort), "--cafile", cluster.pki + "/ca.crt",
                            "--cert", base + ".crt", "--key", base + ".key", "-V", "5", "-q", "1", "-i", "any", "-t",
                            "devices/\(id)/t", "-m", "1",
                        ], within: 20)
                }
                let ids = source == "commonName" ? ["pump-7", "pump-7.plant"] : ["pump-7.plant", "pump-7"]
                let own = try await publish(ids[0])
                #expect(own.status == 0 && !own.output.contains("Not authorized"), "\(own.output)")
                #expect(try await publish(ids[1]).output.contains("Not authorized"))
                #expect(try await cluster.audit(journal: false)["buffered"] == 1)
            }
        }
    }
}
