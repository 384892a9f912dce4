import Database
import NIOCore
import Sparkplug
import SyncModel

/// The identity and the times of the message whose rows are being written.
struct RowContext {
    var gateway: ExactName
    var device: DeviceEntry
    var position: GatewayPosition
    var topic: ByteBuffer
    var payload: ByteBuffer
    /// When the log took it: now, for every decision about its time, so that a repetition decides the same.
    var appendTime: Int64
    var flags: RowFlags

    var source: Int32 { position.run }
    var sequence: Int64 { position.sequence }
    var wallTime: Int64 { position.wallTime }
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
    static let maximumTopic = 1_024
    static let maximumPath = 512
    /// 0001-01-01 to 9999-12-31: what every client of PostgreSQL can show.
    private static let representable: ClosedRange<Int64> = -62_135_596_800_000_000...253_402_300_799_999_999
    private static let hour: Int64 = 3_600_000_000

    private var flattener: PayloadFlattener
    var sparkplug: SparkplugFlattener
    private let hot: Int64
    private let metricLimit: Int
    private(set) var ids: [Int32] = []
    /// In the order in which messages need them: where the device's limit allows only some, the first get ids.
    private var missing: [MetricKey] = []
    private var isMissing: Set<MetricKey> = []
    /// Hours since 1970 that rows were written for.
    private(set) var hours: Set<Int64> = []
    private var lastHour = Int64.min
    /// The same in days.
    var days: Set<Int32> { Set(hours.map { Int32(($0 < 0 ? $0 - 23 : $0) / 24) }) }

    init(configuration: ProcessorConfiguration) {
        flattener = PayloadFlattener(maximumLeaves: configuration.metricsPerMessage, timeField: configuration.timeField)
        // A birth names all that its node has, so one message may have as many as the device may.
        sparkplug = SparkplugFlattener(
            maximumLeaves: max(configuration.metricsPerMessage, configuration.metricsPerDevice))
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
        hours = []
        lastHour = .min
    }

    /// Writes the message's rows.
    ///
    /// - Parameter isFinal: a metric without an id is beyond the device's limit; else it is added to `missing`.
    /// - Returns: `nil` where ids are missing: nothing was written, call again when they are known.
    mutating func build(
        _ context: RowContext, births: SparkplugBirthCache, into batch: inout PreparedBatch, isFinal: Bool
    ) -> PreparedMessage? {
        if let message = SparkplugMessage(topic: context.topic, payload: context.payload) {
            return build(message, context, births: births, into: &batch, isFinal: isFinal)
        }
        return context.payload.withUnsafeReadableBytes { payload in
            let outcome = flattener.flatten(payload)
            let time = time(
                of: context, payloadTime: flattener.time, isUnusable: flattener.hasUnusableTime)
            var event: (kind: EventKind, body: Body)?
            var measures = false
            switch outcome {
            case .event(let kind):
                let isWhole = kind == .tooManyMetrics
                event = (kind, isWhole ? .json(payload) : .bytes(payload))
            case .value:
                event = (.json, .json(payload))
            case .flat:
                switch resolve(
                    context, topic: context.topic, leaves: flattener.leaves, paths: flattener.paths, isFinal: isFinal)
                {
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

    enum Resolution { case known, missing, event(EventKind) }

    /// The ids of the leaves, in `ids`.
    mutating func resolve(
        _ context: RowContext, topic: ByteBuffer, leaves: [PayloadFlattener.Leaf], paths: [UInt8], isFinal: Bool
    ) -> Resolution {
        ids.removeAll(keepingCapacity: true)
        guard !leaves.isEmpty else { return .known }
        guard topic.readableBytes <= Self.maximumTopic else { return .event(.nameTooLong) }
        let metrics = context.device.metrics(topic: topic)
        let unknown = metrics.ids(of: leaves, paths: paths, into: &ids)
        if unknown.isEmpty { return .known }
        if unknown.contains(where: { $0.count > Self.maximumPath }) { return .event(.nameTooLong) }
        if isFinal || exceedsLimit(context.device, unknown, paths) { return .event(.metricLimit) }
        let topicName = String(decoding: topic.readableBytesView, as: UTF8.self)
        for path in unknown {
            let key = MetricKey(
                device: context.device.id, topic: ExactName(topicName),
                path: ExactName(String(decoding: paths[path], as: UTF8.self)))
            if isMissing.insert(key).inserted { missing.append(key) }
        }
        return .missing
    }

    /// A message may have one metric many times, each at its own time; it needs one id.
    private func exceedsLimit(_ device: DeviceEntry, _ unknown: [Range<Int>], _ paths: [UInt8]) -> Bool {
        guard device.metricCount + unknown.count > metricLimit else { return false }
        return device.metricCount + Set(unknown.map { paths[$0] }).count > metricLimit
    }

    // MARK: Times

    /// The payload's time, else the gateway's; outside [append − hot, append + 1 h] the append time.
    func time(of context: RowContext, payloadTime: Int64?, isUnusable: Bool) -> MessageTime {
        var flags = context.flags
        if payloadTime != nil { flags.insert(.payloadTime) }
        if isUnusable { flags.insert(.unusableTime) }
        let time = payloadTime ?? context.wallTime
        let ingest = min(max(context.appendTime, Self.representable.lowerBound), Self.representable.upperBound)
        if time >= ingest - hot, time <= ingest + Self.hour {
            return MessageTime(time: time, device: nil, flags: flags)
        }
        flags.insert(.outsideWindow)
        return MessageTime(time: ingest, device: Self.representable.contains(time) ? time : nil, flags: flags)
    }

    mutating func note(day time: Int64) {
        let quotient = time / 3_600_000_000
        let hour = time < 0 && quotient * 3_600_000_000 != time ? quotient - 1 : quotient
        if hour != lastHour {
            hours.insert(hour)
            lastHour = hour
        }
    }

    // MARK: Rows

    enum Body {
        case json(UnsafeRawBufferPointer)
        case bytes(UnsafeRawBufferPointer)
        case jsonAndBytes(UnsafeRawBufferPointer, ByteBuffer)
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
        context.payload.withUnsafeReadableBytes { payload in
            for index in 0..<leaves {
                let leaf = flattener.leaves[index]
                writeMeasurement(
                    context, time: time, value: leaf.value,
                    text: leaf.text.map { UnsafeRawBufferPointer(rebasing: payload[$0]) }, id: ids[index],
                    part: Int16(index), parts: parts, into: &batch.measurements)
            }
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

    func writeMeasurement(
        _ context: RowContext, time: MessageTime, value: Double?, text: UnsafeRawBufferPointer?, id: Int32, part: Int16,
        parts: Int16, into copy: inout BinaryCopy
    ) {
        copy.row(columns: 11, maximum: Self.measurementBytes + (text?.count ?? 0)) { row in
            row.timestamp(time.time)
            row.int8(context.sequence)
            if let value { row.float8(value) } else { row.null() }
            if let device = time.device { row.timestamp(device) } else { row.null() }
            row.int4(context.device.id)
            row.int4(id)
            row.int4(context.source)
            row.int2(part)
            row.int2(parts)
            row.int2(time.flags.rawValue)
            if let text { row.bytes(text) } else { row.null() }
        }
    }

    func writeEvent(
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
        case .jsonAndBytes(let text, let bytes):
            copy.jsonb(text)
            copy.bytes(bytes)
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
