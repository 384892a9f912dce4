import NIOCore
import Testing

@testable import SyncModel

@Suite struct LogEntryTests {
    private func message(
        _ sequence: UInt64, number: UInt64, wallTime: Int64 = 1_000, monotonicTime: Int64 = 50, topic: String = "t",
        payload: ByteBuffer = ByteBuffer(string: "p")
    ) -> SyncedMessage {
        SyncedMessage(
            sequence: sequence, number: number, qos: 1, wallTime: wallTime, monotonicTime: monotonicTime,
            topic: bytes(topic), payload: payload)
    }

    @Test func everyKindComesBackAsItWas() throws {
        let line = LedgerLine(
            epoch: sampleEpoch, device: "d", sequences: 4...9, numbers: 2...3, reason: .aggregated,
            aggregate: AggregateReference(epoch: Epoch(high: 8, low: 9), sequences: 10...12))
        let messages = DeviceMessages(
            gateway: "g", epoch: sampleEpoch, device: "d", lane: .backlog, bootHigh: 3, bootLow: 4,
            messages: [
                message(3, number: 1),
                message(4, number: 2, wallTime: -7, monotonicTime: .max, topic: "u", payload: ByteBuffer()),
                message(900, number: 8, wallTime: .max, monotonicTime: .min, topic: "u"),
                SyncedMessage(
                    sequence: 901, number: SyncLimits.numbers.upperBound, qos: 2, retain: true, duplicate: true,
                    isWill: true, wallTime: .min, isClockSynchronised: false, topic: bytes("ü"), payload: bytes("q"),
                    properties: ByteBuffer(bytes: [1, 0])),
            ])
        let entries: [LogEntry] = [
            .messages(messages), .ledger(gateway: "g", line),
            .account(gateway: "g", EpochAccount(epoch: sampleEpoch, lastSequence: 0, isClosed: true)),
            .correction(gateway: "g", ClockCorrection(epoch: sampleEpoch, sequences: 4...4, offset: 0)),
            .correction(
                gateway: "g",
                ClockCorrection(
                    epoch: sampleEpoch, sequences: 1...SyncLimits.numbers.upperBound,
                    offset: SyncLimits.clockOffsets.lowerBound)),
        ]
        for entry in entries {
            let encoded = entry.encoded()
            #expect(try LogEntry.decode(encoded) == entry)
            for length in 0..<encoded.readableBytes {
                let part = try #require(encoded.getSlice(at: 0, length: length))
                #expect(throws: SyncDecodingError.self) { try LogEntry.decode(part) }
            }
        }
        #expect(entries.map(\.routingKey) == ["d", "d", "g", "g", "g"])
    }

    @Test func consecutiveMessagesCostLittleMoreThanTheirPayload() {
        let messages = (1...1_000).map { index in
            message(
                UInt64(index), number: UInt64(index), wallTime: Int64(index) * 60, monotonicTime: Int64(index) * 60 + 9,
                topic: "plant/line 4/pump", payload: ByteBuffer(repeating: 1, count: 100))
        }
        let entry = LogEntry.messages(
            DeviceMessages(gateway: "g", epoch: sampleEpoch, device: "d", lane: .live, messages: messages))
        #expect(entry.encoded().readableBytes < 1_000 * 108 + 100)
    }

    @Test func messagesAreGroupedByDeviceAcrossFrames() throws {
        let entries = sampleBatch().logEntries()
        try #require(entries.count == 6)
        guard case .messages(let first) = entries[0], case .messages(let second) = entries[1] else {
            Issue.record("messages come first: \(entries)")
            return
        }
        #expect(first.device == "pump-1" && second.device == "pump-2")
        #expect(first.gateway == "plant-7" && first.lane == .backlog && first.epoch == sampleEpoch)
        #expect(first.bootHigh == sampleClock().bootHigh && first.bootLow == sampleClock().bootLow)
        #expect(first.messages.map(\.sequence) == [7, 9, 10, 12])
        #expect(first.messages.map(\.number) == [3, 4, 5, 6])
        #expect(second.messages.map(\.sequence) == [8, 11])
        #expect(second.messages.map(\.number) == [4, 6])
        #expect(first.messages[1].wallTime == sampleClock().wallTime - 20)
        #expect(first.messages[1].monotonicTime == sampleClock().monotonicTime - 20)
        #expect(first.messages[1].isWill && second.messages[0].retain && second.messages[0].duplicate)
        #expect(entries[2] == .ledger(gateway: "plant-7", sampleBatch().ledger[0]))
        #expect(entries[3] == .account(gateway: "plant-7", sampleBatch().accounts[0]))
        #expect(entries[4] == .account(gateway: "plant-7", sampleBatch().accounts[1]))
        #expect(entries[5] == .correction(gateway: "plant-7", sampleBatch().corrections[0]))
    }

    @Test func anEntryIsBoundedUnlessOneMessageIsLarger() throws {
        var records = (0..<40).map { _ in
            FrameRecord(device: 0, qos: 1, topic: bytes("t"), payload: ByteBuffer(repeating: 1, count: 20_000))
        }
        records.insert(
            FrameRecord(device: 0, qos: 1, topic: bytes("t"), payload: ByteBuffer(repeating: 2, count: 300_000)), at: 20
        )
        let frame = Frame(
            epoch: sampleEpoch, firstSequence: 1, clock: sampleClock(),
            devices: [FrameDevice(id: "d", firstNumber: 1)], records: records)
        let entries = Batch(gateway: "g", frames: [frame]).logEntries()
        var next: UInt64 = 1
        for entry in entries {
            guard case .messages(let group) = entry else { continue }
            let size = entry.encoded().readableBytes
            #expect(size <= LogEntry.maximumBytes || group.messages.count == 1)
            #expect(
                group.messages.count == 1 || size > LogEntry.maximumBytes / 2
                    || next + UInt64(group.messages.count) > 20)
            for message in group.messages {
                #expect(message.sequence == next && message.number == next)
                next += 1
            }
            #expect(try LogEntry.decode(entry.encoded()) == entry)
        }
        #expect(next == 42)
        #expect(entries.count == 5, "12 + 8, the large one, 13 + 7")
    }

    @Test func everyMessageOfARandomBatchIsInExactlyOneEntry() {
        for seed in 1...100 as ClosedRange<UInt64> {
            var generator = SeededGenerator(seed: seed)
            let batch = randomBatch(using: &generator)
            var expected: Set<[UInt64]> = []
            for frame in batch.frames {
                for index in frame.records.indices {
                    expected.insert([frame.epoch.high, frame.firstSequence + UInt64(index)])
                }
            }
            var found: Set<[UInt64]> = []
            for case .messages(let group) in batch.logEntries() {
                for message in group.messages {
                    #expect(found.insert([group.epoch.high, message.sequence]).inserted)
                }
                #expect(zip(group.messages, group.messages.dropFirst()).allSatisfy { $0.number < $1.number })
            }
            #expect(found == expected, "seed \(seed)")
        }
    }
}
