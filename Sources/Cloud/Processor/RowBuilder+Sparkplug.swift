import Database
import NIOCore
import Sparkplug

extension RowBuilder {
    /// Writes the rows of a Sparkplug message: a measurement a number, at its own time, and an event for the rest.
    ///
    /// - Returns: `nil` where ids are missing: nothing was written, call again when they are known.
    mutating func build(
        _ message: SparkplugMessage, _ context: RowContext, births: SparkplugBirthCache,
        into batch: inout PreparedBatch,
        isFinal: Bool
    ) -> PreparedMessage? {
        let key = SparkplugKey(gateway: context.gateway, entity: message.entity)
        let outcome = sparkplug.flatten(message, definition: births.definition(of: key, at: context.position))
        let time = time(of: context, payloadTime: sparkplug.time, isUnusable: sparkplug.hasUnusableTime)
        var isEvent: EventKind?
        if case .event(let kind) = outcome {
            isEvent = kind
        } else {
            let paths = sparkplug.leaves.map { PayloadFlattener.Leaf(path: $0.name, value: nil, text: nil) }
            switch resolve(
                context, topic: Self.metricTopic(message, context.topic), leaves: paths, paths: sparkplug.names,
                isFinal: isFinal)
            {
            case .missing: return nil
            case .event(let kind): isEvent = kind
            case .known: break
            }
        }
        if let isEvent { return writeWhole(context, time: time, kind: isEvent, into: &batch) }
        // A timestamp that is no time is in no row.
        let isWhole = message.payload.isWhole && !sparkplug.hasUnusableTime
        return writeSparkplug(context, isWhole: isWhole, time: time, into: &batch)
    }

    /// A metric is the same in births, data and deaths, so its topic has no message type. What is commanded is not what is
    /// measured: commands keep theirs.
    private static func metricTopic(_ message: SparkplugMessage, _ topic: ByteBuffer) -> ByteBuffer {
        message.kind.isCommand ? topic : ByteBuffer(bytes: Array("spBv1.0/".utf8) + message.entity.path)
    }

    private mutating func writeWhole(
        _ context: RowContext, time: MessageTime, kind: EventKind, into batch: inout PreparedBatch
    ) -> PreparedMessage {
        note(day: time.time)
        let start = batch.events.byteCount
        context.payload.withUnsafeReadableBytes { payload in
            writeEvent(
                context, time: time, part: 0, parts: 1, kind: kind, body: .bytes(payload), reason: nil,
                into: &batch.events)
        }
        return PreparedMessage(measurements: 0..<0, events: start..<batch.events.byteCount, rows: 1, time: time)
    }

    private mutating func writeSparkplug(
        _ context: RowContext, isWhole: Bool, time: MessageTime, into batch: inout PreparedBatch
    ) -> PreparedMessage {
        let leaves = sparkplug.leaves
        // A message without any metric is a row as well, and what rows cannot tell is kept as it came.
        let hasEvent = !sparkplug.rest.isEmpty || leaves.isEmpty || !isWhole
        let parts = Int16(leaves.count + (hasEvent ? 1 : 0))
        let measurementStart = batch.measurements.byteCount
        let eventStart = batch.events.byteCount
        for (index, leaf) in leaves.enumerated() {
            var time = self.time(of: context, payloadTime: leaf.time, isUnusable: sparkplug.hasUnusableTime)
            time.flags.formUnion(leaf.flags)
            note(day: time.time)
            sparkplug.texts.withUnsafeBytes { texts in
                writeMeasurement(
                    context, time: time, value: leaf.value,
                    text: leaf.text.map { UnsafeRawBufferPointer(rebasing: texts[$0]) },
                    id: ids[index], part: Int16(index), parts: parts, into: &batch.measurements)
            }
        }
        if hasEvent {
            note(day: time.time)
            let rest = sparkplug.rest.isEmpty ? Array("[]".utf8) : sparkplug.rest
            rest.withUnsafeBytes { text in
                writeEvent(
                    context, time: time, part: Int16(leaves.count), parts: parts, kind: .sparkplug,
                    body: isWhole ? .json(text) : .jsonAndBytes(text, context.payload), reason: nil, into: &batch.events
                )
            }
        }
        return PreparedMessage(
            measurements: measurementStart..<batch.measurements.byteCount,
            events: eventStart..<batch.events.byteCount, rows: Int32(parts), time: time)
    }
}
