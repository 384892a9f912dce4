import NIOCore

/// A number for a device id, dense per process, so that the hot path indexes arrays instead of hashing strings.
package typealias DeviceHandle = UInt32

/// Messages that wait for their commit, already encoded; what only the commit knows (epoch, sequence, device numbers)
/// goes into the header.
package struct FrameDraft: Sendable {
    package struct Device: Sendable {
        package var handle: DeviceHandle
        package var id: String
        package var count: UInt64
    }

    package var clock: FrameClock
    package var devices: [Device] = []
    /// `records` of the frame, each with its tag and length.
    package var records: ByteBuffer
    package var count: Int = 0

    /// The fields of the frame that precede its records. Header and records together are the encoded frame.
    ///
    /// - Parameter firstNumbers: parallel to `devices`.
    package func header(epoch: Epoch, firstSequence: UInt64, firstNumbers: [UInt64]) -> ByteBuffer {
        precondition(firstNumbers.count == devices.count, "one first number a device")
        var header = ByteBuffer()
        header.reserveCapacity(96 + devices.count * 40)
        FrameHeader.encode(epoch: epoch, firstSequence: firstSequence, clock: clock, into: &header)
        for (device, number) in zip(devices, firstNumbers) {
            FrameHeader.encode(FrameDevice(id: device.id, firstNumber: number), into: &header)
        }
        return header
    }
}

package enum FrameHeader {
    package static func encode(epoch: Epoch, firstSequence: UInt64, clock: FrameClock, into buffer: inout ByteBuffer) {
        buffer.writeInteger(1 << 3 | WireType.lengthDelimited)
        buffer.writeVarint(16)
        buffer.writeMultipleIntegers(epoch.high, epoch.low)
        buffer.writeField(2, varint: firstSequence)
        buffer.writeField(3, zigzag: clock.wallTime)
        buffer.writeField(4, zigzag: clock.monotonicTime)
        buffer.writeInteger(5 << 3 | WireType.lengthDelimited)
        buffer.writeVarint(16)
        buffer.writeMultipleIntegers(clock.bootHigh, clock.bootLow)
        buffer.writeField(6, varint: clock.isSynchronised ? 1 : 0)
    }

    package static func encode(_ device: FrameDevice, into buffer: inout ByteBuffer) {
        let idLength = device.id.utf8.count
        buffer.writeInteger(7 << 3 | WireType.lengthDelimited)
        buffer.writeVarint(
            UInt64(1 + varintLength(UInt64(idLength)) + idLength + 1 + varintLength(device.firstNumber)))
        buffer.writeField(1, string: device.id)
        buffer.writeField(2, varint: device.firstNumber)
    }
}

/// Collects the messages of one commit as encoded frames, each up to `maximumFrameBytes` of records unless one message
/// alone is larger.
package struct FrameBuilder: Sendable {
    package static let maximumFrameBytes = 256 * 1024

    /// Complete drafts; the open one is last.
    package private(set) var drafts: [FrameDraft] = []
    /// Messages in all drafts.
    package private(set) var count = 0
    /// Encoded records in all drafts, in bytes.
    package private(set) var byteCount = 0
    /// Slot of a device in the open draft, by handle; valid where `stamps` holds the draft's stamp.
    private var slots: [UInt32] = []
    private var stamps: [UInt32] = []
    private var stamp: UInt32 = 0
    /// Storage of committed drafts, to be filled again: a buffer that grew by doubling would be copied at each step.
    private var spares: [ByteBuffer] = []
    private static let sparesMaximum = 2

    package init() {}

    package var isEmpty: Bool { count == 0 }

    /// Appends a message. Its times are the clock's of the open draft plus the monotonic difference.
    package mutating func append(
        device: DeviceHandle, deviceID: String, qos: UInt8, retain: Bool, duplicate: Bool, isWill: Bool = false,
        topic: ByteBuffer, payload: ByteBuffer, properties: ByteBuffer, clock: FrameClock
    ) {
        if drafts.isEmpty || drafts[drafts.count - 1].records.readableBytes >= Self.maximumFrameBytes
            || drafts[drafts.count - 1].clock.isSynchronised != clock.isSynchronised
        {
            open(clock: clock)
        }
        let last = drafts.count - 1
        let slot = self.slot(of: device, id: deviceID, in: last)
        drafts[last].devices[Int(slot)].count += 1
        let before = drafts[last].records.readableBytes
        let offset = clock.monotonicTime - drafts[last].clock.monotonicTime
        let flags =
            UInt64(qos) | (retain ? 4 : 0) | (duplicate ? 8 : 0) | (isWill ? 16 : 0)
        Self.encodeRecord(
            device: UInt64(slot), flags: flags, offset: offset, topic: topic, payload: payload, properties: properties,
            into: &drafts[last].records)
        drafts[last].count += 1
        count += 1
        byteCount += drafts[last].records.readableBytes - before
    }

    /// Gives up what was collected and keeps the slot tables for the next commit.
    package mutating func take() -> [FrameDraft] {
        let taken = drafts
        drafts = []
        count = 0
        byteCount = 0
        return taken
    }

    /// Takes back the storage of drafts that are committed; what somebody else still holds is of no use, and harmless.
    package mutating func reuse(_ committed: [FrameDraft]) {
        for draft in committed
        where spares.count < Self.sparesMaximum && draft.records.capacity <= 2 * Self.maximumFrameBytes {
            spares.append(draft.records)
        }
    }

    private mutating func open(clock: FrameClock) {
        stamp &+= 1
        var records = spares.popLast() ?? ByteBuffer()
        records.clear(minimumCapacity: 4096)
        drafts.append(FrameDraft(clock: clock, records: records))
    }

    private mutating func slot(of device: DeviceHandle, id: String, in draft: Int) -> UInt32 {
        let index = Int(device)
        if index >= slots.count {
            let missing = index + 1 - slots.count
            slots.append(contentsOf: repeatElement(0, count: missing))
            stamps.append(contentsOf: repeatElement(0, count: missing))
        }
        if stamps[index] == stamp { return slots[index] }
        let slot = UInt32(drafts[draft].devices.count)
        drafts[draft].devices.append(.init(handle: device, id: id, count: 0))
        stamps[index] = stamp
        slots[index] = slot
        return slot
    }

    package static func encodeRecord(
        device: UInt64, flags: UInt64, offset: Int64, topic: ByteBuffer, payload: ByteBuffer, properties: ByteBuffer,
        into buffer: inout ByteBuffer
    ) {
        let zigzag = zigzagEncoded(offset)
        var length = 0
        if device != 0 { length += 1 + varintLength(device) }
        if flags != 0 { length += 1 + varintLength(flags) }
        if zigzag != 0 { length += 1 + varintLength(zigzag) }
        length += 1 + varintLength(UInt64(topic.readableBytes)) + topic.readableBytes
        length += 1 + varintLength(UInt64(payload.readableBytes)) + payload.readableBytes
        if properties.readableBytes > 0 {
            length += 1 + varintLength(UInt64(properties.readableBytes)) + properties.readableBytes
        }
        buffer.writeInteger(8 << 3 | WireType.lengthDelimited)
        buffer.writeVarint(UInt64(length))
        if device != 0 { buffer.writeField(1, varint: device) }
        if flags != 0 { buffer.writeField(2, varint: flags) }
        if zigzag != 0 { buffer.writeField(3, varint: zigzag) }
        buffer.writeField(4, bytes: topic)
        buffer.writeField(5, bytes: payload)
        if properties.readableBytes > 0 { buffer.writeField(6, bytes: properties) }
    }
}
