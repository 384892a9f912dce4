import NIOCore

/// A number for a device id, dense per process, so that the hot path indexes arrays instead of hashing strings.
package typealias DeviceHandle = UInt32

/// Messages that wait for their commit, already encoded; what only the commit knows (epoch, sequence, device numbers)
/// goes into the header.
package struct FrameDraft: Sendable {
    package struct Device: Sendable {
        /// Of a device that has none in the gateway.
        package static let noHandle = DeviceHandle.max

        package var handle: DeviceHandle
        package var id: String
        package var count: UInt64

        package init(handle: DeviceHandle, id: String, count: UInt64) {
            self.handle = handle
            self.id = id
            self.count = count
        }
    }

    package var clock: FrameClock
    package var priority = MessagePriority.standard
    package var handling = MessageHandling.direct
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

/// What becomes of messages once they are committed.
package enum MessageHandling: Sendable, Hashable {
    /// They wait for the uplink.
    case direct
    /// They wait for the end of a window of the rule, whose place in the list of rules this is.
    case held(rule: UInt8)
    /// They are a ledger line, and nothing else. A rule does either.
    case discarded(rule: UInt8)
}

/// Which messages of a full buffer are dropped first: those of the lowest. Ascends with what the messages are worth.
package struct MessagePriority: Sendable, Hashable, Comparable {
    package static let range: ClosedRange<UInt8> = 0...9
    package static let standard = MessagePriority(5)

    package let value: UInt8

    /// - Parameter value: one of `range`; beyond it is the nearest.
    package init(_ value: UInt8) { self.value = min(value, Self.range.upperBound) }

    package static func < (a: MessagePriority, b: MessagePriority) -> Bool { a.value < b.value }
}

/// Collects the messages of one commit as encoded frames, each of one priority and handling and up to `maximumFrameBytes` of records
/// unless one message alone is larger. So messages of a device keep their order within a priority; across priorities only
/// from commit to commit.
package struct FrameBuilder: Sendable {
    package static let maximumFrameBytes = 256 * 1024

    /// The frame that takes the messages of one priority now.
    private struct OpenDraft: Sendable {
        /// In `drafts`; `nil` before the first message of a commit.
        var index: Int?
        /// Slot of a device in the draft, by handle; valid where `stamps` holds the draft's stamp.
        var slots: [UInt32] = []
        var stamps: [UInt32] = []
        var stamp: UInt32 = 0
    }

    /// In the order in which they were opened.
    package private(set) var drafts: [FrameDraft] = []
    /// Messages in all drafts.
    package private(set) var count = 0
    /// Encoded records in all drafts, in bytes.
    package private(set) var byteCount = 0
    /// By priority; further ones for messages that are not handled directly, as far as there are any.
    private var open = [OpenDraft](repeating: OpenDraft(), count: Self.priorities)
    private static let priorities = Int(MessagePriority.range.upperBound) + 1
    /// Storage of committed drafts, to be filled again: a buffer that grew by doubling would be copied at each step.
    private var spares: [ByteBuffer] = []
    private static let sparesMaximum = 2

    package init() {}

    package var isEmpty: Bool { count == 0 }

    /// Appends a message. Its times are the clock's of its frame plus the monotonic difference.
    package mutating func append(
        device: DeviceHandle, deviceID: String, qos: UInt8, retain: Bool, duplicate: Bool, isWill: Bool = false,
        topic: ByteBuffer, payload: ByteBuffer, properties: ByteBuffer, clock: FrameClock,
        priority: MessagePriority = .standard, handling: MessageHandling = .direct
    ) {
        let place = handling == .direct ? Int(priority.value) : place(of: handling, priority)
        let draft = draft(at: place, clock: clock, priority: priority, handling: handling)
        let slot = self.slot(of: device, id: deviceID, in: draft, at: place)
        drafts[draft].devices[Int(slot)].count += 1
        let before = drafts[draft].records.readableBytes
        let offset = clock.monotonicTime - drafts[draft].clock.monotonicTime
        let flags =
            UInt64(qos) | (retain ? 4 : 0) | (duplicate ? 8 : 0) | (isWill ? 16 : 0)
        Self.encodeRecord(
            device: UInt64(slot), flags: flags, offset: offset, topic: topic, payload: payload, properties: properties,
            into: &drafts[draft].records)
        drafts[draft].count += 1
        count += 1
        byteCount += drafts[draft].records.readableBytes - before
    }

    /// Gives up what was collected and keeps the slot tables for the next commit.
    package mutating func take() -> [FrameDraft] {
        let taken = drafts
        drafts = []
        count = 0
        byteCount = 0
        for place in open.indices { open[place].index = nil }
        return taken
    }

    /// Takes back the storage of drafts that are committed; what somebody else still holds is of no use, and harmless.
    package mutating func reuse(_ committed: [FrameDraft]) {
        for draft in committed
        where spares.count < Self.sparesMaximum && draft.records.capacity <= 2 * Self.maximumFrameBytes {
            spares.append(draft.records)
        }
    }

    /// In `open`.
    private mutating func place(of handling: MessageHandling, _ priority: MessagePriority) -> Int {
        let place: Int
        switch handling {
        case .direct: place = Int(priority.value)
        // Nothing of them can be dropped, so their priority does not matter.
        case .discarded(let rule): place = (Int(rule) + 1) * Self.priorities
        case .held(let rule): place = (Int(rule) + 1) * Self.priorities + Int(priority.value)
        }
        let missing = place + 1 - open.count
        if missing > 0 { open.append(contentsOf: repeatElement(OpenDraft(), count: missing)) }
        return place
    }

    private mutating func draft(
        at place: Int, clock: FrameClock, priority: MessagePriority, handling: MessageHandling
    ) -> Int {
        if let index = open[place].index, drafts[index].records.readableBytes < Self.maximumFrameBytes,
            drafts[index].clock.isSynchronised == clock.isSynchronised
        {
            return index
        }
        open[place].stamp &+= 1
        open[place].index = drafts.count
        var records = spares.popLast() ?? ByteBuffer()
        records.clear(minimumCapacity: 4096)
        drafts.append(FrameDraft(clock: clock, priority: priority, handling: handling, records: records))
        return drafts.count - 1
    }

    private mutating func slot(of device: DeviceHandle, id: String, in draft: Int, at place: Int) -> UInt32 {
        let index = Int(device)
        let missing = index + 1 - open[place].slots.count
        if missing > 0 {
            open[place].slots.append(contentsOf: repeatElement(0, count: missing))
            open[place].stamps.append(contentsOf: repeatElement(0, count: missing))
        }
        if open[place].stamps[index] == open[place].stamp { return open[place].slots[index] }
        let slot = UInt32(drafts[draft].devices.count)
        drafts[draft].devices.append(.init(handle: device, id: id, count: 0))
        open[place].stamps[index] = open[place].stamp
        open[place].slots[index] = slot
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
