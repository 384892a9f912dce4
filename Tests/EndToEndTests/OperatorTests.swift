import Foundation
import Glibc
import Testing

extension EndToEnd {
    /// What an operator does with a gateway that runs: the tool, SIGHUP, the page in a browser.
    @Suite(.serialized) struct OperatorTests {
        /// A device has three messages, and one more every hundred seconds.
        private func withGateway(_ body: (Cluster) async throws -> Void) async throws {
            try await withCluster(
                .init(
                    limits: """
                        limits: { device: { messagesPerSecond: 0.01, burst: 3, bytesPerSecond: unlimited } }
                        """)
            ) { cluster in
                try await cluster.startEdge()
                try await body(cluster)
            }
        }

        private func connect(_ cluster: Cluster, _ id: String) async throws -> RawConnection {
            let connection = try RawConnection(port: cluster.plaintextPort)
            connection.send(MQTTBytes.connect(id: id))
            #expect(try await connection.receive(count: 4) == MQTTBytes.accepted)
            return connection
        }

        private func publish(_ connection: RawConnection, _ id: String, _ count: UInt8) async throws {
            for number in 1...count {
                connection.send(
                    MQTTBytes.publish(
                        topic: "devices/\(id)/t", payload: Array("\(number)".utf8), qos: 1, packetID: number))
                #expect(try await connection.receive(count: 4) == [0x40, 2, 0, number])
            }
        }

        @Test func theToolAsksTheDaemonAndThenTheFile() async throws {
            try await withGateway { cluster in
                let buffer = cluster.folder.path + "/edge/buffer.db"
                let pump = try await connect(cluster, "pump-1")
                try await publish(pump, "pump-1", 3)
                // Of a QoS 0 message nobody hears: it is refused and counted.
                for _ in 0..<4 {
                    pump.send(MQTTBytes.publish(topic: "devices/pump-1/t", payload: [0xFF], qos: 0))
                }
                _ = try await eventually("the refusals are listed", within: 10) { () -> Bool? in
                    let list = try await Binaries.sluice(["device", "list", "--buffer", buffer])
                    return list.contains("pump-1") && list.contains("refused") && list.contains("rate=") ? true : nil
                }
                let json = try await Binaries.sluice(["device", "list", "--buffer", buffer, "--json"])
                #expect(json.contains("\"limit\" : \"refused\"") && json.contains("\"gateway\" : \"plant-7\""))

                for isRunning in [true, false] {
                    if !isRunning {
                        #expect(try await cluster.stopEdge() == 0)
                        let refused = try await run(
                            Binaries.path("sluice"), ["device", "list", "--buffer", buffer])
                        #expect(refused.status != 0 && refused.output.contains("no gateway serves this buffer"))
                    }
                    let stats = try await Binaries.sluice(["buffer", "stats", "--buffer", buffer])
                    #expect(stats.contains("gateway       plant-7") && stats.contains("messages      3"), "\(stats)")
                    let tail = try await Binaries.sluice(["buffer", "tail", "-n", "2", "--buffer", buffer])
                    let lines = tail.split(separator: "\n")
                    #expect(
                        lines.count == 2 && lines[1].contains("pump-1") && lines[1].hasSuffix("qos 1  3"), "\(tail)")
                    let export = try await Binaries.sluice(["buffer", "export", "--buffer", buffer])
                    #expect(export.split(separator: "\n").filter { $0.hasPrefix("{\"epoch\":") }.count == 3)
                    #expect(export.contains("3 messages"))
                    let refused = try await Binaries.sluice(["buffer", "dead-letters", "--buffer", buffer])
                    #expect(refused.contains("0 dead letters"))
                }
                // A reader that has enough ends it as it ends other tools: by SIGPIPE, without a word.
                let piped = try await run(
                    "bash",
                    [
                        "-c", "\"$0\" buffer export --buffer \"$1\" | true; echo status ${PIPESTATUS[0]}",
                        Binaries.path("sluice"), buffer,
                    ])
                #expect(piped.output == "status 141\n", "\(piped.output)")
                let wrong = try await run(Binaries.path("sluice"), ["buffer", "tail", "-n", "0", "--buffer", buffer])
                #expect(wrong.status != 0 && wrong.output.contains("allowed are 1 to 10000"))
                let missing = try await run(Binaries.path("sluice"), ["buffer", "stats", "--buffer", "/nowhere/b.db"])
                #expect(missing.status != 0 && missing.output.contains("there is no buffer"))
            }
        }

