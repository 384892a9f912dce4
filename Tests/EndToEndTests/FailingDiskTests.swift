import Foundation
import TestSupport
import Testing

extension EndToEnd {
    /// The disk fails under the running daemon: no acknowledgement, an alarm, clients stay connected, and all goes on by
    /// itself when the disk is well. What came of it is proved by the audit.
    @Suite(.serialized) struct FailingDiskTests {
        private static func device(_ cluster: Cluster) async throws -> RawConnection {
            let connection = try RawConnection(port: cluster.plaintextPort)
            connection.send(MQTTBytes.connect(id: "d", isClean: false))
            #expect(try await connection.receive() == .bytes(MQTTBytes.accepted))
            return connection
        }

        private static func publish(_ n: UInt8) -> [UInt8] {
            MQTTBytes.publish(topic: "devices/d/t", payload: Array("{\"n\":\(n)}".utf8), qos: 1, packetID: n)
        }

        @Test(arguments: [FaultyDisk.Fault.failingSync, .failingWrite, .readOnly])
        func nothingIsAcknowledgedUntilTheDiskIsWell(fault: FaultyDisk.Fault) async throws {
            let disk = try await FaultyDisk()
            try await withCluster(.init(edgeEnvironment: disk.environment)) { cluster in
                try await cluster.startEdge()
                let device = try await Self.device(cluster)
                device.send(Self.publish(1))
                #expect(try await device.receive() == .bytes([0x40, 2, 0, 1]))

                try disk.begin(fault)
                device.send(Self.publish(2))
                let line = try await cluster.edgeLogs("The buffer's disk fails.")
                #expect(line.contains("buffer.db"))
                #expect(try await Self.readiness(cluster).contains("look at the kernel's log"))
                // Long enough for attempts to open the file anew, which fail.
                try await Task.sleep(for: .seconds(3))
                device.send(MQTTBytes.pingRequest)
                #expect(try await device.receive() == .bytes(MQTTBytes.pingResponse), "no acknowledgement before it")

                try disk.end(fault)
                #expect(try await device.receive(within: 15) == .bytes([0x40, 2, 0, 2]))
                try await cluster.edgeLogs("The buffer's disk is well again.")
                device.send(Self.publish(3))
                #expect(try await device.receive() == .bytes([0x40, 2, 0, 3]))
                _ = try await eventually("the edge is ready again", within: 10) {
                    await Cluster.isReady(port: cluster.edgeStatus) ? true : nil
                }

                try await cluster.startCloud()
                let audit = try await cluster.settledAudit(journal: false, within: 40)
                #expect(audit.status == 0 && audit["stored"] == 3 && audit["lost"] == 0, "\(audit)")
                #expect(try await Self.values(cluster) == ["1", "2", "3"], "each once")
            }
        }

        /// A page that once could not be read is no damage; one that cannot be read for good is, and costs what is on it.
        @Test func aPageThatCannotBeReadCostsWhatIsOnIt() async throws {
            let disk = try await FaultyDisk()
            var options = Cluster.Options(edgeEnvironment: disk.environment)
            options.limits = "groups: [{ name: local, limits: { bytesPerSecond: unlimited } }]"
            try await withCluster(options) { cluster in
                try await cluster.startEdge()
                let device = try await Self.device(cluster)
                for n in UInt8(1)...12 {
                    device.send(Self.padded(n))
                    #expect(try await device.receive() == .bytes([0x40, 2, 0, n]))
                }
                #expect(try await cluster.stopEdge() == 0)
                // Not the leaf, where the payload begins, but a page that the rest of it overflows to.
                let page = try Self.page(of: 9, in: cluster.buffer) + 4_096
                try disk.begin(reading: cluster.buffer, at: page, times: 1)
                try await cluster.startEdge()
                #expect(try disk.readsToFail() == 0 && !cluster.edgeLog.contains("salvaged"))

                #expect(try await cluster.stopEdge() == 0)
                try disk.begin(reading: cluster.buffer, at: page, times: -1)
                try await cluster.startEdge()
                #expect(cluster.edgeLog.contains("buffer was damaged and salvaged"))
                try await cluster.startCloud()
                let audit = try await cluster.settledAudit(journal: false, within: 40)
                #expect(audit.status == 0 && audit["buffered"] == 0 && audit["stored"] == 11, "\(audit)")
            }
        }

        /// The page on which a message's payload lies.
        private static func page(of n: Int, in file: String) throws -> Int {
            let text = Data("{\"n\":\(n),\"padding\"".utf8)
            let bytes = try Data(contentsOf: URL(fileURLWithPath: file))
            let place = try #require(bytes.range(of: text)?.lowerBound)
            return place / 4_096 * 4_096
        }

        /// A small file system is filled to the last byte by somebody else, and freed again.
        @Test(.enabled(if: SmallDisk.isPossible, "mounting needs root or sudo"))
        func aDiskFilledToTheLastByteAndFreedAgain() async throws {
            let disk = try SmallDisk(bytes: 12 << 20)
            var options = Cluster.Options()
            options.buffer = disk.path + "/buffer.db"
            try await withCluster(options) { cluster in
                try await cluster.startEdge()
                let device = try await Self.device(cluster)
                device.send(Self.publish(1))
                #expect(try await device.receive() == .bytes([0x40, 2, 0, 1]))
                try disk.fill()
                // The log has room for a while; then the promise can no longer be kept.
                var sent: UInt8 = 1
                var acknowledged: UInt8 = 1
                while sent == acknowledged, sent < 250 {
                    sent += 1
                    device.send(Self.padded(sent))
                    let end = ContinuousClock.now + .seconds(1)
                    while acknowledged < sent, ContinuousClock.now < end {
                        let answers = device.received()
                        acknowledged += UInt8(answers.count / 4)
                        try await Task.sleep(for: .milliseconds(5))
                    }
                }
                #expect(acknowledged == sent - 1, "the last one waits")
                try disk.free()
                #expect(try await device.receive() == .bytes([0x40, 2, 0, sent]))
                try await cluster.startCloud()
                let audit = try await cluster.settledAudit(journal: false, within: 40)
                #expect(audit.status == 0 && audit["stored"] == Int(sent) && audit["lost"] == 0, "\(audit)")
            }
        }

        private static func padded(_ n: UInt8) -> [UInt8] {
            let text = "{\"n\":\(n),\"padding\":\"" + String(repeating: "x", count: 60_000) + "\"}"
            return MQTTBytes.publish(topic: "devices/d/t", payload: Array(text.utf8), qos: 1, packetID: n)
        }

        private static func readiness(_ cluster: Cluster) async throws -> String {
            try await eventually("the edge says that it is not ready", within: 10) {
                let url = "http://127.0.0.1:\(cluster.edgeStatus)/health/ready"
                let result = try await run("curl", ["-sS", "-m", "2", url], within: 5)
                return result.output.contains("buffer.db") ? result.output : nil
            }
        }

        private static func values(_ cluster: Cluster) async throws -> [String] {
            try await cluster.query(
                """
                SELECT r.value::bigint FROM measurement r JOIN metric m ON m.id = r.metric_id WHERE m.path = 'n'
                ORDER BY 1
                """
            ).map { $0[0] }
        }
    }
}
