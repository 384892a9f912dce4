import Flow
import MQTTWire
import NIOCore
import Testing

/// Hostile bytes: nothing crashes, nothing is read beyond the packet, and what is decoded can be encoded and decoded to
/// the same again.
struct FuzzTests {
    private static let maximum = 512

    private static func feed(_ input: [UInt8], version: ProtocolVersion?, decoded: inout Int) {
        // Bytes behind the readable ones would show an over-read as a wrong success.
        var buffer = ByteBuffer(bytes: input + Array(repeating: 0, count: 16))
        buffer.moveWriterIndex(to: input.count)
        var decoder = PacketDecoder(maximumPacketSize: maximum)
        decoder.version = version
        do throws(DecodingError) {
            while true {
                let before = buffer.readableBytes
                guard let packet = try decoder.next(&buffer) else {
                    if buffer.readableBytes >= maximum { Issue.record("waits for more than the maximum: \(input)") }
                    return
                }
                decoded += 1
                if buffer.readableBytes >= before { Issue.record("took nothing: \(input)") }
                checkAgain(packet, decoder.version, input)
            }
        } catch {
            if error.reason.rawValue < 0x80 || error.description.isEmpty { Issue.record("\(error) for \(input)") }
        }
    }

    private static func checkAgain(_ packet: Packet, _ version: ProtocolVersion?, _ input: [UInt8]) {
        guard let version else {
            Issue.record("a packet without a version: \(input)")
            return
        }
        var buffer = ByteBuffer()
        buffer.write(packet, version: version)
        var decoder = PacketDecoder(maximumPacketSize: .max)
        if case .connect = packet {} else { decoder.version = version }
        let again = try? decoder.next(&buffer)
        if again != packet || buffer.readableBytes != 0 {
            Issue.record("\(packet) became \(String(describing: again))")
        }
    }

    @Test(arguments: 0..<4 as Range<UInt64>) func randomBytes(seed: UInt64) {
        var generator = SplitMix64(seed: seed)
        var decoded = 0
        for round in 0..<25_000 {
            let count = Int(generator.next() % 40)
            var input = [UInt8]()
            input.reserveCapacity(count)
            for _ in 0..<count { input.append(UInt8(truncatingIfNeeded: generator.next())) }
            // Half of them with flags and lengths that fit, so that the body is reached.
            if round % 2 == 0, count > 3 {
                input[0] = [0x10, 0x30, 0x32, 0x40, 0x62, 0x82, 0x90, 0xA2, 0xE0][round / 2 % 9]
                input[1] = UInt8(count - 2)
                input[2] = 0
                input[3] %= 8
                // Random bytes are hardly ever UTF-8; ASCII is.
                if round % 4 == 0 { for index in 4..<count { input[index] &= 0x7F } }
            }
            let version: ProtocolVersion? = round % 5 == 0 ? nil : round / 4 % 2 == 0 ? .v5 : .v311
            Self.feed(input, version: version, decoded: &decoded)
        }
        #expect(decoded > 100)
    }

    @Test(arguments: 0..<4 as Range<UInt64>) func mutatedPackets(seed: UInt64) {
        var generator = SplitMix64(seed: 100 + seed)
        var decoded = 0
        for _ in 0..<25_000 {
            let sample = Samples.all[Int(generator.next() % UInt64(Samples.all.count))]
            var input = sample.bytes
            for _ in 0...Int(generator.next() % 3) {
                let at = Int(generator.next() % UInt64(input.count))
                switch generator.next() % 5 {
                case 0: input[at] = UInt8(truncatingIfNeeded: generator.next())
                case 1: input[at] ^= 1 << UInt8(generator.next() % 8)
                case 2: input.insert(UInt8(truncatingIfNeeded: generator.next()), at: at)
                case 3 where input.count > 1: input.remove(at: at)
                default: input.append(contentsOf: input[at...])
                }
                // Often the length is mended, so that the flaw lies deeper.
                if input.count > 2, input.count < 130, generator.next() % 4 != 0 { input[1] = UInt8(input.count - 2) }
            }
            let isConnect = input.first.map { $0 >> 4 == 1 } ?? false
            Self.feed(input, version: isConnect ? nil : sample.version, decoded: &decoded)
        }
        #expect(decoded > 2_000)
    }

    /// A packet of a mebibyte that comes byte by byte must not cost the square of its size.
    @Test func drippingCostsTheSameForEachByte() throws {
        let size = 1 << 20
        var packet = ByteBuffer()
        packet.write(
            .publish(Publish(topic: bytes("t"), payload: ByteBuffer(repeating: 1, count: size))), version: .v5)
        var decoder = PacketDecoder(maximumPacketSize: 2 * size)
        decoder.version = .v5
        var buffer = ByteBuffer()
        buffer.reserveCapacity(packet.readableBytes)
        let whole = Array(packet.readableBytesView)
        var decoded: Packet?
        for chunk in stride(from: 0, to: whole.count, by: 64) {
            buffer.writeBytes(whole[chunk..<min(chunk + 64, whole.count)])
            if let packet = try decoder.next(&buffer) { decoded = packet }
        }
        #expect(decoded == .publish(Publish(topic: bytes("t"), payload: ByteBuffer(repeating: 1, count: size))))
    }
}
