import Foundation
import MQTTWire
import NIOCore

// Bytes → packets. The first byte of an input says the version and how the rest comes in; nothing crashes, nothing is
// read beyond the input, and what is decoded is the same after it was encoded and decoded again.
//
//   decoder --seed FOLDER   writes the tests' samples as a corpus
//   decoder …               libFuzzer, with its own arguments

@_silgen_name("LLVMFuzzerRunDriver")
func runFuzzer(
    _ count: UnsafeMutablePointer<Int32>,
    _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ body: @convention(c) (UnsafePointer<UInt8>, Int) -> Int32
) -> Int32

let maximum = 4096

func check(_ condition: Bool, _ what: @autoclosure () -> String) {
    // The end of a fuzzing process is how it reports.
    if !condition { fatalError(what()) }
}

func checkAgain(_ packet: Packet, _ version: ProtocolVersion?) {
    guard let version else { fatalError("a packet without a version: \(packet)") }
    var buffer = ByteBuffer()
    buffer.write(packet, version: version)
    check(buffer.readableBytes <= 2 * maximum, "\(packet) grew to \(buffer.readableBytes) bytes")
    var decoder = PacketDecoder(maximumPacketSize: .max)
    if case .connect = packet {} else { decoder.version = version }
    let again = try? decoder.next(&buffer)
    check(again == packet && buffer.readableBytes == 0, "\(packet) became \(String(describing: again))")
}

/// Feeds `input` in pieces of `step` bytes.
func decode(_ input: UnsafeBufferPointer<UInt8>, version: ProtocolVersion?, step: Int) -> [Packet] {
    var decoder = PacketDecoder(maximumPacketSize: maximum)
    decoder.version = version
    var packets: [Packet] = []
    var buffer = ByteBuffer()
    var start = 0
    do throws(DecodingError) {
        while start < input.count {
            let end = min(start + step, input.count)
            buffer.writeBytes(UnsafeBufferPointer(rebasing: input[start..<end]))
            start = end
            while true {
                let before = buffer.readableBytes
                guard let packet = try decoder.next(&buffer) else {
                    check(buffer.readableBytes < maximum, "it waits for more than the maximum")
                    break
                }
                check(buffer.readableBytes < before, "it took nothing")
                checkAgain(packet, decoder.version)
                packets.append(packet)
            }
        }
    } catch {
        check(error.reason.rawValue >= 0x80 && !error.description.isEmpty, "\(error)")
    }
    return packets
}

func fuzz(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
    guard count > 1 else { return 0 }
    let input = UnsafeBufferPointer(start: bytes + 1, count: count - 1)
    let version: ProtocolVersion? = bytes[0] % 3 == 0 ? nil : bytes[0] % 3 == 1 ? .v311 : .v5
    let whole = decode(input, version: version, step: input.count)
    let pieces = decode(input, version: version, step: 1 + Int(bytes[0] / 3 % 8))
    check(whole == pieces, "in pieces it decodes to something else")
    return 0
}

if CommandLine.arguments.count == 3, CommandLine.arguments[1] == "--seed" {
    for (index, sample) in Samples.all.enumerated() {
        let first: UInt8 = if case .connect = sample.packet { 0 } else { sample.version == .v311 ? 1 : 2 }
        try Data([first] + sample.bytes).write(
            to: URL(fileURLWithPath: CommandLine.arguments[2] + "/sample-\(index)"))
    }
    exit(0)
}
var count = CommandLine.argc
var arguments = CommandLine.unsafeArgv
exit(runFuzzer(&count, &arguments) { fuzz($0, $1) })
