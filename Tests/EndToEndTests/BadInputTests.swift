import Foundation
import Glibc
import Testing

extension EndToEnd {
    /// Input that is wrong, late or hostile, over real sockets: the connection ends with the right reason, the daemon and
    /// the others go on.
    @Suite(.serialized) struct BadInputTests {
        private struct Attack: Sendable {
            let name: String
            let bytes: [UInt8]
            /// Words of the log line that says why.
            let reason: [String]
            var isTLS = false
        }

        private static let connected = MQTTBytes.connect(id: "bad")

        private static let attacks: [Attack] = [
            Attack(
                name: "a length of five bytes", bytes: connected + [0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
                reason: ["malformedPacket"]),
            Attack(
                name: "a packet above the limit", bytes: connected + [0x30, 0xFF, 0xFF, 0x7F],
                reason: ["packetTooLarge"]),
            Attack(
                name: "an oversized first packet", bytes: [0x10, 0xFF, 0xFF, 0x7F], reason: ["packetTooLarge"]),
            Attack(
                name: "a topic that is no UTF-8",
                bytes: connected + MQTTBytes.packet(0x30, [0, 2, 0xC3, 0x28, 1]), reason: ["malformedPacket"]),
            Attack(
                name: "a topic with U+0000", bytes: connected + MQTTBytes.packet(0x30, [0, 2, 0x61, 0, 1]),
                reason: ["malformedPacket"]),
            Attack(name: "a second CONNECT", bytes: connected + connected, reason: ["protocolError"]),
            Attack(
                name: "PUBLISH with QoS 3", bytes: connected + MQTTBytes.packet(0x36, MQTTBytes.string("a") + [0, 1]),
                reason: ["malformedPacket"]),
            Attack(
                name: "a field longer than its packet", bytes: connected + MQTTBytes.packet(0x30, [0, 9, 0x61]),
                reason: ["malformedPacket"]),
            Attack(
                name: "PUBLISH before CONNECT", bytes: MQTTBytes.publish(topic: "a", payload: [], qos: 0),
                reason: ["protocolError"]),
            Attack(name: "packet type 0", bytes: connected + [0, 0], reason: ["malformedPacket"]),
            Attack(
                name: "garbage instead of TLS", bytes: Array("GET / HTTP/1.1\r\n\r\n".utf8), reason: ["notTLS"],
                isTLS: true),
            Attack(
                name: "random bytes instead of TLS", bytes: (0..<512).map { UInt8($0 & 0xFF) ^ 0x5A }, reason: ["TLS"],
                isTLS: true),
        ]

        @Test func wrongBytesEndTheirConnectionAlone() async throws {
            try await withCluster(.init()) { cluster in
                try await cluster.startEdge()
                let bystander = try RawConnection(port: cluster.plaintextPort)
                bystander.send(MQTTBytes.connect(id: "bystander"))
                #expect(try await bystander.receive() == .bytes(MQTTBytes.accepted))

                for attack in Self.attacks {
                    let before = cluster.edgeLog.count
                    let connection = try RawConnection(port: attack.isTLS ? cluster.mqttPort : cluster.plaintextPort)
                    connection.send(attack.bytes)
                    _ = try await connection.receiveAll(within: 15)
                    do {
                        for word in attack.reason { try await cluster.edgeLogs(word, skipping: before) }
                    } catch {
                        Issue.record("\(attack.name): \(error); the log says \(cluster.edgeLog.dropFirst(before))")
                    }
                    bystander.send(MQTTBytes.pingRequest)
                    #expect(try await bystander.receive() == .bytes(MQTTBytes.pingResponse), "after \(attack.name)")
                }
                #expect(await cluster.edgeIsRunning)
            }
        }

        @Test func aTruncatedPacketIsWaitedForAndLeavesNothing() async throws {
            try await withCluster(.init()) { cluster in
                try await cluster.startEdge()
                let whole = MQTTBytes.publish(topic: "devices/bad/t", payload: Array(repeating: 7, count: 100), qos: 1)
                do {
                    let connection = try RawConnection(port: cluster.plaintextPort)
                    connection.send(Self.connected)
                    #expect(try await connection.receive() == .bytes(MQTTBytes.accepted))
                    connection.send(Array(whole.dropLast(1)))
                    try await Task.sleep(for: .milliseconds(300))
                }
                let audit = try await cluster.audit(journal: false)
                #expect(audit["buffered"] == 0, "\(audit)")
                #expect(await cluster.edgeIsRunning)
            }
        }

        @Test func drippedBytesDecodeTheSame() async throws {
            try await withCluster(.init()) { cluster in
                try await cluster.startEdge()
                let connection = try RawConnection(port: cluster.plaintextPort)
                let bytes =
                    Self.connected
                    + MQTTBytes.publish(topic: "devices/bad/t", payload: Array("{\"a\":1}".utf8), qos: 1, packetID: 9)
                    + MQTTBytes.pingRequest
                for byte in bytes {
                    connection.send([byte])
                    try await Task.sleep(for: .milliseconds(3))
                }
                var answer: [UInt8] = []
                while answer.count < 10, case .bytes(let more) = try await connection.receive() { answer += more }
                let sorted = Set([Array(answer.dropFirst(4).prefix(4)), Array(answer.suffix(4))])
                #expect(answer.prefix(4) == MQTTBytes.accepted[...])
                #expect(answer.count == 10 && answer.contains(sequence: [0x40, 2, 0, 9]), "\(sorted)")
                #expect(answer.contains(sequence: MQTTBytes.pingResponse))
            }
        }

        @Test func whoNeverSendsConnectIsCutOff() async throws {
            try await withCluster(.init()) { cluster in
                try await cluster.startEdge()
                // One says nothing, one sends its CONNECT so slowly that it never ends, one stalls in the handshake.
                let silent = try RawConnection(port: cluster.plaintextPort)
                let slow = try RawConnection(port: cluster.plaintextPort)
                let handshake = try RawConnection(port: cluster.mqttPort)
                handshake.send([0x16, 0x03, 0x01])
                let started = ContinuousClock.now
                let dripping = Task {
                    for byte in Self.connected {
                        slow.send([byte])
                        try await Task.sleep(for: .seconds(1))
                    }
                }
                for connection in [silent, slow] { _ = try await connection.receiveAll(within: 15) }
                let took = ContinuousClock.now - started
                #expect(took > .seconds(8) && took < .seconds(14), "\(took)")
                // TLS waits up to 5 s more for the other side's close_notify.
                _ = try await handshake.receiveAll(within: 10)
                dripping.cancel()
                try await cluster.edgeLogs("connectTimeout")
                #expect(await cluster.edgeIsRunning)
            }
        }
    }
}
