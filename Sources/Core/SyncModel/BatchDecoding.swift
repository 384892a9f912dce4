import NIOCore

extension Batch {
    /// Decodes and checks a whole batch; topics, payloads and properties are slices of `bytes`.
    package static func decode(
        _ bytes: ByteBuffer, limits: SyncLimits = SyncLimits()
    ) throws(SyncDecodingError) -> Batch {
        var reader = WireReader(bytes)
        let version = try reader.number(1, "version", in: 0...UInt64(UInt32.max))
        guard version == BatchEncoder.version else { throw reader.error(.unknownValue(version), "version", at: 0) }
        let gateway = try reader.identifier(2, "gateway")
        var batch = Batch(gateway: gateway, lane: try reader.lane(3))
        while reader.take(4, WireType.lengthDelimited) {
            let index = batch.accounts.count
            guard index < limits.maximumAccounts else {
                throw reader.error(.tooMany(limit: limits.maximumAccounts), "accounts")
            }
            do throws(SyncDecodingError) {
                let outer = try reader.enter("")
                batch.accounts.append(try EpochAccount(from: &reader))
                try reader.leave(to: outer)
            } catch { throw error.inside("accounts[\(index)]") }
        }
        while reader.take(5, WireType.lengthDelimited) {
            let index = batch.ledger.count
            guard index < limits.maximumLedgerLines else {
                throw reader.error(.tooMany(limit: limits.maximumLedgerLines), "ledger")
            }
            do throws(SyncDecodingError) {
                let outer = try reader.enter("")
                batch.ledger.append(try LedgerLine(from: &reader))
                try reader.leave(to: outer)
            } catch { throw error.inside("ledger[\(index)]") }
        }
        try batch.decodeFrames(&reader, limits: limits)
        try batch.decodeCorrections(&reader, limits: limits)
        try reader.finish()
        return batch
    }

    private mutating func decodeCorrections(
        _ reader: inout WireReader, limits: SyncLimits
    ) throws(SyncDecodingError) {
        while reader.take(7, WireType.lengthDelimited) {
            let index = corrections.count
            guard index < limits.maximumCorrections else {
                throw reader.error(.tooMany(limit: limits.maximumCorrections), "corrections")
            }
            do throws(SyncDecodingError) {
                let outer = try reader.enter("")
                corrections.append(try ClockCorrection(from: &reader))
                try reader.leave(to: outer)
            } catch { throw error.inside("corrections[\(index)]") }
        }
    }

    private mutating func decodeFrames(
        _ reader: inout WireReader, limits: SyncLimits
    ) throws(SyncDecodingError) {
        var order = FrameOrder()
        var budget = limits
        while reader.take(6, WireType.lengthDelimited) {
            let index = frames.count
            guard index < limits.maximumFrames else {
                throw reader.error(.tooMany(limit: limits.maximumFrames), "frames")
            }
            do throws(SyncDecodingError) {
                let begin = reader.offset
                let outer = try reader.enter("")
                let (frame, counts) = try Frame.decode(&reader, limits: budget)
                try reader.leave(to: outer)
                try order.check(frame, counts: counts, offset: begin)
                budget.maximumRecords -= frame.records.count
                budget.maximumDevices -= frame.devices.count
                frames.append(frame)
            } catch { throw error.inside("frames[\(index)]") }
        }
    }
}

extension Frame {
    /// Decodes and checks one frame; topics, payloads and properties are slices of `bytes`.
    package static func decode(
        _ bytes: ByteBuffer, limits: SyncLimits = SyncLimits()
    ) throws(SyncDecodingError) -> Frame {
        var reader = WireReader(bytes)
        let (frame, _) = try decode(&reader, limits: limits)
        try reader.finish()
        return frame
    }

    /// - Returns: the frame, and how many of its records each device has.
    fileprivate static func decode(
        _ reader: inout WireReader, limits: SyncLimits
    ) throws(SyncDecodingError) -> (frame: Frame, counts: [UInt64]) {
        let epoch = try reader.epoch(1)
        let firstSequence = try reader.number(2, "firstSequence")
        let wallTime = zigzagDecoded(try reader.optionalVarint(3, "wallTime"))
        let monotonicTime = zigzagDecoded(try reader.optionalVarint(4, "monotonicTime"))
        let boot = try reader.pair(5, "bootID")
        let isSynchronised = try reader.bool(6, "clockSynchronised")
        let clock = FrameClock(
            wallTime: wallTime, monotonicTime: monotonicTime, bootHigh: boot.high, bootLow: boot.low,
            isSynchronised: isSynchronised)
        var frame = Frame(epoch: epoch, firstSequence: firstSequence, clock: clock, devices: [], records: [])
        try frame.decodeDevices(&reader, limits: limits)
        let counts = try frame.decodeRecords(&reader, limits: limits)
        try frame.checkNumbers(counts, reader)
        return (frame, counts)
    }

