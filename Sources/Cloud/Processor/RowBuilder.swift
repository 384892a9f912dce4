import Database
import NIOCore
import SyncModel

/// The identity and the times of the message whose rows are being written.
struct RowContext {
    var source: Int32
    var device: DeviceEntry
    var sequence: Int64
    var topic: ByteBuffer
    var payload: ByteBuffer
    var wallTime: Int64
    /// When the log took it: now, for every decision about its time, so that a repetition decides the same.
    var appendTime: Int64
    var flags: RowFlags
}

/// Turns messages into rows of COPY's binary format.
struct RowBuilder {
    static let measurementCopy = """
        COPY measurement (time, sequence, value, device_time, device_id, metric_id, source, part, parts, flags, text)
        FROM STDIN (FORMAT binary)
        """
    static let eventCopy = """
        COPY event (time, sequence, device_time, device_id, source, part, parts, flags, kind, topic, body, bytes, reason)
        FROM STDIN (FORMAT binary)
        """
    /// Together within a B-tree's largest entry of about 2,700 bytes.
    private static let maximumTopic = 1_024
    private static let maximumPath = 512
    /// 0001-01-01 to 9999-12-31: what every client of PostgreSQL can show.
    private static let representable: ClosedRange<Int64> = -62_135_596_800_000_000...253_402_300_799_999_999
    private static let hour: Int64 = 3_600_000_000

    private var flattener: PayloadFlattener
    private let hot: Int64
    private let metricLimit: Int
    private var ids: [Int32] = []
    /// In the order in which messages need them: where the device's limit allows only some, the first get ids.
    private var missing: [MetricKey] = []
    private var isMissing: Set<MetricKey> = []
    /// Days since 1970 that rows were written for.
    private(set) var days: Set<Int32> = []
    private var lastDay = Int32.min

    init(configuration: ProcessorConfiguration) {
        flattener = PayloadFlattener(maximumLeaves: configuration.metricsPerMessage, timeField: configuration.timeField)
        hot = Int64(configuration.hotDays) * 86_400_000_000
        metricLimit = configuration.metricsPerDevice
    }

    mutating func takeMissing() -> [MetricKey] {
        defer { clearMissing() }
        return missing
    }

    private mutating func clearMissing() {
        missing = []
        isMissing = []
    }

    mutating func startBatch() {
        clearMissing()
        days = []
        lastDay = .min
    }

    /// Writes the message's rows.
    ///
    /// - Parameter isFinal: a metric without an id is beyond the device's limit; else it is added to `missing`.
    /// - Returns: `nil` where ids are missing: nothing was written, call again when they are known.
    mutating func build(
        _ context: RowContext, into batch: inout PreparedBatch, isFinal: Bool
    ) -> PreparedMessage? {
        context.payload.withUnsafeReadableBytes { payload in
            let outcome = flattener.flatten(payload)
            let time = time(of: context)
            var event: (kind: EventKind, body: Body)?
            var measures = false
            switch outcome {
            case .event(let kind):
                let isWhole = kind == .tooManyMetrics
                event = (kind, isWhole ? .json(payload) : .bytes(payload))
            case .value:
                event = (.json, .json(payload))
            case .flat:
                switch resolve(context, isFinal: isFinal) {
                case .missing: return nil
                case .event(let kind): event = (kind, .json(payload))
                case .known:
                    measures = true
                    if !flattener.rest.isEmpty { event = (.json, .rest) }
                }
            }
            return write(context, time: time, measures: measures, event: event, into: &batch)
        }
    }

    /// Writes the message as an event with its bytes, because the database refused the rows that `build` wrote.
    mutating func rebuild(
        _ context: RowContext, time: MessageTime, reason: String, into batch: inout PreparedBatch
    ) -> PreparedMessage {
        // The topic may be what was refused.
        var context = context
        let topic = String(decoding: context.topic.readableBytesView, as: UTF8.self).filter { $0 != "\0" }
        context.topic = ByteBuffer(string: topic)
        let start = batch.events.byteCount
        context.payload.withUnsafeReadableBytes { payload in
            writeEvent(
                context, time: time, part: 0, parts: 1, kind: .rejected, body: .bytes(payload), reason: reason,
                into: &batch.events)
        }
        return PreparedMessage(measurements: 0..<0, events: start..<batch.events.byteCount, rows: 1, time: time)
    }

    // MARK: Ids

    private enum Resolution { case known, missing, event(EventKind) }

