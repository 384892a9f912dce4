import NIOCore

/// What a frame says of one device: its id and the dense number of its first message in the frame.
package struct FrameDevice: Sendable, Equatable {
    package var id: String
    /// Dense per (epoch, device), from 1.
    package var firstNumber: UInt64

    package init(id: String, firstNumber: UInt64) {
        self.id = id
        self.firstNumber = firstNumber
    }
}

/// One message inside a frame. Its sequence is the frame's first sequence plus its position; its device number is the
/// device's first number plus how many messages of that device precede it in the frame.
package struct FrameRecord: Sendable, Equatable {
    /// Index into `Frame.devices`.
    package var device: Int
    package var qos: UInt8
    package var retain: Bool
    /// The publisher had set DUP: it may be a second sending (MQTT 4.3.2).
    package var duplicate: Bool
    package var isWill: Bool
    /// Microseconds on the monotonic clock since the frame's times.
    package var offset: Int64
    package var topic: ByteBuffer
    package var payload: ByteBuffer
    /// MQTT 5.0 properties as on the wire, in order; empty when none.
    package var properties: ByteBuffer

    package init(
        device: Int, qos: UInt8, retain: Bool = false, duplicate: Bool = false, isWill: Bool = false, offset: Int64 = 0,
        topic: ByteBuffer, payload: ByteBuffer, properties: ByteBuffer = ByteBuffer()
    ) {
        self.device = device
        self.qos = qos
        self.retain = retain
        self.duplicate = duplicate
        self.isWill = isWill
        self.offset = offset
        self.topic = topic
        self.payload = payload
        self.properties = properties
    }
}

/// The times of a frame, taken when its first message arrived.
package struct FrameClock: Sendable, Equatable {
    /// Microseconds since 1970-01-01T00:00:00Z by the gateway's clock.
    package var wallTime: Int64
    /// Microseconds on the monotonic clock of `bootID`.
    package var monotonicTime: Int64
    /// The kernel's boot id, 128 bits.
    package var bootHigh: UInt64
    package var bootLow: UInt64
    package var isSynchronised: Bool
    /// Microseconds that the machine slept in this boot, which the monotonic clock does not count. It is not sent.
    package var asleepTime: Int64

    package init(
        wallTime: Int64, monotonicTime: Int64, bootHigh: UInt64, bootLow: UInt64, isSynchronised: Bool,
        asleepTime: Int64 = 0
    ) {
        self.wallTime = wallTime
        self.monotonicTime = monotonicTime
        self.bootHigh = bootHigh
        self.bootLow = bootLow
        self.isSynchronised = isSynchronised
        self.asleepTime = asleepTime
    }
}

/// Messages that were committed together, with consecutive sequences; stored as one row and sent as it is.
package struct Frame: Sendable, Equatable {
    package var epoch: Epoch
    /// From 1 in each epoch.
    package var firstSequence: UInt64
    package var clock: FrameClock
    package var devices: [FrameDevice]
    package var records: [FrameRecord]

    package init(
        epoch: Epoch, firstSequence: UInt64, clock: FrameClock, devices: [FrameDevice], records: [FrameRecord]
    ) {
        self.epoch = epoch
        self.firstSequence = firstSequence
        self.clock = clock
        self.devices = devices
        self.records = records
    }
}

/// Why messages with a sequence end without a row. Values are part of the sync protocol.
package enum LedgerReason: UInt32, Sendable {
    case bufferFull = 1
    case expiredByAge = 2
    case damaged = 3
    case malformed = 4
    case aggregated = 5
    case filtered = 6
}

/// Messages that stand for others: those of a line's device among these sequences.
package struct AggregateReference: Sendable, Hashable {
    package var epoch: Epoch
    package var sequences: ClosedRange<UInt64>

    package init(epoch: Epoch, sequences: ClosedRange<UInt64>) {
        self.epoch = epoch
        self.sequences = sequences
    }
}

/// Sequences of one device that were dropped on purpose, and why.
package struct LedgerLine: Sendable, Equatable {
    /// Of lines whose messages a salvage could not tell apart; no device can be called so.
    package static let unknownDevice = "#"

    package var epoch: Epoch
    package var device: String
    package var sequences: ClosedRange<UInt64>
    /// The dense numbers of the same messages.
    package var numbers: ClosedRange<UInt64>
    package var reason: LedgerReason
    /// What stands for messages that were aggregated, and for those alone.
    package var aggregate: AggregateReference?

    package init(
        epoch: Epoch, device: String, sequences: ClosedRange<UInt64>, numbers: ClosedRange<UInt64>,
        reason: LedgerReason, aggregate: AggregateReference? = nil
    ) {
        self.epoch = epoch
        self.device = device
        self.sequences = sequences
        self.numbers = numbers
        self.reason = reason
        self.aggregate = aggregate
    }
}

