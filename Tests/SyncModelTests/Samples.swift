import NIOCore

@testable import SyncModel

/// SplitMix64: the same numbers on every machine for a seed.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

func bytes(_ text: String) -> ByteBuffer { ByteBuffer(string: text) }

let sampleEpoch = Epoch(high: 0x0123_4567_89AB_CDEF, low: 0x1032_5476_98BA_DCFE)

func sampleClock(wallTime: Int64 = 1_700_000_000_000_000) -> FrameClock {
    FrameClock(
        wallTime: wallTime, monotonicTime: 5_000_000, bootHigh: 0xA0A1_A2A3_A4A5_A6A7, bootLow: 0xB0B1_B2B3_B4B5_B6B7,
        isSynchronised: true)
}

func sampleFrame(firstSequence: UInt64 = 7, firstNumber: UInt64 = 3) -> Frame {
    Frame(
        epoch: sampleEpoch, firstSequence: firstSequence, clock: sampleClock(),
        devices: [
            FrameDevice(id: "pump-1", firstNumber: firstNumber),
            FrameDevice(id: "pump-2", firstNumber: firstNumber + 1),
        ],
        records: [
            FrameRecord(device: 0, qos: 1, topic: bytes("plant/pump-1"), payload: bytes("{\"rpm\":1500}")),
            FrameRecord(
                device: 1, qos: 2, retain: true, duplicate: true, offset: 1_500, topic: bytes("plant/pümp-2"),
                payload: bytes(""), properties: ByteBuffer(bytes: [0x01, 0x01])),
            FrameRecord(
                device: 0, qos: 0, isWill: true, offset: -20, topic: bytes("plant/pump-1"), payload: bytes("x")),
        ])
}

func sampleBatch() -> Batch {
    Batch(
        gateway: "plant-7", lane: .backlog,
        accounts: [
            EpochAccount(epoch: Epoch(high: 1, low: 2), lastSequence: 900, isClosed: true),
            EpochAccount(epoch: sampleEpoch, lastSequence: 15, isClosed: false),
        ],
        frames: [sampleFrame(), sampleFrame(firstSequence: 10, firstNumber: 5)],
        ledger: [
            LedgerLine(epoch: sampleEpoch, device: "pump-2", sequences: 1...6, numbers: 1...3, reason: .bufferFull)
        ],
        corrections: [ClockCorrection(epoch: sampleEpoch, sequences: 7...11, offset: -2_500_000)])
}

/// A batch of random shape that keeps the protocol's rules.
func randomBatch(using generator: inout SeededGenerator) -> Batch {
    var batch = Batch(gateway: "g\(Int.random(in: 0..<100, using: &generator))")
    batch.lane = Bool.random(using: &generator) ? .live : .backlog
    let epochs = (0..<2).map { _ in Epoch.random(using: &generator) }
    for epoch in epochs where Bool.random(using: &generator) {
        batch.accounts.append(
            EpochAccount(
                epoch: epoch, lastSequence: UInt64.random(in: 0...1_000_000, using: &generator),
                isClosed: Bool.random(using: &generator)))
    }
    var sequences: [Epoch: UInt64] = [:]
    var numbers: [Epoch: [UInt64]] = [:]
    for _ in 0..<Int.random(in: 0..<6, using: &generator) {
        guard let epoch = epochs.randomElement(using: &generator) else { continue }
        let first = (sequences[epoch] ?? 0) + UInt64.random(in: 1...300, using: &generator)
        var next = numbers[epoch] ?? [1, 1, 1, 1]
        let present = Array(Set((0..<4).map { _ in Int.random(in: 0..<4, using: &generator) })).sorted()
        var frame = Frame(
            epoch: epoch, firstSequence: first,
            clock: sampleClock(wallTime: Int64.random(in: -1_000...Int64(1) << 60, using: &generator)), devices: [],
            records: [])
        for device in present { frame.devices.append(FrameDevice(id: "device \(device)", firstNumber: next[device])) }
        for index in 0..<(present.count + Int.random(in: 0..<20, using: &generator)) {
            let slot = index < present.count ? index : Int.random(in: 0..<present.count, using: &generator)
            next[present[slot]] += 1
            frame.records.append(randomRecord(device: slot, using: &generator))
        }
        batch.frames.append(frame)
        sequences[epoch] = first + UInt64(frame.records.count - 1)
        numbers[epoch] = next
    }
    for _ in 0..<Int.random(in: 0..<3, using: &generator) {
        let first = UInt64.random(in: 1...1_000, using: &generator)
        let count = UInt64.random(in: 0...50, using: &generator)
        batch.ledger.append(
            LedgerLine(
                epoch: epochs[0], device: "device 9", sequences: first...(first + count * 2),
                numbers: first...(first + count), reason: .expiredByAge))
        batch.ledger.append(
            LedgerLine(
                epoch: epochs[0], device: "device 9", sequences: first...(first + count * 2),
                numbers: first...(first + count), reason: .aggregated,
                aggregate: AggregateReference(epoch: epochs[1], sequences: first...(first + count))))
    }
    for _ in 0..<Int.random(in: 0..<3, using: &generator) {
        let first = UInt64.random(in: 1...1_000, using: &generator)
        batch.corrections.append(
            ClockCorrection(
                epoch: epochs[1], sequences: first...(first + UInt64.random(in: 0...5_000, using: &generator)),
                offset: Int64.random(in: SyncLimits.clockOffsets, using: &generator)))
    }
    return batch
}

private func randomRecord(device: Int, using generator: inout SeededGenerator) -> FrameRecord {
    let payload = (0..<Int.random(in: 0..<200, using: &generator)).map { _ in
        UInt8.random(in: 0...255, using: &generator)
    }
    return FrameRecord(
        device: device, qos: UInt8.random(in: 0...2, using: &generator), retain: Bool.random(using: &generator),
        duplicate: Bool.random(using: &generator), isWill: Bool.random(using: &generator),
        offset: Int64.random(in: -1_000_000...1_000_000, using: &generator),
        topic: bytes(Bool.random(using: &generator) ? "a/b" : "ä/\(Int.random(in: 0..<9, using: &generator))"),
        payload: ByteBuffer(bytes: payload),
        properties: Bool.random(using: &generator) ? ByteBuffer() : ByteBuffer(bytes: [0x01, 0x00]))
}
