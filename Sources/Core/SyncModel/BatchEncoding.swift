import NIOCore

extension Frame {
    /// Header and records, as `FrameBuilder` and `FrameDraft.header` write them.
    package func encode(into buffer: inout ByteBuffer) {
        FrameHeader.encode(epoch: epoch, firstSequence: firstSequence, clock: clock, into: &buffer)
        for device in devices { FrameHeader.encode(device, into: &buffer) }
        for record in records {
            FrameBuilder.encodeRecord(
                device: UInt64(record.device), flags: record.flags, offset: record.offset, topic: record.topic,
                payload: record.payload, properties: record.properties, into: &buffer)
        }
    }

    package func encoded() -> ByteBuffer {
        var buffer = ByteBuffer()
        encode(into: &buffer)
        return buffer
    }
}

extension FrameRecord {
    var flags: UInt64 {
        UInt64(qos) | (retain ? MessageFlags.retain : 0) | (duplicate ? MessageFlags.duplicate : 0)
            | (isWill ? MessageFlags.will : 0)
    }
}

/// Bits of a record's flags.
enum MessageFlags {
    static let qos: UInt64 = 0x03
    static let retain: UInt64 = 0x04
    static let duplicate: UInt64 = 0x08
    static let will: UInt64 = 0x10
    /// In log entries only, where no frame says it.
    static let clockSynchronised: UInt64 = 0x20
}

extension Batch {
    /// The canonical uncompressed bytes, over which the digest is taken.
    package func encoded() -> ByteBuffer {
        var encoder = BatchEncoder(
            gateway: gateway, lane: lane, accounts: accounts, ledger: ledger, corrections: corrections)
        for frame in frames { encoder.append(header: frame.encoded(), records: ByteBuffer()) }
        return encoder.finish()
    }
}

/// Puts stored frames into a batch as they are, without decoding them.
package struct BatchEncoder: Sendable {
    package static let version: UInt64 = 1

    private var buffer: ByteBuffer
    /// They follow the frames.
    private let corrections: [ClockCorrection]

    package init(
        gateway: String, lane: Lane, accounts: [EpochAccount] = [], ledger: [LedgerLine] = [],
        corrections: [ClockCorrection] = []
    ) {
        self.corrections = corrections
        buffer = ByteBuffer()
        buffer.writeField(1, varint: Self.version)
        buffer.writeField(2, string: gateway)
        if lane != .live { buffer.writeField(3, varint: UInt64(lane.rawValue)) }
        for account in accounts { buffer.writeMessage(4) { account.encode(into: &$0) } }
        for line in ledger { buffer.writeMessage(5) { line.encode(into: &$0) } }
    }

    package mutating func reserve(_ bytes: Int) { buffer.reserveCapacity(minimumWritableBytes: bytes) }

    /// - Parameters:
    ///   - header: the frame's fields 1 to 7, as `FrameDraft.header` gives them.
    ///   - records: the frame's fields 8, as `FrameDraft.records` holds them.
    package mutating func append(header: ByteBuffer, records: ByteBuffer) {
        buffer.writeInteger(6 << 3 | WireType.lengthDelimited)
        buffer.writeVarint(UInt64(header.readableBytes + records.readableBytes))
        buffer.writeImmutableBuffer(header)
        buffer.writeImmutableBuffer(records)
    }

    package consuming func finish() -> ByteBuffer {
        for correction in corrections { buffer.writeMessage(7) { correction.encode(into: &$0) } }
        return buffer
    }
}

extension EpochAccount {
    func encode(into buffer: inout ByteBuffer) {
        buffer.writeField(1, high: epoch.high, low: epoch.low)
        if lastSequence != 0 { buffer.writeField(2, varint: lastSequence) }
        if isClosed { buffer.writeField(3, varint: 1) }
    }
}

extension LedgerLine {
    func encode(into buffer: inout ByteBuffer) {
        buffer.writeField(1, high: epoch.high, low: epoch.low)
        buffer.writeField(2, string: device)
        buffer.writeField(3, varint: sequences.lowerBound)
        buffer.writeField(4, varint: sequences.upperBound)
        buffer.writeField(5, varint: numbers.lowerBound)
        buffer.writeField(6, varint: numbers.upperBound)
        buffer.writeField(7, varint: UInt64(reason.rawValue))
        guard let aggregate else { return }
        buffer.writeField(8, high: aggregate.epoch.high, low: aggregate.epoch.low)
        buffer.writeField(9, varint: aggregate.sequences.lowerBound)
        buffer.writeField(10, varint: aggregate.sequences.upperBound)
    }
}

extension ClockCorrection {
    func encode(into buffer: inout ByteBuffer) {
        buffer.writeField(1, high: epoch.high, low: epoch.low)
        buffer.writeField(2, varint: sequences.lowerBound)
        buffer.writeField(3, varint: sequences.upperBound)
        if offset != 0 { buffer.writeField(4, zigzag: offset) }
    }
}

extension ByteBuffer {
    /// 16 bytes, big-endian.
    mutating func writeField(_ number: UInt8, high: UInt64, low: UInt64) {
        writeInteger(number << 3 | WireType.lengthDelimited)
        writeVarint(16)
        writeMultipleIntegers(high, low)
    }

    /// A nested message; for those that are not on the hot path, since its bytes are copied once.
    mutating func writeMessage(_ number: UInt8, _ write: (inout ByteBuffer) -> Void) {
        var message = ByteBuffer()
        write(&message)
        writeField(number, bytes: message)
    }
}