/// What a gateway had committed in an epoch when the batch was cut; the audit counts against it.
package struct EpochAccount: Sendable, Equatable {
    package var epoch: Epoch
    package var lastSequence: UInt64
    /// The daemon that wrote this epoch has ended: `lastSequence` is final.
    package var isClosed: Bool

    package init(epoch: Epoch, lastSequence: UInt64, isClosed: Bool) {
        self.epoch = epoch
        self.lastSequence = lastSequence
        self.isClosed = isClosed
    }
}

/// A way to travel, no identity: its digest guards integrity, per-message deduplication alone decides.
package struct Batch: Sendable, Equatable {
    package var gateway: String
    package var lane: Lane
    package var accounts: [EpochAccount]
    package var frames: [Frame]
    package var ledger: [LedgerLine]
    package var corrections: [ClockCorrection]

    package init(
        gateway: String, lane: Lane = .live, accounts: [EpochAccount] = [], frames: [Frame] = [],
        ledger: [LedgerLine] = [], corrections: [ClockCorrection] = []
    ) {
        self.gateway = gateway
        self.lane = lane
        self.accounts = accounts
        self.frames = frames
        self.ledger = ledger
        self.corrections = corrections
    }
}

/// A message as the cloud handles it: whole, with its identity spelled out.
package struct SyncedMessage: Sendable, Equatable {
    package var sequence: UInt64
    /// Dense per (epoch, device).
    package var number: UInt64
    package var qos: UInt8
    package var retain: Bool
    package var duplicate: Bool
    package var isWill: Bool
    /// Microseconds since 1970 by the gateway's clock.
    package var wallTime: Int64
    package var monotonicTime: Int64
    package var isClockSynchronised: Bool
    package var topic: ByteBuffer
    package var payload: ByteBuffer
    package var properties: ByteBuffer

    package init(
        sequence: UInt64, number: UInt64, qos: UInt8, retain: Bool = false, duplicate: Bool = false,
        isWill: Bool = false, wallTime: Int64, monotonicTime: Int64 = 0, isClockSynchronised: Bool = true,
        topic: ByteBuffer, payload: ByteBuffer, properties: ByteBuffer = ByteBuffer()
    ) {
        self.sequence = sequence
        self.number = number
        self.qos = qos
        self.retain = retain
        self.duplicate = duplicate
        self.isWill = isWill
        self.wallTime = wallTime
        self.monotonicTime = monotonicTime
        self.isClockSynchronised = isClockSynchronised
        self.topic = topic
        self.payload = payload
        self.properties = properties
    }
}

/// The value of one record in the event log; the key is `routingKey`.
package enum LogEntry: Sendable, Equatable {
    /// Messages of one device and one boot, ascending, at most `LogEntry.maximumBytes` encoded unless a single one is larger.
    case messages(DeviceMessages)
    case ledger(gateway: String, LedgerLine)
    case account(gateway: String, EpochAccount)
    case correction(gateway: String, ClockCorrection)

    package static let maximumBytes = 256 * 1024

    package var gateway: String {
        switch self {
        case .messages(let messages): messages.gateway
        case .ledger(let gateway, _), .account(let gateway, _), .correction(let gateway, _): gateway
        }
    }

    /// The device's id (the gateway's for accounts and corrections), so that a device keeps its partition and its order.
    package var routingKey: String {
        switch self {
        case .messages(let messages): messages.device
        case .ledger(_, let line): line.device
        case .account(let gateway, _), .correction(let gateway, _): gateway
        }
    }
}

package struct DeviceMessages: Sendable, Equatable {
    package var gateway: String
    package var epoch: Epoch
    package var device: String
    package var lane: Lane
    package var bootHigh: UInt64
    package var bootLow: UInt64
    package var messages: [SyncedMessage]

    package init(
        gateway: String, epoch: Epoch, device: String, lane: Lane, bootHigh: UInt64 = 0, bootLow: UInt64 = 0,
        messages: [SyncedMessage]
    ) {
        self.gateway = gateway
        self.epoch = epoch
        self.device = device
        self.lane = lane
        self.bootHigh = bootHigh
        self.bootLow = bootLow
        self.messages = messages
    }
}
