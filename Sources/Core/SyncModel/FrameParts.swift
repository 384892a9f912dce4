import NIOCore

/// A stored frame taken apart, so that some of its messages can be sent without the others. It reads only how the frame
/// is built, and so takes apart what a receiver would refuse for what is in it.
package struct FrameParts: Sendable {
    /// One message, with its identity.
    package struct Message: Sendable, Equatable {
        package var epoch: Epoch
        package var device: String
        package var sequence: UInt64
        package var number: UInt64
        package var topic: ByteBuffer
        package var payload: ByteBuffer
        package var properties: ByteBuffer
    }

    private struct Record {
        var device: Int
        /// Index of the record's device among its own messages in the frame.
        var position: UInt64
        /// The record's fields, without tag and length.
        var body: ByteBuffer
    }

    private let epoch: Epoch
    private let firstSequence: UInt64
    private let clock: FrameClock
    private let devices: [FrameDevice]
    private let records: [Record]

    /// Messages.
    package var count: Int { records.count }

    /// `nil` when header and records are not built as a frame.
    package init?(header: ByteBuffer, records: ByteBuffer) {
        guard let fields = FrameFields(header) else { return nil }
        var found: [Record] = []
        var counts = [UInt64](repeating: 0, count: fields.devices.count)
        var rest = records
        while rest.readableBytes > 0 {
            guard let (field, value) = rest.readProtobufField(), field == 8, case .bytes(let body) = value else {
                return nil
            }
            var first = body
            var device = 0
            if let (field, value) = first.readProtobufField(), field == 1, case .varint(let index) = value {
                guard index < UInt64(counts.count) else { return nil }
                device = Int(index)
            }
            guard device < counts.count else { return nil }
            found.append(Record(device: device, position: counts[device], body: body))
            counts[device] += 1
        }
        epoch = fields.epoch
        firstSequence = fields.firstSequence
        clock = fields.clock
        devices = fields.devices
        self.records = found
    }

    /// The same frame with some of its messages, each with the sequence and number that it had.
    package func encoded(_ range: Range<Int>) -> (header: ByteBuffer, records: ByteBuffer) {
        var header = ByteBuffer()
        FrameHeader.encode(
            epoch: epoch, firstSequence: firstSequence + UInt64(range.lowerBound), clock: clock, into: &header)
        var slots: [Int: UInt64] = [:]
        var body = ByteBuffer()
        for record in records[range] {
            if slots[record.device] == nil {
                slots[record.device] = UInt64(slots.count)
                let device = devices[record.device]
                FrameHeader.encode(
                    FrameDevice(id: device.id, firstNumber: device.firstNumber + record.position), into: &header)
            }
            Self.encode(record.body, device: slots[record.device] ?? 0, into: &body)
        }
        return (header, body)
    }

    package func message(at index: Int) -> Message {
        let record = records[index]
        let device = devices[record.device]
        var message = Message(
            epoch: epoch, device: device.id, sequence: firstSequence + UInt64(index),
            number: device.firstNumber + record.position, topic: ByteBuffer(), payload: ByteBuffer(),
            properties: ByteBuffer())
        var body = record.body
        while let (field, value) = body.readProtobufField() {
            guard case .bytes(let bytes) = value else { continue }
            switch field {
            case 4: message.topic = bytes
            case 5: message.payload = bytes
            case 6: message.properties = bytes
            default: break
            }
        }
        return message
    }

    /// The record as it was, but for the index of its device.
    private static func encode(_ body: ByteBuffer, device: UInt64, into buffer: inout ByteBuffer) {
        var rest = body
        var first = body
        if let (field, value) = first.readProtobufField(), field == 1, case .varint = value { rest = first }
        buffer.writeInteger(8 << 3 | WireType.lengthDelimited)
        buffer.writeVarint(UInt64(rest.readableBytes + (device == 0 ? 0 : 1 + varintLength(device))))
        if device != 0 { buffer.writeField(1, varint: device) }
        buffer.writeImmutableBuffer(rest)
    }
}

/// Fields 1 to 7 of a frame.
private struct FrameFields {
    var epoch = Epoch(high: 0, low: 0)
    var firstSequence: UInt64 = 0
    var clock = FrameClock(wallTime: 0, monotonicTime: 0, bootHigh: 0, bootLow: 0, isSynchronised: false)
    var devices: [FrameDevice] = []

    init?(_ header: ByteBuffer) {
        var rest = header
        while rest.readableBytes > 0 {
            guard let (field, value) = rest.readProtobufField() else { return nil }
            switch (field, value) {
            case (1, .bytes(var bytes)):
                guard let pair = bytes.readMultipleIntegers(as: (UInt64, UInt64).self) else { return nil }
                epoch = Epoch(high: pair.0, low: pair.1)
            case (2, .varint(let value)): firstSequence = value
            case (3, .varint(let value)): clock.wallTime = zigzagDecoded(value)
            case (4, .varint(let value)): clock.monotonicTime = zigzagDecoded(value)
            case (5, .bytes(var bytes)):
                guard let pair = bytes.readMultipleIntegers(as: (UInt64, UInt64).self) else { return nil }
                clock.bootHigh = pair.0
                clock.bootLow = pair.1
            case (6, .varint(let value)): clock.isSynchronised = value == 1
            case (7, .bytes(var bytes)):
                var device = FrameDevice(id: "", firstNumber: 0)
                while let (field, value) = bytes.readProtobufField() {
                    switch (field, value) {
                    case (1, .bytes(let id)): device.id = String(buffer: id)
                    case (2, .varint(let number)): device.firstNumber = number
                    default: return nil
                    }
                }
                devices.append(device)
            default: return nil
            }
        }
        guard firstSequence > 0 else { return nil }
    }
}

private enum ProtobufValue {
    case varint(UInt64)
    case bytes(ByteBuffer)
}

extension ByteBuffer {
    /// `nil` at the end, and where the bytes are no field of the two types that the protocol uses.
    fileprivate mutating func readProtobufField() -> (field: UInt8, value: ProtobufValue)? {
        guard let tag = readInteger(as: UInt8.self), tag < 0x80 else { return nil }
        switch tag & 7 {
        case WireType.varint: return readProtobufVarint().map { (tag >> 3, .varint($0)) }
        case WireType.lengthDelimited:
            guard let length = readProtobufVarint(), length <= UInt64(readableBytes),
                let bytes = readSlice(length: Int(length))
            else { return nil }
            return (tag >> 3, .bytes(bytes))
        default: return nil
        }
    }

    private mutating func readProtobufVarint() -> UInt64? {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), through: 63, by: 7) {
            guard let byte = readInteger(as: UInt8.self) else { return nil }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
        }
        return nil
    }
}
