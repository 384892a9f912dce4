import NIOCore

/// The value of an event-log record: what Kafka stores, so its numbers are deltas to the message before.
///
/// Sequence and number count from the one after the previous message's, wall time is the difference to the previous
/// message's and monotonic time the difference of the differences, all modulo 2⁶⁴; an absent topic is the previous
/// message's. So a device's consecutive messages cost their payload, a few bytes of time and their lengths.
extension LogEntry {
    private enum Field {
        static let messages: UInt8 = 1
        static let ledger: UInt8 = 2
        static let account: UInt8 = 3
        static let correction: UInt8 = 4
    }

    package func encoded() -> ByteBuffer {
        var buffer = ByteBuffer()
        switch self {
        case .messages(let messages):
            let length = messages.encodedLength
            buffer.reserveCapacity(1 + varintLength(UInt64(length)) + length)
            buffer.writeInteger(Field.messages << 3 | WireType.lengthDelimited)
            buffer.writeVarint(UInt64(length))
            messages.encode(into: &buffer)
        case .ledger(let gateway, let line):
            buffer.writeMessage(Field.ledger) { entry in
                entry.writeField(1, string: gateway)
                entry.writeMessage(2) { line.encode(into: &$0) }
            }
        case .account(let gateway, let account):
            buffer.writeMessage(Field.account) { entry in
                entry.writeField(1, string: gateway)
                entry.writeMessage(2) { account.encode(into: &$0) }
            }
        case .correction(let gateway, let correction):
            buffer.writeMessage(Field.correction) { entry in
                entry.writeField(1, string: gateway)
                entry.writeMessage(2) { correction.encode(into: &$0) }
            }
        }
        return buffer
    }

    /// Topics, payloads and properties are slices of `bytes`.
    package static func decode(
        _ bytes: ByteBuffer, limits: SyncLimits = SyncLimits()
    ) throws(SyncDecodingError) -> LogEntry {
        var reader = WireReader(bytes)
        let entry: LogEntry
        if reader.take(Field.messages, WireType.lengthDelimited) {
            let outer = try reader.enter("messages")
            entry = .messages(try DeviceMessages(from: &reader, limits: limits))
            try reader.leave(to: outer)
        } else if reader.take(Field.ledger, WireType.lengthDelimited) {
            let outer = try reader.enter("ledger")
            let gateway = try reader.identifier(1, "gateway")
            entry = .ledger(gateway: gateway, try reader.nested(2, "line", LedgerLine.init(from:)))
            try reader.leave(to: outer)
        } else if reader.take(Field.account, WireType.lengthDelimited) {
            let outer = try reader.enter("account")
            let gateway = try reader.identifier(1, "gateway")
            entry = .account(gateway: gateway, try reader.nested(2, "account", EpochAccount.init(from:)))
            try reader.leave(to: outer)
        } else if reader.take(Field.correction, WireType.lengthDelimited) {
            let outer = try reader.enter("correction")
            let gateway = try reader.identifier(1, "gateway")
            entry = .correction(
                gateway: gateway, try reader.nested(2, "correction", ClockCorrection.init(from:)))
            try reader.leave(to: outer)
        } else {
            try reader.finish()
            throw reader.error(.missing)
        }
        try reader.finish()
        return entry
    }
}

extension WireReader {
    fileprivate mutating func nested<Value>(
        _ field: UInt8, _ path: StaticString, _ decode: (inout WireReader) throws(SyncDecodingError) -> Value
    ) throws(SyncDecodingError) -> Value {
        guard take(field, WireType.lengthDelimited) else { throw error(.missing, "\(path)") }
        let outer = try enter(path)
        let value = try decode(&self)
        try leave(to: outer)
        return value
    }
}

extension DeviceMessages {
    /// Of everything before the messages.
    var headerLength: Int {
        let strings = [gateway.utf8.count, device.utf8.count]
        return strings.reduce(2 * 18) { $0 + 1 + varintLength(UInt64($1)) + $1 } + (lane == .live ? 0 : 2)
    }

    fileprivate var encodedLength: Int {
        var length = headerLength
        var previous = LogMessageDelta.Base()
        for message in messages {
            length += LogMessageDelta(message, after: previous).fieldLength(message)
            previous = LogMessageDelta.Base(message)
        }
        return length
    }

    fileprivate func encode(into buffer: inout ByteBuffer) {
        buffer.writeField(1, string: gateway)
        buffer.writeField(2, high: epoch.high, low: epoch.low)
        buffer.writeField(3, string: device)
        if lane != .live { buffer.writeField(4, varint: UInt64(lane.rawValue)) }
        buffer.writeField(5, high: bootHigh, low: bootLow)
        var previous = LogMessageDelta.Base()
        for message in messages {
            LogMessageDelta(message, after: previous).encode(message, into: &buffer)
            previous = LogMessageDelta.Base(message)
        }
    }

    fileprivate init(from reader: inout WireReader, limits: SyncLimits) throws(SyncDecodingError) {
        let gateway = try reader.identifier(1, "gateway")
        let epoch = try reader.epoch(2)
        let device = try reader.identifier(3, "device")
        let lane = try reader.lane(4)
        let boot = try reader.pair(5, "bootID")
        var messages: [SyncedMessage] = []
        var previous = LogMessageDelta.Base()
        while reader.take(6, WireType.lengthDelimited) {
            guard messages.count < limits.maximumRecords else {
                throw reader.error(.tooMany(limit: limits.maximumRecords), "messages")
            }
            do throws(SyncDecodingError) {
                let outer = try reader.enter("")
                let message = try SyncedMessage(from: &reader, after: previous)
                try reader.leave(to: outer)
                previous = LogMessageDelta.Base(message)
                messages.append(message)
            } catch { throw error.inside("messages[\(messages.count)]") }
        }
        guard !messages.isEmpty else { throw reader.error(.missing, "messages") }
        self.init(
            gateway: gateway, epoch: epoch, device: device, lane: lane, bootHigh: boot.high, bootLow: boot.low,
            messages: messages)
    }
}

