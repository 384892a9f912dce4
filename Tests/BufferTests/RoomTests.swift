import Flow
import MQTTSession
import NIOCore
import Operations
import SyncModel
import Testing

@testable import Buffer

/// A full buffer that drops: what goes first, and that nothing goes without its ledger line.
@Suite struct RoomTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    /// One frame of each priority, with a message of each device.
    private func group(_ priorities: [UInt8], devices: [DeviceHandle] = [0], payload: Int = 1_000) -> [FrameDraft] {
        var builder = FrameBuilder()
        let clock = FrameClock(wallTime: 1, monotonicTime: 1, bootHigh: 1, bootLow: 1, isSynchronised: true)
        for priority in priorities {
            for device in devices {
                builder.append(
                    device: device, deviceID: "device-\(device)", qos: 1, retain: false, duplicate: false,
                    topic: ByteBuffer(string: "p\(priority)"), payload: ByteBuffer(repeating: 0x61, count: payload),
                    properties: ByteBuffer(), clock: clock, priority: MessagePriority(priority))
            }
        }
        return builder.take()
    }

    private func open(_ maximumBytes: Int, epoch: UInt64 = 1) throws -> Buffer {
        try scratch.open(epoch: epoch) {
            $0.dropsOldest = true
            $0.maximumBytes = maximumBytes
        }
    }

    @Test func theOldestGoesFirstWithItsLedgerLine() async throws {
        let buffer = try open(10_000)
        for _ in 1...25 { try await buffer.commit(group([5])) }
        #expect(!buffer.fill().isFull && buffer.fill().bytes <= 10_000)
        let concerns = buffer.concerns()
        #expect(concerns.droppedForRoom == 16 && concerns.expired == 0 && concerns.bound == nil)
        #expect(concerns.dropHealth() != .good)
        let outcome = try await buffer.outcome()
        #expect(outcome.frames.map(\.firstSequence) == Array(17...25))
        #expect(
            outcome.ledger == [
                LedgerLine(
                    epoch: Epoch(high: 0, low: 1), device: "device-0", sequences: 1...16, numbers: 1...16,
                    reason: .bufferFull)
            ])
        await buffer.close()
    }

    @Test func theLowestPriorityGoesFirst() async throws {
        let buffer = try open(10_000)
        for _ in 1...4 { try await buffer.commit(group([9, 0, 5])) }
        let outcome = try await buffer.outcome()
        // Three groups fill it; the fourth drives out what is worth least of all that was there.
        #expect(outcome.frames.filter { $0.priority == "p9" }.count == 4)
        #expect(outcome.frames.filter { $0.priority == "p5" }.count == 4)
        #expect(outcome.frames.filter { $0.priority == "p0" }.count == 1)
        #expect(outcome.ledger.map(\.count).reduce(0, +) == 3)
        await buffer.close()
    }

    @Test func whatIsOnItsWayGoesLast() async throws {
        let buffer = try open(10_000)
        for _ in 1...3 { try await buffer.commit(group([5])) }
        let cut = try #require(try await buffer.nextCut(maximumBytes: 2_500, maximumMessages: 100))
        #expect(cut.lastFrame == 2)
        for _ in 1...30 { try await buffer.commit(group([5])) }
        let (frames, _, _) = try await buffer.contents(of: cut)
        #expect(frames.map(\.id) == [1, 2], "the cut is whole while others can go")
        // Now nothing else is left to go.
        try await buffer.commit(group([5], payload: 9_500))
        try await buffer.commit(group([5], payload: 9_500))
        #expect(try await buffer.contents(of: cut).frames.isEmpty)
        // Two large ones are too much; one goes as soon as it is not the newest.
        for _ in 0..<50 where buffer.fill().isFull { try await Task.sleep(for: .milliseconds(100)) }
        #expect(!buffer.fill().isFull)
        let outcome = try await buffer.outcome()
        #expect(outcome.frames.count + outcome.ledger.map(\.count).reduce(0, +) == 35)
        await buffer.close()
    }

    @Test func aBufferThatRefusesDropsNothing() async throws {
        let buffer = try scratch.open { $0.maximumBytes = 3_000 }
        for _ in 1...5 { try await buffer.commit(group([0])) }
        #expect(buffer.fill().isFull && buffer.fill().messages == 5)
        #expect(buffer.concerns().bound == .configuredLimit && buffer.concerns().dropHealth() == .good)
        await buffer.close()
    }

    /// Whatever is committed, dropped, sent, answered and started anew: each number of each device ends exactly once.
    @Test(arguments: 1...12 as ClosedRange<UInt64>) func everyMessageEndsOnce(seed: UInt64) async throws {
        var random = SplitMix64(seed: seed)
        var epoch: UInt64 = 1
        var buffer = try open(20_000, epoch: epoch)
        var outcome = Outcome()
        var committed: [UInt64: Int] = [:]
        for _ in 0..<200 {
            switch Int.random(in: 0..<20, using: &random) {
            case 0:
                await buffer.close()
                epoch += 1
                buffer = try open(Bool.random(using: &random) ? 20_000 : 12_000, epoch: epoch)
            case 1...4: outcome = try await answerOne(buffer, outcome, &random)
            default:
                let priorities = (0..<Int.random(in: 1...3, using: &random)).map { _ in
                    UInt8.random(in: 3...6, using: &random)
                }
                let devices = DeviceHandle(0)...DeviceHandle.random(in: 0...3, using: &random)
                let size = Int.random(in: 1...1_500, using: &random)
                let receipt = try await buffer.commit(
                    group(priorities.sorted(), devices: Array(devices), payload: size))
                committed[epoch, default: 0] += receipt.messageCount
                #expect(buffer.fill().bytes <= 20_000 + 4 * 4 * 1_600)
            }
        }
        while try await answerOne(buffer, &outcome, limit: 10_000) {}
        await buffer.close()
        for (epoch, count) in committed { try outcome.check(Epoch(high: 0, low: epoch), count: count) }
        #expect(!outcome.ledger.isEmpty)
    }

    private func answerOne(
        _ buffer: Buffer, _ outcome: Outcome, _ random: inout SplitMix64
    ) async throws -> Outcome {
        var outcome = outcome
        _ = try await answerOne(buffer, &outcome, limit: Int.random(in: 1...9_000, using: &random))
        return outcome
    }

    private func answerOne(_ buffer: Buffer, _ outcome: inout Outcome, limit: Int) async throws -> Bool {
        guard let cut = try await buffer.nextCut(maximumBytes: limit, maximumMessages: 100) else { return false }
        try await outcome.take(cut, of: buffer)
        try await buffer.acknowledge(cut)
        return true
    }
}

