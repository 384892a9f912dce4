import Flow
import MQTTWire
import NIOCore
import Testing

struct RoundTripTests {
    @Test(arguments: Samples.all) func encodesToTheKnownBytes(_ sample: Sample) {
        var buffer = ByteBuffer()
        buffer.write(sample.packet, version: sample.version)
        #expect(Array(buffer.readableBytesView) == sample.bytes)
    }

    @Test(arguments: Samples.all) func decodesFromTheKnownBytes(_ sample: Sample) throws {
        var decoder = sample.decoder
        var buffer = ByteBuffer(bytes: sample.bytes + [0xC0])
        let packet = try decoder.next(&buffer)
        #expect(packet == sample.packet)
        #expect(decoder.version == sample.version)
        #expect(buffer.readableBytes == 1, "it takes its own bytes and no more")
        let more = try decoder.next(&buffer)
        #expect(more == nil)
    }

    @Test(arguments: Samples.all) func decodesByteByByte(_ sample: Sample) throws {
        var decoder = sample.decoder
        var buffer = ByteBuffer()
        for byte in sample.bytes.dropLast() {
            buffer.writeInteger(byte)
            let early = try decoder.next(&buffer)
            #expect(early == nil)
        }
        buffer.writeInteger(try #require(sample.bytes.last))
        let packet = try decoder.next(&buffer)
        #expect(packet == sample.packet)
        #expect(buffer.readableBytes == 0)
    }

    /// All packets of a version in one stream, cut at random places, with the buffer discarding what was read.
    @Test(arguments: [ProtocolVersion.v311, .v5], 0..<50 as Range<UInt64>)
    func decodesAtRandomSplits(version: ProtocolVersion, seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        let samples = Samples.all.filter { $0.version == version }
        let connect = samples[0]
        let stream =
            [connect]
            + samples.filter { if case .connect = $0.packet { false } else { true } }
            .shuffled(using: &generator)
        var rest = stream.flatMap(\.bytes)[...]
        var decoder = PacketDecoder(maximumPacketSize: 256)
        var buffer = ByteBuffer()
        var decoded: [Packet] = []
        while !rest.isEmpty {
            let count = Int.random(in: 1...min(rest.count, 40), using: &generator)
            buffer.writeBytes(rest.prefix(count))
            rest = rest.dropFirst(count)
            while let packet = try decoder.next(&buffer) { decoded.append(packet) }
            if Bool.random(using: &generator) { buffer.discardReadBytes() }
        }
        #expect(decoded == stream.map(\.packet))
    }

    @Test func publishIsSlicedNotCopied() throws {
        var buffer = ByteBuffer()
        let properties = ByteBuffer(bytes: [0x26] + text("name") + text("value"))
        buffer.write(
            .publish(
                Publish(topic: bytes("topic"), payload: bytes("payload"), applicationProperties: properties)),
            version: .v5)
        var decoder = PacketDecoder(maximumPacketSize: 1_000)
        decoder.version = .v5
        let whole = buffer
        guard case .publish(let publish) = try decoder.next(&buffer) else {
            Issue.record("no PUBLISH")
            return
        }
        let range = whole.withUnsafeReadableBytes {
            UInt(bitPattern: $0.baseAddress)..<UInt(bitPattern: $0.baseAddress) + UInt($0.count)
        }
        for slice in [publish.topic, publish.payload, publish.applicationProperties] {
            #expect(slice.withUnsafeReadableBytes { range.contains(UInt(bitPattern: $0.baseAddress)) })
        }
    }

    /// Whatever stands between them, the properties that travel on keep their bytes and their order.
    @Test(arguments: 0..<200 as Range<UInt64>) func forwardedPropertiesKeepTheirOrder(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        let once: [(forwarded: Bool, bytes: [UInt8])] = [
            (true, [0x01, 1]), (true, [0x03] + text("t")), (true, [0x08] + text("r")), (true, [0x09] + text("c")),
            (false, [0x02, 0, 0, 0, 9]), (false, [0x23, 0, 7]),
        ]
        var chosen = once.filter { _ in Bool.random(using: &generator) }
        for index in 0..<Int.random(in: 0...4, using: &generator) {
            chosen.append((true, [0x26] + text("k") + text("\(index)")))
            chosen.append((false, [0x0B, UInt8(index + 1)]))
        }
        chosen.shuffle(using: &generator)
        let block = chosen.flatMap(\.bytes)
        let body = text("t") + [UInt8(block.count)] + block + [0x55]
        var buffer = ByteBuffer(bytes: [0x30, UInt8(body.count)] + body)
        var decoder = PacketDecoder(maximumPacketSize: 1_000)
        decoder.version = .v5
        guard case .publish(let publish) = try decoder.next(&buffer) else {
            Issue.record("no PUBLISH")
            return
        }
        #expect(Array(publish.applicationProperties.readableBytesView) == chosen.filter(\.forwarded).flatMap(\.bytes))
        #expect((publish.messageExpiry == 9) == chosen.contains { $0.bytes.first == 0x02 })
        #expect((publish.topicAlias == 7) == chosen.contains { $0.bytes.first == 0x23 })
        #expect(publish.subscriptionIdentifiers == chosen.filter { $0.bytes.first == 0x0B }.map { UInt32($0.bytes[1]) })
        #expect(publish.payload == ByteBuffer(bytes: [0x55]))
    }

    /// 3.1.1 does not demand the shortest form of the remaining length, and some small clients always send four bytes.
    @Test func aPaddedRemainingLengthIsReadIn311() throws {
        var decoder = PacketDecoder(maximumPacketSize: 100)
        decoder.version = .v311
        var buffer = ByteBuffer(bytes: [0x30, 0x83, 0x80, 0x80, 0x00] + text("a"))
        let packet = try decoder.next(&buffer)
        #expect(packet == .publish(Publish(topic: bytes("a"), payload: ByteBuffer())))
    }

    @Test(arguments: [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152]) func lengthsOfEverySize(count: Int) throws {
        let publish = Publish(topic: bytes("t"), payload: ByteBuffer(repeating: 7, count: count))
        for version in [ProtocolVersion.v311, .v5] {
            var buffer = ByteBuffer()
            buffer.write(.publish(publish), version: version)
            var decoder = PacketDecoder(maximumPacketSize: buffer.readableBytes)
            decoder.version = version
            let packet = try decoder.next(&buffer)
            #expect(packet == .publish(publish))
        }
    }

    @Test(
        arguments: [
            (ReasonCode.unsupportedProtocolVersion, 1), (.clientIdentifierNotValid, 2), (.serverUnavailable, 3),
            (.badUserNameOrPassword, 4), (.badAuthenticationMethod, 4), (.notAuthorized, 5), (.banned, 5),
            (.quotaExceeded, 3),
        ] as [(ReasonCode, UInt8)])
    func refusalsIn311(reason: ReasonCode, code: UInt8) throws {
        var buffer = ByteBuffer()
        buffer.write(.connack(ConnAck(reason: reason)), version: .v311)
        #expect(Array(buffer.readableBytesView) == [0x20, 2, 0, code])
        var decoder = PacketDecoder(maximumPacketSize: 100)
        decoder.version = .v311
        guard case .connack(let connack) = try decoder.next(&buffer) else {
            Issue.record("no CONNACK")
            return
        }
        #expect(connack.reason.isFailure)
    }

    @Test func whatThreeOneOneHasNoPlaceForIsLeftOut() {
        var publish = Publish(topic: bytes("t"), payload: bytes("p"), topicAlias: 1, messageExpiry: 2)
        publish.subscriptionIdentifiers = [1]
        publish.applicationProperties = ByteBuffer(bytes: [0x01, 1])
        let cases: [(Packet, [UInt8])] = [
            (.publish(publish), [0x30, 4] + text("t") + [0x70]),
            (.puback(Acknowledgement(packetID: 1, reason: .quotaExceeded, reasonString: "x")), [0x40, 2, 0, 1]),
            (.suback(SubAck(packetID: 1, reasons: [.notAuthorized], reasonString: "x")), [0x90, 3, 0, 1, 0x80]),
            (.disconnect(Disconnect(reason: .serverMoved, reasonString: "x")), [0xE0, 0]),
        ]
        for (packet, expected) in cases {
            var buffer = ByteBuffer()
            buffer.write(packet, version: .v311)
            #expect(Array(buffer.readableBytesView) == expected)
        }
    }

    @Test func maximumQoSTwoIsNotSent() {
        var connack = ConnAck(reason: .success)
        connack.maximumQoS = .exactlyOnce
        var buffer = ByteBuffer()
        buffer.write(.connack(connack), version: .v5)
        #expect(Array(buffer.readableBytesView) == [0x20, 3, 0, 0, 0])
    }
}