        @Test func refusalsOutliveTheDaemon() async throws {
            try await withGateway { cluster in
                let buffer = cluster.folder.path + "/edge/buffer.db"
                let pump = try await connect(cluster, "pump-1")
                for _ in 0..<20 {
                    pump.send(MQTTBytes.publish(topic: "devices/pump-1/t", payload: [1], qos: 0))
                }
                pump.send(MQTTBytes.pingRequest)
                #expect(try await pump.receive(count: 2) == MQTTBytes.pingResponse)
                func refused() async throws -> Int? {
                    let list = try await Binaries.sluice(["device", "list", "--buffer", buffer])
                    return list.matches(of: /rate=(\d+)/).first.flatMap { Int($0.output.1) }
                }
                let before = try #require(try await refused())
                #expect(before >= 15)
                #expect(try await cluster.stopEdge() == 0)
                try await cluster.startEdge()
                let again = try await connect(cluster, "pump-1")
                #expect(try await refused() == before)
                again.send([0xE0, 0])
            }
        }

        @Test func hangupReadsTheConfigurationAgain() async throws {
            try await withGateway { cluster in
                let pump = try await connect(cluster, "pump-1")
                let text = try String(contentsOf: cluster.edgeConfiguration, encoding: .utf8)
                try (text + "\nbroken: 1\n").write(to: cluster.edgeConfiguration, atomically: true, encoding: .utf8)
                await cluster.signalEdge(SIGHUP)
                try await cluster.edgeLogs("nothing of it changes", "broken")

                try text.replacingOccurrences(of: "messagesPerSecond: 0.01", with: "messagesPerSecond: unlimited")
                    .replacingOccurrences(of: "freeDiskFloor: 0%", with: "freeDiskFloor: 1%")
                    .write(to: cluster.edgeConfiguration, atomically: true, encoding: .utf8)
                await cluster.signalEdge(SIGHUP)
                try await cluster.edgeLogs("was read again", "limits.device")
                try await cluster.edgeLogs("restart it", "buffer")
                // The same connection, far beyond its old limit.
                try await publish(pump, "pump-1", 40)
            }
        }

        @Test func theStatusPageIsReadableInABrowser() async throws {
            try await withGateway { cluster in
                let pump = try await connect(cluster, "pump-1")
                for _ in 0..<10 {
                    pump.send(MQTTBytes.publish(topic: "devices/pump-1/t", payload: [1], qos: 0))
                }
                let other = try await connect(cluster, "pump-2")
                other.send(MQTTBytes.pingRequest)
                #expect(try await other.receive(count: 2) == MQTTBytes.pingResponse)
                let url = "http://127.0.0.1:\(cluster.edgeStatus)/"
                let profile = cluster.folder.appendingPathComponent("browser").path
                func browser(_ arguments: String...) async throws -> String {
                    let result = try await run(
                        "chromium-headless-shell",
                        ["--no-sandbox", "--disable-gpu", "--user-data-dir=\(profile)"] + arguments + [url], within: 60)
                    #expect(result.status == 0, "\(result.output)")
                    return result.output
                }
                let page = try await browser("--dump-dom")
                for part in [
                    "<title>plant-7 · Sluice</title>", "pump-1", "pump-2", ">refused<", "Connections",
                    "Waiting for the cloud", "Sync lag", "Messages in the buffer", "listener 127.0.0.1",
                    "revocation list of", "this gateway, for the cloud",
                ] {
                    #expect(page.contains(part), "\(part) is not in \(page)")
                }
                #expect(!page.contains("<script"))
                for width in [390, 1_280] {
                    let picture = cluster.folder.appendingPathComponent("page-\(width).png")
                    _ = try await browser("--screenshot=\(picture.path)", "--window-size=\(width),900")
                    let size = try FileManager.default.attributesOfItem(atPath: picture.path)[.size] as? Int
                    #expect(size ?? 0 > 5_000)
                }
                let head = try await run("curl", ["-sS", "-D", "-", "-o", "/dev/null", url])
                #expect(head.output.contains("Content-Security-Policy: default-src 'none'"))
                #expect(head.output.contains("text/html; charset=utf-8"))
            }
        }
    }
}
