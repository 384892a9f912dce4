import Buffer
import Foundation
import Logging
import MQTTSession
import MQTTWire
import NIOCore
import SyncModel

// A process that uses a buffer, for tests that kill it and for measuring:
//   buffer-driver commit PATH EPOCH     commits until it is killed, telling on stdout what it does
//   buffer-driver rate PATH GROUP COUNT [PAGE_SIZE [rows]]   commits COUNT groups of GROUP messages of 100 bytes, with
//                                       "rows" each message as a frame, and so a row, of its own

func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    // A pipe takes a line of this size whole, or the reader is gone.
    guard write(1, bytes, bytes.count) == bytes.count else { exit(2) }
}

func draft(_ values: Range<UInt64>, devices: UInt64) -> [FrameDraft] {
    var builder = FrameBuilder()
    let clock = FrameClock(wallTime: 1, monotonicTime: 1, bootHigh: 1, bootLow: 1, isSynchronised: true)
    let filler = String(repeating: "x", count: 60)
    for value in values {
        builder.append(
            device: DeviceHandle(value % devices), deviceID: "device-\(value % devices)", qos: 1, retain: false,
            duplicate: false, topic: ByteBuffer(string: "plant/line/sensor"),
            payload: ByteBuffer(string: "\(value) \(filler)"), properties: ByteBuffer(), clock: clock)
    }
    return builder.take()
}

extension Buffer {
    func commit(_ drafts: [FrameDraft], changes: [DurableChange] = []) async throws(BufferError) -> CommitReceipt {
        try await withCheckedContinuation { continuation in
            commit(drafts, changes: changes) { continuation.resume(returning: $0) }
        }.get()
    }
}

/// Commits groups whose payloads count up with the sequence; a retained message of the same transaction says the last.
func commitForever(_ buffer: Buffer) async throws {
    var generator = SystemRandomNumberGenerator()
    var next: UInt64 = 1
    while true {
        let count = UInt64.random(in: 1...40, using: &generator)
        let last = next + count - 1
        say("submitted \(last)")
        let retained = StoredPublish(
            topic: ByteBuffer(string: "last"), payload: ByteBuffer(string: "\(last)"), qos: .atLeastOnce)
        let receipt = try await buffer.commit(draft(next..<last + 1, devices: 7), changes: [.retained(retained)])
        guard receipt.firstSequence == next, receipt.lastSequence == last else { exit(3) }
        say("committed \(last)")
        next = last + 1
    }
}

/// Sends nothing, but answers as a cloud would.
func acknowledgeForever(_ buffer: Buffer) async throws {
    for await _ in buffer.dataAvailable() {
        while let cut = try await buffer.nextCut(maximumBytes: 16 * 1024, maximumMessages: 500) {
            let frames = try await buffer.contents(of: cut).frames
            say("sent \(cut.id) \(frames.reduce(0) { $0 + $1.count })")
            try await buffer.acknowledge(cut)
            say("answered \(cut.id)")
        }
    }
}

let arguments = CommandLine.arguments
guard arguments.count >= 4, let number = UInt64(arguments[3]) else {
    say("usage: buffer-driver commit PATH EPOCH | rate PATH GROUP COUNT [PAGE_SIZE [rows]]")
    exit(64)
}
var configuration = Buffer.Configuration(path: arguments[2], gatewayID: "plant-7")
configuration.freeDiskFloor = 0
switch arguments[1] {
case "commit":
    let buffer = try Buffer.open(
        configuration, epoch: Epoch(high: 0, low: number),
        logger: Logger(label: "driver") { _ in SwiftLogNoOpLogHandler() }
    ).buffer
    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await commitForever(buffer) }
        group.addTask { try await acknowledgeForever(buffer) }
        try await group.waitForAll()
    }
case "rate":
    configuration.maximumBytes = 8 << 30
    if arguments.count > 5 { configuration.pageSize = Int(arguments[5]) ?? 4096 }
    let buffer = try Buffer.open(
        configuration, epoch: Epoch(high: 0, low: 1), logger: Logger(label: "driver") { _ in SwiftLogNoOpLogHandler() }
    ).buffer
    let count = Int(arguments[4]) ?? 1000
    let isRowEach = arguments.count > 6 && arguments[6] == "rows"
    let group =
        isRowEach
        ? (0..<number).flatMap { draft($0..<$0 + 1, devices: 50) } : draft(0..<number, devices: 50)
    var durations: [Int64] = []
    let start = ContinuousClock.now
    for _ in 0..<count { durations.append(try await buffer.commit(group).duration) }
    let seconds =
        Double((ContinuousClock.now - start).components.attoseconds) / 1e18
        + Double((ContinuousClock.now - start).components.seconds)
    durations.sort()
    say(
        "group \(number): \(Int(Double(count) / seconds)) commits/s, \(Int(Double(count) * Double(number) / seconds)) "
            + "messages/s; commit µs p50 \(durations[count / 2]) p99 \(durations[count * 99 / 100]) max \(durations[count - 1])"
    )
    await buffer.close()
default:
    exit(64)
}
