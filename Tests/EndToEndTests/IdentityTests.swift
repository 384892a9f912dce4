import Foundation
import Glibc
import PKI
import Testing

extension EndToEnd {
    /// Who may connect and publish what, asked with clients that this project did not write.
    @Suite(.serialized) struct IdentityTests {
        private func publish(
            _ cluster: Cluster, device: String, topic: String? = nil, version: String = "5", qos: String = "1",
            pki: String? = nil, folder: String = "devices", message: String = #"{"temperature": 21.5}"#
        ) async throws -> ToolResult {
            let pki = pki ?? cluster.pki
            return try await run(
                "mosquitto_pub",
                [
                    "-h", "localhost", "-p", String(cluster.mqttPort), "--cafile", cluster.pki + "/ca.crt",
                    "--cert", "\(pki)/\(folder)/\(device).crt", "--key", "\(pki)/\(folder)/\(device).key",
                    "-V", version, "-q", qos, "-i", device, "-t", topic ?? "devices/\(device)/telemetry", "-m", message,
                ], within: 20)
        }

        @Test(arguments: ["5", "311"]) func aPublishBecomesARow(version: String) async throws {
            try await withCluster(.init(devices: ["press-1"])) { cluster in
                try await cluster.startCloud()
                try await cluster.startEdge()
                let result = try await publish(cluster, device: "press-1", version: version)
                #expect(result.status == 0, "\(result.output)")
                let row = try await eventually("a row", within: 20) {
                    try await cluster.query(
                        """
                        SELECT d.name, m.topic, m.path, r.value, r.part, r.parts, r.sequence, g.name
                        FROM measurement r JOIN device d ON d.id = r.device_id JOIN metric m ON m.id = r.metric_id
                        JOIN source s ON s.id = r.source JOIN gateway g ON g.id = s.gateway_id
                        """
                    ).first
                }
                #expect(
                    row == [
                        "press-1", "devices/press-1/telemetry", "temperature", "21.5", "0", "1", "1", "plant-7",
                    ])
                #expect(try await cluster.count("SELECT count(*) FROM measurement") == 1)
                #expect(try await cluster.settledAudit(journal: false, within: 20).status == 0)
            }
        }

        @Test func strangersAreRefusedWithAReason() async throws {
            try await withCluster(.init(devices: ["press-1", "press-2"])) { cluster in
                let other = cluster.folder.path + "/other"
                try await Binaries.sluice("pki", "init", "--directory", other)
                try await Binaries.sluice("pki", "device", "press-1", "--directory", other)
                try await Binaries.sluice("pki", "revoke", "press-2", "--directory", cluster.pki)
                let past = Int64(Date().timeIntervalSince1970) - 10 * 86_400
                let store = PKIDirectory(cluster.pki)
                let role = try PeerRole(.device, id: "press-3")
                try store.issue([.init(role: role, names: [])], days: 1, force: false, now: past)
                try await cluster.startEdge()

                let cases: [(device: String, pki: String, folder: String, reason: [String])] = [
                    ("press-1", other, "devices", ["not signed"]),
                    ("press-2", cluster.pki, "devices", ["revoked"]),
                    ("press-3", cluster.pki, "devices", ["expired"]),
                    (cluster.options.gateway, cluster.pki, "gateways", ["gateway", "not for a device"]),
                ]
                for (device, pki, folder, reason) in cases {
                    let before = cluster.edgeLog.count
                    let result = try await publish(cluster, device: device, pki: pki, folder: folder)
                    #expect(result.status != 0, "\(device) of \(pki) got in")
                    for word in reason { try await cluster.edgeLogs(word, "remote", skipping: before) }
                }
                // And one who may, so that the refusals say something.
                #expect(try await publish(cluster, device: "press-1").status == 0)
                #expect(try await Metrics.edge(cluster)["sluice_connections"] != nil)
            }
        }

        @Test(arguments: ["-tls1_3", "-tls1_2"]) func revocationIsSeenOnAResumedSession(version: String) async throws {
            try await withCluster(.init(devices: ["press-1"])) { cluster in
                try await cluster.startEdge()
                let session = cluster.folder.path + "/session"
                let connect = MQTTBytes.connect(id: "press-1")
                func client(_ extra: [String]) async throws -> ToolResult {
                    try await TLSClient.talk(cluster, device: "press-1", [version] + extra, sending: connect)
                }
                let first = try await client(["-sess_out", session])
                #expect(first.output.contains("New, TLSv1"))
                #expect(first.bytes.contains(sequence: MQTTBytes.accepted))
                let resumed = try await client(["-sess_in", session, "-sess_out", session])
                #expect(resumed.output.contains("Reused, TLSv1"), "\(resumed.output)")
                #expect(resumed.bytes.contains(sequence: MQTTBytes.accepted))

                try await Binaries.sluice("pki", "revoke", "press-1", "--directory", cluster.pki)
                let before = cluster.edgeLog.count
                await cluster.signalEdge(SIGHUP)
                try await cluster.edgeLogs("revocation lists", skipping: before)
                // A new list changes no ticket key: the session is resumed, and only the judgement at CONNECT refuses it.
                let refused = try await client(["-sess_in", session])
                #expect(refused.output.contains("Reused, TLSv1"), "\(refused.output)")
                #expect(!refused.bytes.contains(sequence: MQTTBytes.accepted), "\(refused.output)")
                try await cluster.edgeLogs("revoked", "remote", skipping: before)
            }
        }

