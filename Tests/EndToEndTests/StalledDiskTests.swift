import Foundation
import Glibc
import Testing

extension EndToEnd {
    /// An acknowledgement means fsynced: while the disk stalls none leaves, and what left before is there afterwards.
    @Suite(.serialized) struct StalledDiskTests {
        /// A question to the daemon whose answer states something durable.
        private struct Question {
            let name: String
            let connection: RawConnection
            let bytes: [UInt8]
            let answer: [UInt8]
        }

        private static func connection(
            _ cluster: Cluster, _ id: String, isClean: Bool = true, level: UInt8 = 4
        ) async throws -> RawConnection {
            let connection = try RawConnection(port: cluster.plaintextPort)
            connection.send(MQTTBytes.connect(id: id, level: level, isClean: isClean))
            guard case .bytes(let answer) = try await connection.receive(), answer.first == 0x20 else {
                throw ChildProcess.Failure(description: "\(id) was not accepted")
            }
            return connection
        }

        private static func publish(_ id: String, qos: UInt8, packetID: UInt8, n: Int = 0, level: UInt8 = 4) -> [UInt8]
        {
            MQTTBytes.publish(
                topic: "devices/\(id)/t", payload: Array("{\"n\":\(n)}".utf8), qos: qos, packetID: packetID,
                level: level)
        }

        private static func subscribe(_ filter: String, packetID: UInt8) -> [UInt8] {
            MQTTBytes.packet(0x82, [0, packetID] + MQTTBytes.string(filter) + [1])
        }

        /// Every kind of packet that waits for a commit, each on a connection of its own. To be made before the stall.
        private static func questions(_ cluster: Cluster) async throws -> [Question] {
            let released = try await connection(cluster, "released", isClean: false)
            released.send(publish("released", qos: 2, packetID: 7))
            #expect(try await released.receive() == .bytes([0x50, 2, 0, 7]))
            let old = try await connection(cluster, "old", isClean: false)
            old.send([0xE0, 0])
            _ = try await old.receiveAll()
            let reader = try await connection(cluster, "reader")
            reader.send(subscribe("devices/reader/#", packetID: 8))
            #expect(try await reader.receive() == .bytes([0x90, 3, 0, 8, 1]))
            let message = publish("reader", qos: 1, packetID: 1)
            return [
                Question(
                    name: "PUBACK", connection: try await connection(cluster, "q1"),
                    bytes: publish("q1", qos: 1, packetID: 3), answer: [0x40, 2, 0, 3]),
                Question(
                    name: "PUBACK of 5.0", connection: try await connection(cluster, "q1-5", level: 5),
                    bytes: publish("q1-5", qos: 1, packetID: 4, level: 5), answer: [0x40, 2, 0, 4]),
                Question(
                    name: "PUBREC", connection: try await connection(cluster, "q2"),
                    bytes: publish("q2", qos: 2, packetID: 5), answer: [0x50, 2, 0, 5]),
                Question(
                    name: "PUBREC in a stored session",
                    connection: try await connection(cluster, "q2-stored", isClean: false),
                    bytes: publish("q2-stored", qos: 2, packetID: 6), answer: [0x50, 2, 0, 6]),
                Question(
                    name: "PUBCOMP", connection: released, bytes: [0x62, 2, 0, 7], answer: [0x70, 2, 0, 7]),
                Question(
                    name: "SUBACK", connection: try await connection(cluster, "sub", isClean: false),
                    bytes: subscribe("devices/sub/#", packetID: 9), answer: [0x90, 3, 0, 9, 1]),
                Question(
                    name: "UNSUBACK", connection: try await connection(cluster, "unsub", isClean: false),
                    bytes: MQTTBytes.packet(0xA2, [0, 10] + MQTTBytes.string("devices/unsub/#")),
                    answer: [0xB0, 2, 0, 10]),
                Question(
                    name: "CONNACK of a new stored session",
                    connection: try RawConnection(port: cluster.plaintextPort),
                    bytes: MQTTBytes.connect(id: "new", isClean: false), answer: MQTTBytes.accepted),
                Question(
                    name: "CONNACK of a stored session that goes on",
                    connection: try RawConnection(port: cluster.plaintextPort),
                    bytes: MQTTBytes.connect(id: "old", isClean: false), answer: MQTTBytes.resumed),
                Question(
                    name: "a message for a subscriber, and its PUBACK", connection: reader, bytes: message,
                    answer: [0x40, 2, 0, 1] + message),
            ]
        }