    private mutating func resolve(_ context: RowContext, isFinal: Bool) -> Resolution {
        ids.removeAll(keepingCapacity: true)
        guard !flattener.leaves.isEmpty else { return .known }
        guard context.topic.readableBytes <= Self.maximumTopic else { return .event(.nameTooLong) }
        let metrics = context.device.metrics(topic: context.topic)
        let unknown = metrics.ids(of: flattener.leaves, paths: flattener.paths, into: &ids)
        if unknown.isEmpty { return .known }
        if unknown.contains(where: { $0.count > Self.maximumPath }) { return .event(.nameTooLong) }
        if isFinal || context.device.metricCount + unknown.count > metricLimit { return .event(.metricLimit) }
        let topic = String(decoding: context.topic.readableBytesView, as: UTF8.self)
        for path in unknown {
            let key = MetricKey(
                device: context.device.id, topic: ExactName(topic),
                path: ExactName(String(decoding: flattener.paths[path], as: UTF8.self)))
            if isMissing.insert(key).inserted { missing.append(key) }
        }
        return .missing
    }

    // MARK: Times

    /// The payload's time, else the gateway's; outside [append − hot, append + 1 h] the append time.
    private func time(of context: RowContext) -> MessageTime {
        var flags = context.flags
        if flattener.time != nil { flags.insert(.payloadTime) }
        if flattener.hasUnusableTime { flags.insert(.unusableTime) }
        let time = flattener.time ?? context.wallTime
        let ingest = min(max(context.appendTime, Self.representable.lowerBound), Self.representable.upperBound)
        if time >= ingest - hot, time <= ingest + Self.hour {
            return MessageTime(time: time, device: nil, flags: flags)
        }
        flags.insert(.outsideWindow)
        return MessageTime(time: ingest, device: Self.representable.contains(time) ? time : nil, flags: flags)
    }

    private mutating func note(day time: Int64) {
        let quotient = time / 86_400_000_000
        let day = Int32(time < 0 && quotient * 86_400_000_000 != time ? quotient - 1 : quotient)
        if day != lastDay {
            days.insert(day)
            lastDay = day
        }
    }

    // MARK: Rows

    private enum Body {
        case json(UnsafeRawBufferPointer)
        case bytes(UnsafeRawBufferPointer)
        /// What the flattener left.
        case rest
    }

    private mutating func write(
        _ context: RowContext, time: MessageTime, measures: Bool, event: (kind: EventKind, body: Body)?,
        into batch: inout PreparedBatch
    ) -> PreparedMessage {
        note(day: time.time)
        let leaves = measures ? flattener.leaves.count : 0
        let parts = Int16(leaves + (event == nil ? 0 : 1))
        let measurementStart = batch.measurements.byteCount
        let eventStart = batch.events.byteCount
        for index in 0..<leaves {
            writeMeasurement(
                context, time: time, leaf: flattener.leaves[index], id: ids[index], part: Int16(index), parts: parts,
                into: &batch.measurements)
        }
        if let event {
            writeEvent(
                context, time: time, part: Int16(leaves), parts: parts, kind: event.kind, body: event.body,
                reason: nil, into: &batch.events)
        }
        return PreparedMessage(
            measurements: measurementStart..<batch.measurements.byteCount,
            events: eventStart..<batch.events.byteCount, rows: Int32(parts), time: time)
    }

    /// Two bytes and then, each with four bytes of length, times and sequence, value, ids, parts, flags: all but `text`.
    private static let measurementBytes = 2 + 4 * 12 + 3 * 8 + 3 * 6 + 4

    private func writeMeasurement(
        _ context: RowContext, time: MessageTime, leaf: PayloadFlattener.Leaf, id: Int32, part: Int16, parts: Int16,
        into copy: inout BinaryCopy
    ) {
        copy.row(columns: 11, maximum: Self.measurementBytes + (leaf.text?.count ?? 0)) { row in
            row.timestamp(time.time)
            row.int8(context.sequence)
            if let value = leaf.value { row.float8(value) } else { row.null() }
            if let device = time.device { row.timestamp(device) } else { row.null() }
            row.int4(context.device.id)
            row.int4(id)
            row.int4(context.source)
            row.int2(part)
            row.int2(parts)
            row.int2(time.flags.rawValue)
            if let text = leaf.text {
                context.payload.withUnsafeReadableBytes { row.bytes(UnsafeRawBufferPointer(rebasing: $0[text])) }
            } else {
                row.null()
            }
        }
    }

    private func writeEvent(
        _ context: RowContext, time: MessageTime, part: Int16, parts: Int16, kind: EventKind, body: Body,
        reason: String?, into copy: inout BinaryCopy
    ) {
        copy.startRow(columns: 13)
        copy.timestamp(time.time)
        copy.int8(context.sequence)
        if let device = time.device { copy.timestamp(device) } else { copy.null() }
        copy.int4(context.device.id)
        copy.int4(context.source)
        copy.int2(part)
        copy.int2(parts)
        copy.int2(time.flags.rawValue)
        copy.int2(kind.rawValue)
        copy.bytes(context.topic)
        switch body {
        case .json(let text):
            copy.jsonb(text)
            copy.null()
        case .rest:
            flattener.rest.withUnsafeBytes { copy.jsonb($0) }
            copy.null()
        case .bytes(let bytes):
            copy.null()
            copy.bytes(bytes)
        }
        if let reason { copy.text(reason) } else { copy.null() }
    }
}
