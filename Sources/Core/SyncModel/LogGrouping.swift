import NIOCore

extension Batch {
    /// What the event log is to hold for this batch: messages grouped per epoch, device and boot across its frames, a
    /// device's in ascending order, each entry at most `LogEntry.maximumBytes` encoded unless a single message is
    /// larger; then an entry for each ledger line, account and correction.
    package func logEntries() -> [LogEntry] {
        var grouping = LogGrouping(gateway: gateway, lane: lane)
        for frame in frames { grouping.add(frame) }
        var entries = grouping.finish()
        for line in ledger { entries.append(.ledger(gateway: gateway, line)) }
        for account in accounts { entries.append(.account(gateway: gateway, account)) }
        for correction in corrections { entries.append(.correction(gateway: gateway, correction)) }
        return entries
    }
}

private struct LogGrouping {
    private struct Key: Hashable {
        var epoch: Epoch
        var device: String
        var bootHigh: UInt64
        var bootLow: UInt64
    }

    private struct Open {
        var entry: DeviceMessages
        var length: Int
        var base = LogMessageDelta.Base()
    }

    let gateway: String
    let lane: Lane
    private var open: [Open] = []
    private var indexes: [Key: Int] = [:]
    private var closed: [LogEntry] = []

    init(gateway: String, lane: Lane) {
        self.gateway = gateway
        self.lane = lane
    }

    mutating func add(_ frame: Frame) {
        let slots = frame.devices.map { slot(of: $0.id, in: frame) }
        var numbers = frame.devices.map(\.firstNumber)
        var sequence = frame.firstSequence
        for record in frame.records {
            let message = SyncedMessage(
                sequence: sequence, number: numbers[record.device], qos: record.qos, retain: record.retain,
                duplicate: record.duplicate, isWill: record.isWill, wallTime: frame.clock.wallTime + record.offset,
                monotonicTime: frame.clock.monotonicTime + record.offset,
                isClockSynchronised: frame.clock.isSynchronised, topic: record.topic, payload: record.payload,
                properties: record.properties)
            append(message, to: slots[record.device])
            numbers[record.device] += 1
            sequence += 1
        }
    }

    /// Entries that became full first, then the others in the order in which their devices first appeared: a device's
    /// own are in order.
    consuming func finish() -> [LogEntry] {
        closed + open.map { .messages($0.entry) }
    }

    private mutating func slot(of device: String, in frame: Frame) -> Int {
        let key = Key(
            epoch: frame.epoch, device: device, bootHigh: frame.clock.bootHigh, bootLow: frame.clock.bootLow)
        if let index = indexes[key] { return index }
        let entry = DeviceMessages(
            gateway: gateway, epoch: frame.epoch, device: device, lane: lane, bootHigh: frame.clock.bootHigh,
            bootLow: frame.clock.bootLow, messages: [])
        open.append(Open(entry: entry, length: Self.emptyLength(entry)))
        indexes[key] = open.count - 1
        return open.count - 1
    }

    private mutating func append(_ message: SyncedMessage, to slot: Int) {
        var length = LogMessageDelta(message, after: open[slot].base).fieldLength(message)
        if open[slot].length + length > LogEntry.maximumBytes, !open[slot].entry.messages.isEmpty {
            closed.append(.messages(open[slot].entry))
            open[slot].entry.messages.removeAll()
            open[slot].length = Self.emptyLength(open[slot].entry)
            length = LogMessageDelta(message, after: LogMessageDelta.Base()).fieldLength(message)
        }
        open[slot].length += length
        open[slot].base = LogMessageDelta.Base(message)
        open[slot].entry.messages.append(message)
    }

    /// Header, and the oneof's own tag and longest length.
    private static func emptyLength(_ entry: DeviceMessages) -> Int { entry.headerLength + 5 }
}
