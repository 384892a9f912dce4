import Flow
import MQTTWire
import NIOCore
import Testing

struct EncodingTests {
    @Test(arguments: [0x40, 0x50, 0x70] as [UInt8]) func fastAcknowledgements(kind: UInt8) {
        var buffer = ByteBuffer()
        buffer.writeAcknowledgement(kind: kind, packetID: 0xABCD)
        #expect(Array(buffer.readableBytesView) == [kind, 2, 0xAB, 0xCD])
    }

    @Test func diagnosticsAreDroppedWhereTheyDoNotFit() {
        var connack = ConnAck(reason: .notAuthorized)
        connack.reasonString = "a long story"
        connack.userProperties = [UserProperty(name: "a", value: "b")]
        var disconnect = Disconnect(reason: .serverMoved, reasonString: "a long story")
        disconnect.userProperties = connack.userProperties
        var auth = Auth(reason: .continueAuthentication)
        auth.reasonString = "a long story"
        let cases: [(Packet, [UInt8])] = [
            (.connack(connack), [0x20, 3, 0, 0x87, 0]),
            (
                .puback(Acknowledgement(packetID: 1, reason: .quotaExceeded, reasonString: "a long story")),
                [0x40, 3, 0, 1, 0x97]
            ),
            (
                .pubrec(Acknowledgement(packetID: 1, reason: .quotaExceeded, reasonString: "a long story")),
                [0x50, 3, 0, 1, 0x97]
            ),
            (
                .pubrel(
                    Acknowledgement(packetID: 1, reason: .packetIdentifierNotFound, reasonString: "a long story")),
                [0x62, 3, 0, 1, 0x92]
            ),
            (.pubcomp(Acknowledgement(packetID: 1, reasonString: "a long story")), [0x70, 2, 0, 1]),
            (.suback(SubAck(packetID: 1, reasons: [.success], reasonString: "a long story")), [0x90, 4, 0, 1, 0, 0]),
            (
                .unsuback(UnsubAck(packetID: 1, reasons: [.success], reasonString: "a long story")),
                [0xB0, 4, 0, 1, 0, 0]
            ),
            (.disconnect(disconnect), [0xE0, 1, 0x9D]),
            (.auth(auth), [0xF0, 1, 0x18]),
        ]
        for (packet, short) in cases {
            var full = ByteBuffer()
            full.write(packet, version: .v5)
            #expect(full.readableBytes > short.count)
            #expect(Self.written(packet, .v5, full.readableBytes) == Array(full.readableBytesView))
            #expect(Self.written(packet, .v5, full.readableBytes - 1) == short)
            #expect(Self.written(packet, .v5, short.count) == short)
            #expect(Self.written(packet, .v5, short.count - 1) == nil)
        }
    }

    @Test func aPublishThatDoesNotFitIsNotWritten() {
        let publish = Packet.publish(Publish(topic: bytes("t"), payload: bytes("p")))
        #expect(Self.written(publish, .v5, 6) == nil)
        #expect(Self.written(publish, .v311, 5) == nil)
        #expect(Self.written(publish, .v5, 7) == [0x30, 5] + text("t") + [0, 0x70])
    }

    /// What is written behind bytes that are there already; `nil` if nothing was.
    private static func written(_ packet: Packet, _ version: ProtocolVersion, _ maximumSize: Int) -> [UInt8]? {
        var buffer = ByteBuffer(bytes: [9])
        let isWritten = buffer.write(packet, version: version, maximumSize: maximumSize)
        #expect(buffer.getInteger(at: 0, as: UInt8.self) == 9)
        #expect(isWritten == (buffer.readableBytes > 1))
        return isWritten ? Array(buffer.readableBytesView.dropFirst()) : nil
    }

    /// The shared encoding gives each subscriber the bytes that an encoding of its own would have.
    @Test(arguments: 0..<300 as Range<UInt64>) func sharedPublishEqualsItsOwnEncoding(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        var publish = Publish(
            topic: bytes(String(repeating: "t", count: Int.random(in: 1...200, using: &generator))),
            payload: ByteBuffer(
                repeating: 1, count: [0, 1, 100, 110, 120, 127, 16_370].randomElement(using: &generator)!))
        publish.messageExpiry = Bool.random(using: &generator) ? 77 : nil
        let values = Int.random(in: 0...40, using: &generator)
        publish.applicationProperties = ByteBuffer(bytes: (0..<values).flatMap { _ in [0x26] + text("k") + [0, 0] })
        let version: ProtocolVersion = Bool.random(using: &generator) ? .v5 : .v311
        let qos = [QoS.atMostOnce, .atLeastOnce, .exactlyOnce].randomElement(using: &generator)!
        let shared = EncodedPublish(publish, version: version, qos: qos)

        var together = ByteBuffer()
        var expected = ByteBuffer()
        for _ in 0..<5 {
            publish.qos = qos
            publish.packetID = qos == .atMostOnce ? 0 : UInt16.random(in: 1...65_535, using: &generator)
            publish.retain = Bool.random(using: &generator)
            publish.duplicate = qos != .atMostOnce && Bool.random(using: &generator)
            publish.subscriptionIdentifiers = (0..<Int.random(in: 0...3, using: &generator)).map { _ in
                [1, 127, 128, 20_000, 3_000_000].randomElement(using: &generator)!
            }
            let naming: TopicNaming = [.name, .nameWithAlias(9), .alias(65_535)].randomElement(using: &generator)!
            shared.write(
                to: &together, packetID: publish.packetID, retain: publish.retain, duplicate: publish.duplicate,
                subscriptionIdentifiers: publish.subscriptionIdentifiers, topic: naming)
            var alone = publish
            switch naming {
            case .name: break
            case .nameWithAlias(let alias): alone.topicAlias = alias
            case .alias(let alias):
                alone.topicAlias = alias
                // 3.1.1 knows no aliases.
                if version == .v5 { alone.topic = ByteBuffer() }
            }
            expected.write(.publish(alone), version: version)
            #expect(together == expected)
        }
    }
}