/// A message as differences to the one before it in its entry.
struct LogMessageDelta {
    struct Base {
        var sequence: UInt64 = 0
        var number: UInt64 = 0
        var wallTime: Int64 = 0
        var monotonicTime: Int64 = 0
        var topic: ByteBuffer?

        init() {}

        init(_ message: SyncedMessage) {
            sequence = message.sequence
            number = message.number
            wallTime = message.wallTime
            monotonicTime = message.monotonicTime
            topic = message.topic
        }
    }

    private let sequence: UInt64
    private let number: UInt64
    private let flags: UInt64
    private let wallTime: UInt64
    private let monotonicTime: UInt64
    private let hasTopic: Bool

    init(_ message: SyncedMessage, after base: Base) {
        sequence = message.sequence &- base.sequence &- 1
        number = message.number &- base.number &- 1
        flags = message.flags
        let wall = message.wallTime &- base.wallTime
        wallTime = zigzagEncoded(wall)
        monotonicTime = zigzagEncoded(message.monotonicTime &- base.monotonicTime &- wall)
        hasTopic = message.topic != base.topic
    }

    /// With the field's own tag and length.
    func fieldLength(_ message: SyncedMessage) -> Int {
        let length = length(message)
        return 1 + varintLength(UInt64(length)) + length
    }

    private func length(_ message: SyncedMessage) -> Int {
        var length = 0
        for value in [sequence, number, flags, wallTime, monotonicTime] where value != 0 {
            length += 1 + varintLength(value)
        }
        if hasTopic { length += Self.bytesLength(message.topic) }
        if message.payload.readableBytes > 0 { length += Self.bytesLength(message.payload) }
        if message.properties.readableBytes > 0 { length += Self.bytesLength(message.properties) }
        return length
    }

    private static func bytesLength(_ bytes: ByteBuffer) -> Int {
        1 + varintLength(UInt64(bytes.readableBytes)) + bytes.readableBytes
    }

    func encode(_ message: SyncedMessage, into buffer: inout ByteBuffer) {
        buffer.writeInteger(6 << 3 | WireType.lengthDelimited)
        buffer.writeVarint(UInt64(length(message)))
        if sequence != 0 { buffer.writeField(1, varint: sequence) }
        if number != 0 { buffer.writeField(2, varint: number) }
        if flags != 0 { buffer.writeField(3, varint: flags) }
        if wallTime != 0 { buffer.writeField(4, varint: wallTime) }
        if monotonicTime != 0 { buffer.writeField(5, varint: monotonicTime) }
        if hasTopic { buffer.writeField(6, bytes: message.topic) }
        if message.payload.readableBytes > 0 { buffer.writeField(7, bytes: message.payload) }
        if message.properties.readableBytes > 0 { buffer.writeField(8, bytes: message.properties) }
    }
}

extension SyncedMessage {
    fileprivate var flags: UInt64 {
        UInt64(qos) | (retain ? MessageFlags.retain : 0) | (duplicate ? MessageFlags.duplicate : 0)
            | (isWill ? MessageFlags.will : 0) | (isClockSynchronised ? MessageFlags.clockSynchronised : 0)
    }

    fileprivate init(from reader: inout WireReader, after base: LogMessageDelta.Base) throws(SyncDecodingError) {
        let sequence = try reader.following(base.sequence, 1, "sequence")
        let number = try reader.following(base.number, 2, "number")
        let flags = try reader.flags(3, known: MessageFlags.clockSynchronised)
        let wall = zigzagDecoded(try reader.optionalVarint(4, "wallTime"))
        let monotonic = zigzagDecoded(try reader.optionalVarint(5, "monotonicTime"))
        let topic: ByteBuffer
        if reader.take(6, WireType.lengthDelimited) {
            topic = try reader.topic()
        } else if let known = base.topic {
            topic = known
        } else {
            throw reader.error(.missing, "topic")
        }
        let payload = reader.take(7, WireType.lengthDelimited) ? try reader.slice("payload") : ByteBuffer()
        let properties = reader.take(8, WireType.lengthDelimited) ? try reader.slice("properties") : ByteBuffer()
        self.init(
            sequence: sequence, number: number, qos: UInt8(flags & MessageFlags.qos),
            retain: flags & MessageFlags.retain != 0, duplicate: flags & MessageFlags.duplicate != 0,
            isWill: flags & MessageFlags.will != 0, wallTime: base.wallTime &+ wall,
            monotonicTime: base.monotonicTime &+ wall &+ monotonic,
            isClockSynchronised: flags & MessageFlags.clockSynchronised != 0, topic: topic, payload: payload,
            properties: properties)
    }
}

extension WireReader {
    /// A number that ascends from message to message.
    @inline(__always)
    fileprivate mutating func following(
        _ previous: UInt64, _ field: UInt8, _ path: StaticString
    ) throws(SyncDecodingError) -> UInt64 {
        let begin = offset
        let delta = try optionalVarint(field, path)
        let largest = SyncLimits.numbers.upperBound
        guard previous < largest, delta <= largest - previous - 1 else {
            throw error(.outOfRange(delta, allowed: SyncLimits.numbers), "\(path)", at: begin)
        }
        return previous + 1 + delta
    }
}