    private mutating func decodeDevices(
        _ reader: inout WireReader, limits: SyncLimits
    ) throws(SyncDecodingError) {
        var known: Set<String> = []
        while reader.take(7, WireType.lengthDelimited) {
            let index = devices.count
            guard index < limits.maximumDevices else {
                throw reader.error(.tooMany(limit: limits.maximumDevices), "devices")
            }
            do throws(SyncDecodingError) {
                let begin = reader.offset
                let outer = try reader.enter("")
                let id = try reader.identifier(1, "id")
                let device = FrameDevice(id: id, firstNumber: try reader.number(2, "firstNumber"))
                try reader.leave(to: outer)
                guard known.insert(id).inserted else { throw reader.error(.duplicateDevice, at: begin) }
                devices.append(device)
            } catch { throw error.inside("devices[\(index)]") }
        }
    }

    private mutating func decodeRecords(
        _ reader: inout WireReader, limits: SyncLimits
    ) throws(SyncDecodingError) -> [UInt64] {
        var counts = [UInt64](repeating: 0, count: devices.count)
        while reader.take(8, WireType.lengthDelimited) {
            guard records.count < limits.maximumRecords else {
                throw reader.error(.tooMany(limit: limits.maximumRecords), "records")
            }
            do throws(SyncDecodingError) {
                let outer = try reader.enter("")
                let record = try FrameRecord(from: &reader, devices: counts.count)
                try reader.leave(to: outer)
                guard !clock.wallTime.addingReportingOverflow(record.offset).overflow,
                    !clock.monotonicTime.addingReportingOverflow(record.offset).overflow
                else { throw reader.error(.timeOverflow, "offset") }
                counts[record.device] += 1
                records.append(record)
            } catch { throw error.inside("records[\(records.count)]") }
        }
        guard !records.isEmpty else { throw reader.error(.missing, "records") }
        return counts
    }

    private func checkNumbers(_ counts: [UInt64], _ reader: WireReader) throws(SyncDecodingError) {
        let largest = SyncLimits.numbers.upperBound
        guard firstSequence <= largest - UInt64(records.count - 1) else {
            throw reader.error(.outOfRange(firstSequence, allowed: SyncLimits.numbers), "firstSequence")
        }
        for (index, count) in counts.enumerated() {
            guard count > 0 else { throw reader.error(.unusedDevice, "devices[\(index)]") }
            guard devices[index].firstNumber <= largest - (count - 1) else {
                throw reader.error(
                    .outOfRange(devices[index].firstNumber, allowed: SyncLimits.numbers),
                    "devices[\(index)].firstNumber")
            }
        }
    }
}

/// What the frames of a batch have reached: sequences ascend per epoch, numbers per epoch and device.
private struct FrameOrder {
    private struct DeviceKey: Hashable {
        var epoch: Epoch
        var device: String
    }

    private var lastSequences: [Epoch: UInt64] = [:]
    private var lastNumbers: [DeviceKey: UInt64] = [:]

    mutating func check(_ frame: Frame, counts: [UInt64], offset: Int) throws(SyncDecodingError) {
        if let last = lastSequences[frame.epoch], frame.firstSequence <= last {
            throw SyncDecodingError(
                .notAscending(first: frame.firstSequence, previous: last), path: "firstSequence", offset: offset)
        }
        lastSequences[frame.epoch] = frame.firstSequence + UInt64(frame.records.count - 1)
        for (index, device) in frame.devices.enumerated() {
            let key = DeviceKey(epoch: frame.epoch, device: device.id)
            if let last = lastNumbers[key], device.firstNumber <= last {
                throw SyncDecodingError(
                    .notAscending(first: device.firstNumber, previous: last), path: "devices[\(index)].firstNumber",
                    offset: offset)
            }
            lastNumbers[key] = device.firstNumber + (counts[index] - 1)
        }
    }
}