        @Test func noAcknowledgementLeavesBeforeItsFsync() async throws {
            let disk = try await FaultyDisk()
            try await withCluster(.init(edgeEnvironment: disk.environment)) { cluster in
                try await cluster.startEdge()
                let questions = try await Self.questions(cluster)
                let pinging = try await Self.connection(cluster, "pinging")
                try disk.begin(.stall)
                // The first question's commit stalls; the others wait in the group behind it.
                questions[0].connection.send(questions[0].bytes)
                try await disk.holdsOne()
                for question in questions.dropFirst() { question.connection.send(question.bytes) }
                let end = ContinuousClock.now + .seconds(1)
                while ContinuousClock.now < end {
                    // The daemon reads and writes all the while; only what is a promise waits.
                    pinging.send(MQTTBytes.pingRequest)
                    #expect(try await pinging.receive() == .bytes(MQTTBytes.pingResponse))
                    for question in questions {
                        #expect(question.connection.received() == [], "\(question.name) left before its fsync")
                    }
                }
                try disk.end(.stall)
                for question in questions {
                    let answer = try await question.connection.receive(count: question.answer.count)
                    #expect(answer == question.answer, "\(question.name)")
                }
            }
        }

        @Test func whatWasAcknowledgedBeforeAKillInAStallIsThere() async throws {
            let disk = try await FaultyDisk()
            var options = Cluster.Options(edgeEnvironment: disk.environment)
            options.limits = "limits: { device: { messagesPerSecond: unlimited } }"
            try await withCluster(options) { cluster in
                try await cluster.startEdge()
                let device = try await Self.connection(cluster, "killed", isClean: false)
                let atLeastOnce: [UInt8] = Array(1...20)
                let exactlyOnce: [UInt8] = Array(101...110)
                for n in atLeastOnce { device.send(Self.publish("killed", qos: 1, packetID: n, n: Int(n))) }
                for n in exactlyOnce { device.send(Self.publish("killed", qos: 2, packetID: n, n: Int(n))) }
                let promises = try await device.receive(count: 120)
                #expect(
                    promises == atLeastOnce.flatMap { [0x40, 2, 0, $0] } + exactlyOnce.flatMap { [0x50, 2, 0, $0] })
                // Half of the QoS 2 exchanges come to their end before the stall.
                for n in exactlyOnce.prefix(5) { device.send([0x62, 2, 0, n]) }
                #expect(try await device.receive(count: 20) == exactlyOnce.prefix(5).flatMap { [0x70, 2, 0, $0] })

                try disk.begin(.stall)
                device.send(Self.publish("killed", qos: 1, packetID: 21, n: 21))
                try await disk.holdsOne()
                device.send(Self.publish("killed", qos: 2, packetID: 111, n: 111) + [0x62, 2, 0, 106])
                device.send(MQTTBytes.pingRequest)
                #expect(try await device.receive() == .bytes(MQTTBytes.pingResponse))
                await cluster.killEdge()
                try disk.end(.stall)

                try await cluster.startCloud()
                try await cluster.startEdge()
                try await Self.resumeAfterKill(cluster)
                let audit = try await cluster.settledAudit(journal: false, within: 40)
                #expect(audit["buffered"] == 0, "\(audit)")
                try await Self.judge(cluster, atLeastOnce: atLeastOnce + [21], exactlyOnce: exactlyOnce + [111])
            }
        }

        /// The device goes on as the standard wants: what has no answer is sent again.
        private static func resumeAfterKill(_ cluster: Cluster) async throws {
            let again = try RawConnection(port: cluster.plaintextPort)
            again.send(MQTTBytes.connect(id: "killed", isClean: false))
            #expect(try await again.receive() == .bytes(MQTTBytes.resumed))
            var bytes = publish("killed", qos: 1, packetID: 21, n: 21)
            bytes[0] |= 8
            var second = publish("killed", qos: 2, packetID: 111, n: 111)
            second[0] |= 8
            for n: UInt8 in 106...110 { bytes += [0x62, 2, 0, n] }
            again.send(bytes + second)
            let answers = try await again.receive(count: 28)
            #expect(
                answers == [0x40, 2, 0, 21] + (106...110).flatMap { [0x70, 2, 0, $0] } + [0x50, 2, 0, 111])
            again.send([0x62, 2, 0, 111])
            #expect(try await again.receive(count: 4) == [0x70, 2, 0, 111])
        }

        private static func judge(_ cluster: Cluster, atLeastOnce: [UInt8], exactlyOnce: [UInt8]) async throws {
            let rows = try await cluster.query(
                """
                SELECT r.value::bigint, count(*)
                FROM measurement r JOIN metric m ON m.id = r.metric_id JOIN device d ON d.id = r.device_id
                WHERE m.path = 'n' AND d.name = 'killed' GROUP BY 1
                """)
            let counts = Dictionary(uniqueKeysWithValues: rows.map { (Int($0[0]) ?? -1, Int($0[1]) ?? -1) })
            #expect(Set(counts.keys) == Set((atLeastOnce + exactlyOnce).map(Int.init)))
            for n in exactlyOnce { #expect(counts[Int(n)] == 1, "QoS 2, n = \(n)") }
            // Acknowledged before the kill, so sent once; the last one twice.
            for n in atLeastOnce.dropLast() { #expect(counts[Int(n)] == 1, "QoS 1, n = \(n)") }
            #expect((1...2).contains(counts[21] ?? 0))
        }
    }
}
