import Foundation
import Glibc
import Operations
import Testing

extension EndToEnd {
    /// Links of plants: cut, delayed, lossy, silent; and what has gathered meanwhile.
    @Suite(.serialized) struct LinkTests {
        private static func simulate(
            _ cluster: Cluster, prefix: String = "link", devices: Int, rate: Double, seconds: Double
        ) throws -> ChildProcess {
            try ChildProcess(
                Binaries.path("sluice"),
                [
                    "simulate", "--host", "localhost", "--port", String(cluster.mqttPort), "--pki", cluster.pki,
                    "--devices", String(devices), "--prefix", prefix, "--rate", String(rate), "--qos", "mixed",
                    "--seconds", String(seconds), "--drain-seconds", "60", "--journal", cluster.journal, "--json",
                ], output: cluster.folder.appendingPathComponent("\(prefix).log"))
        }

        private static func ids(_ prefix: String, _ count: Int) -> [String] {
            (1...count).map { "\(prefix)-" + String(repeating: "0", count: 4 - String($0).count) + "\($0)" }
        }

        /// thin-edge#3083 and #3185 lost messages here. Each batch is stored once, however often its answer is lost.
        @Test func nothingIsLostOrDoubledOverABadLink() async throws {
            let seed = UInt64.random(in: 0...999_999)
            print("link: seed \(seed)")
            try await withCluster(.init(devices: Self.ids("link", 8), badLink: seed)) { cluster in
                let link = try #require(cluster.link)
                try await cluster.startCloud()
                try await cluster.startEdge()
                let simulator = try Self.simulate(cluster, devices: 8, rate: 20, seconds: 12)
                for weather in [
                    BadLink.Weather(delay: 0.3), .init(delay: 0.02, requestLoss: 20, answerLoss: 30),
                    .init(isCut: true),
                    .init(isSilent: true), .init(answerLoss: 60),
                ] {
                    link.weather = weather
                    try await Task.sleep(for: .seconds(2.2))
                }
                link.weather = BadLink.Weather()
                #expect(try await simulator.wait(seconds: 90) == 0, "\(simulator.log)")
                // What is lost on the way is waited for: a minute for its answer.
                let audit = try await cluster.settledAudit(within: 130)
                #expect(audit.status == 0, "seed \(seed): \(audit)")
                #expect(audit["stored"] == audit["acknowledged"] && audit["duplicated"] == 0, "seed \(seed): \(audit)")
                #expect(link.losses > 0)
            }
        }

        /// Half an hour of five devices at a message a second, taken while the link is cut and through a kill of the edge; when
        /// the link is back, what is new does not wait for it (nanomq#1980 has it the other way round), and a kill while it
        /// drains neither loses nor doubles.
        @Test func halfAnHoursBacklogDrainsBesideLiveData() async throws {
            let devices = 5
            let backlog = 30 * 60 * devices
            // So slow that it takes some seconds.
            let options = Cluster.Options(
                devices: Self.ids("old", devices) + Self.ids("new", 1), uplink: "bandwidth: 16KiB", badLink: 1)
            try await withCluster(options) { cluster in
                let link = try #require(cluster.link)
                link.weather.isCut = true
                try await cluster.startCloud()
                try await cluster.startEdge()
                let old = try Self.simulate(cluster, prefix: "old", devices: devices, rate: 300, seconds: 120)
                try await Self.gather(backlog / 3, in: cluster)
                await cluster.killEdge()
                try await cluster.startEdge()
                try await Self.gather(backlog, in: cluster)
                old.signal(SIGTERM)
                #expect(try await old.wait(seconds: 60) == 0, "\(old.log)")

                link.weather = BadLink.Weather()
                // What comes before the uplink has found the cloud again is backlog too, and the breaker may have opened just now
                // and wait for half a minute: so new data goes on coming.
                let new = try Self.simulate(cluster, prefix: "new", devices: 1, rate: 5, seconds: 120)
                _ = try await eventually("new data is stored while old data waits", within: 60) { () -> Bool? in
                    let stored = try await cluster.count(
                        "SELECT count(*) FROM measurement JOIN device d ON d.id = device_id WHERE d.name LIKE 'new-%'")
                    guard stored > 0 else { return nil }
                    return try await Self.waiting(in: cluster) > 0 ? true : nil
                }
                await cluster.killEdge()
                try await cluster.startEdge()
                new.signal(SIGTERM)
                #expect(try await new.wait(seconds: 60) == 0, "\(new.log)")
                let audit = try await cluster.settledAudit(within: 120)
                #expect(audit.status == 0, "\(audit)")
                // A message whose PUBACK a kill took with it is sent again (MQTT 4.3.2): both are stored, and the audit tells.
                #expect(audit["acknowledged"] >= backlog && audit["duplicated"] == 0, "\(audit)")
                #expect(audit["stored"] == audit["acknowledged"] + audit["redelivered"], "\(audit)")
            }
        }

        private static func waiting(in cluster: Cluster) async throws -> Int {
            Int(try await Metrics.edge(cluster)["sluice_buffer_messages"] ?? 0)
        }

        private static func gather(_ count: Int, in cluster: Cluster) async throws {
            _ = try await eventually("\(count) messages wait", within: 60) {
                try await waiting(in: cluster) >= count ? true : nil
            }
        }
    }
}