/// What the cloud has got.
struct Outcome {
    var frames: [Frame] = []
    var ledger: [LedgerLine] = []

    mutating func take(_ cut: Cut, of buffer: Buffer) async throws {
        let (stored, _, lines) = try await buffer.contents(of: cut)
        ledger += lines
        for frame in stored {
            var bytes = frame.header
            bytes.writeImmutableBuffer(frame.records)
            frames.append(try Frame.decode(bytes))
        }
    }

    func check(_ epoch: Epoch, count: Int) throws {
        var ended: [String: IntervalSet] = [:]
        var total = 0
        let runs =
            frames.filter { $0.epoch == epoch }.flatMap(\.deviceRuns).map { ($0.device, $0.numbers) }
            + ledger.filter { $0.epoch == epoch }.map { ($0.device, $0.numbers) }
        for (device, numbers) in runs {
            let free = ended[device, default: IntervalSet(maximumRanges: .max)].gaps(in: numbers)
            #expect(free == [numbers], "\(device) \(numbers) of \(epoch) ends a second time")
            _ = try ended[device, default: IntervalSet(maximumRanges: .max)].insert(numbers)
            total += numbers.count
        }
        #expect(total == count, "epoch \(epoch)")
        #expect(ended.values.allSatisfy { $0.ranges.count == 1 && $0.ranges[0].lowerBound == 1 })
    }
}

extension Frame {
    fileprivate var priority: String { records.first.map { String(buffer: $0.topic) } ?? "" }
}

extension LedgerLine {
    fileprivate var count: Int { numbers.count }
}

extension Buffer {
    /// Everything that is left, answered.
    func outcome() async throws -> Outcome {
        var outcome = Outcome()
        while let cut = try await nextCut(maximumBytes: 1 << 20, maximumMessages: 10_000) {
            try await outcome.take(cut, of: self)
            try await acknowledge(cut)
        }
        return outcome
    }
}