extension FrameRecord {
    fileprivate init(from reader: inout WireReader, devices: Int) throws(SyncDecodingError) {
        let begin = reader.offset
        let device = try reader.optionalVarint(1, "device")
        guard device < UInt64(devices) else {
            if devices == 0 { throw reader.error(.missing, "device", at: begin) }
            throw reader.error(.outOfRange(device, allowed: 0...UInt64(devices - 1)), "device", at: begin)
        }
        let flags = try reader.flags(2, known: MessageFlags.will)
        let offset = zigzagDecoded(try reader.optionalVarint(3, "offset"))
        guard reader.take(4, WireType.lengthDelimited) else { throw reader.error(.missing, "topic") }
        let topic = try reader.topic()
        let payload = reader.take(5, WireType.lengthDelimited) ? try reader.slice("payload") : ByteBuffer()
        let properties = reader.take(6, WireType.lengthDelimited) ? try reader.slice("properties") : ByteBuffer()
        self.init(
            device: Int(device), qos: UInt8(flags & MessageFlags.qos), retain: flags & MessageFlags.retain != 0,
            duplicate: flags & MessageFlags.duplicate != 0, isWill: flags & MessageFlags.will != 0, offset: offset,
            topic: topic, payload: payload, properties: properties)
    }
}

extension EpochAccount {
    init(from reader: inout WireReader) throws(SyncDecodingError) {
        self.init(
            epoch: try reader.epoch(1),
            lastSequence: try reader.number(2, "lastSequence", in: 0...SyncLimits.numbers.upperBound),
            isClosed: try reader.bool(3, "closed"))
    }
}

extension LedgerLine {
    init(from reader: inout WireReader) throws(SyncDecodingError) {
        let epoch = try reader.epoch(1)
        let device = try reader.identifier(2, "device")
        let firstSequence = try reader.number(3, "firstSequence")
        let lastSequence = try reader.number(4, "lastSequence")
        let firstNumber = try reader.number(5, "firstNumber")
        let lastNumber = try reader.number(6, "lastNumber")
        let begin = reader.offset
        let value = try reader.optionalVarint(7, "reason")
        guard let reason = UInt32(exactly: value).flatMap(LedgerReason.init(rawValue:)) else {
            throw reader.error(.unknownValue(value), "reason", at: begin)
        }
        guard firstSequence <= lastSequence, firstNumber <= lastNumber,
            lastNumber - firstNumber <= lastSequence - firstSequence
        else { throw reader.error(.inconsistentRange, at: begin) }
        self.init(
            epoch: epoch, device: device, sequences: firstSequence...lastSequence, numbers: firstNumber...lastNumber,
            reason: reason, aggregate: reason == .aggregated ? try AggregateReference(from: &reader) : nil)
    }
}

extension AggregateReference {
    fileprivate init(from reader: inout WireReader) throws(SyncDecodingError) {
        let (high, low) = try reader.pair(8, "aggregateEpoch")
        let first = try reader.number(9, "firstAggregate")
        let begin = reader.offset
        let last = try reader.number(10, "lastAggregate")
        guard first <= last else { throw reader.error(.inconsistentRange, "lastAggregate", at: begin) }
        self.init(epoch: Epoch(high: high, low: low), sequences: first...last)
    }
}

extension ClockCorrection {
    init(from reader: inout WireReader) throws(SyncDecodingError) {
        let epoch = try reader.epoch(1)
        let firstSequence = try reader.number(2, "firstSequence")
        let begin = reader.offset
        let lastSequence = try reader.number(3, "lastSequence")
        guard firstSequence <= lastSequence else { throw reader.error(.inconsistentRange, at: begin) }
        let offsetBegin = reader.offset
        let offset = zigzagDecoded(try reader.optionalVarint(4, "offset"))
        guard SyncLimits.clockOffsets.contains(offset) else {
            throw reader.error(.timeOutOfRange(offset, allowed: SyncLimits.clockOffsets), "offset", at: offsetBegin)
        }
        self.init(epoch: epoch, sequences: firstSequence...lastSequence, offset: offset)
    }
}

extension WireReader {
    mutating func lane(_ field: UInt8) throws(SyncDecodingError) -> Lane {
        let begin = offset
        let value = try optionalVarint(field, "lane")
        guard let lane = UInt8(exactly: value).flatMap(Lane.init(rawValue:)) else {
            throw error(.unknownValue(value), "lane", at: begin)
        }
        return lane
    }

    /// - Parameter known: the highest bit that has a meaning.
    @inline(__always)
    mutating func flags(_ field: UInt8, known: UInt64) throws(SyncDecodingError) -> UInt64 {
        let begin = offset
        let flags = try optionalVarint(field, "flags")
        guard flags < known << 1, flags & MessageFlags.qos <= 2 else {
            throw error(.unknownValue(flags), "flags", at: begin)
        }
        return flags
    }
}