        /// Nothing is reloaded here: the session is resumed, no certificate is sent, and the one of the first handshake is
        /// judged at CONNECT.
        @Test(arguments: ["-tls1_3", "-tls1_2"]) func expiryIsSeenOnAResumedSession(version: String) async throws {
            try await withCluster(.init()) { cluster in
                try await cluster.startEdge()
                let session = cluster.folder.path + "/session"
                let connect = MQTTBytes.connect(id: "press-9")
                let expiry = Int64(Date().timeIntervalSince1970) + 4
                try PKIDirectory(cluster.pki).issue(
                    [.init(role: try PeerRole(.device, id: "press-9"), names: [])], days: 1, force: false,
                    now: expiry - 86_400)
                let first = try await TLSClient.talk(
                    cluster, device: "press-9", [version, "-sess_out", session], sending: connect)
                #expect(first.bytes.contains(sequence: MQTTBytes.accepted), "\(first.output)")
                let before = cluster.edgeLog.count
                try await Task.sleep(for: .seconds(Double(expiry) + 1.5 - Date().timeIntervalSince1970))
                let resumed = try await TLSClient.talk(
                    cluster, device: "press-9", [version, "-sess_in", session], sending: connect)
                #expect(resumed.output.contains("Reused, TLSv1"), "\(resumed.output)")
                #expect(!resumed.bytes.contains(sequence: MQTTBytes.accepted))
                try await cluster.edgeLogs("expired", "remote", skipping: before)
            }
        }

        @Test func anotherDevicesTopicIsRefused() async throws {
            try await withCluster(.init(devices: ["press-1"])) { cluster in
                try await cluster.startEdge()
                let tool = try await publish(cluster, device: "press-1", topic: "devices/press-2/telemetry")
                #expect(tool.output.contains("Not authorized"), "\(tool.output)")

                // On the wire: PUBACK with packet id 1 and reason 0x87, whatever properties follow.
                let bytes =
                    MQTTBytes.connect(id: "press-1", level: 5)
                    + MQTTBytes.publish(topic: "devices/press-2/t", payload: [1], qos: 1, level: 5)
                let raw = try await TLSClient.talk(cluster, device: "press-1", [], sending: bytes)
                let isRefused = raw.bytes.indices.dropLast(4).contains {
                    raw.bytes[$0] == 0x40 && raw.bytes[($0 + 2)...($0 + 4)] == [0, 1, 0x87]
                }
                #expect(isRefused, "\(raw.output)")
                let database = try await cluster.audit(journal: false)
                #expect(database["buffered"] == 0)
            }
        }

        @Test func aDevicesCertificateCannotPostABatch() async throws {
            try await withCluster(.init(devices: ["press-1"])) { cluster in
                try await cluster.startCloud()
                func post(_ folder: String, _ name: String) async throws -> String {
                    try await run(
                        "curl",
                        [
                            "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "--cacert",
                            cluster.pki + "/ca.crt",
                            "--cert", "\(cluster.pki)/\(folder)/\(name).crt",
                            "--key", "\(cluster.pki)/\(folder)/\(name).key", "--data-binary", "no batch",
                            "https://localhost:\(cluster.syncPort)/v1/batches",
                        ]
                    ).output
                }
                #expect(try await post("devices", "press-1") == "403")
                // A gateway gets further: its bytes are looked at, and found to be no batch.
                let gateways = try await post("gateways", cluster.options.gateway)
                #expect(["400", "415", "422"].contains(gateways), "\(gateways)")
                let logged = try await eventually("the cloud's log says why", within: 5) {
                    cluster.cloudLog.contains("not for a gateway") ? true : nil
                }
                #expect(logged)
            }
        }
    }
}

/// `openssl s_client` as a device.
enum TLSClient {
    static func talk(
        _ cluster: Cluster, device: String, _ arguments: [String], sending bytes: [UInt8]
    ) async throws -> ToolResult {
        let input = cluster.folder.appendingPathComponent("input-\(UUID().uuidString)")
        try Data(bytes).write(to: input)
        defer { try? FileManager.default.removeItem(at: input) }
        // The input stays open a little, so that the answer, and TLS 1.3's session tickets, can come.
        let command = """
            { cat "$0"; sleep 1; } | openssl s_client -connect localhost:\(cluster.mqttPort) -nocommands \
            -CAfile '\(cluster.pki)/ca.crt' -cert '\(cluster.pki)/devices/\(device).crt' \
            -key '\(cluster.pki)/devices/\(device).key' \(arguments.joined(separator: " ")) 2>&1
            """
        return try await run("bash", ["-c", command, input.path], within: 20)
    }
}

/// A daemon's `/metrics`.
enum Metrics {
    /// By name and labels, as they are written.
    static func series(_ cluster: Cluster) async throws -> [String: Double] {
        let text = try await run("curl", ["-fsS", "http://127.0.0.1:\(cluster.edgeStatus)/metrics"]).output
        var values: [String: Double] = [:]
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            guard let space = line.lastIndex(of: " ") else { continue }
            values[String(line[..<space])] = Double(line[line.index(after: space)...])
        }
        return values
    }

    static func edge(_ cluster: Cluster) async throws -> [String: Double] {
        let text = try await run("curl", ["-fsS", "http://127.0.0.1:\(cluster.edgeStatus)/metrics"]).output
        var values: [String: Double] = [:]
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            let name = line.prefix { $0 != "{" && $0 != " " }
            if let value = line.split(separator: " ").last.flatMap({ Double($0) }) {
                values[String(name), default: 0] += value
            }
        }
        return values
    }
}

extension [UInt8] {
    func contains(sequence: [UInt8]) -> Bool {
        guard count >= sequence.count, !sequence.isEmpty else { return false }
        return (0...(count - sequence.count)).contains { self[$0..<($0 + sequence.count)].elementsEqual(sequence) }
    }
}
