import NIOCore
import Sparkplug

/// A message of the Sparkplug namespace on its way to rows.
struct SparkplugMessage {
    var kind: SparkplugKind
    var entity: SparkplugEntity
    var payload: SparkplugPayload

    /// `nil` for what only looks like Sparkplug; it is then treated as any other message.
    init?(topic: ByteBuffer, payload: ByteBuffer) {
        guard SparkplugTopic.isSparkplug(topic), case .edge(let kind, let entity)? = SparkplugTopic(topic),
            let decoded = try? SparkplugPayload.decode(payload)
        else { return nil }
        self.kind = kind
        self.entity = entity
        self.payload = decoded
    }

    /// `nil` where it is no Sparkplug payload. A birth that is too large to be read says nothing, and what earlier ones
    /// said counts no more.
    static func definition(ofBirth payload: ByteBuffer) -> SparkplugDefinition? {
        do throws(SparkplugDecodingError) {
            return SparkplugDefinition(
                try SparkplugPayload.decode(payload).defined(maximumName: RowBuilder.maximumPath))
        } catch {
            if case .tooManyMetrics = error { return .empty }
            return nil
        }
    }

    /// `false` as well for what is no Sparkplug payload.
    static func dependsOnBirth(_ payload: ByteBuffer) -> Bool {
        (try? SparkplugPayload.decode(payload))?.dependsOnBirth ?? false
    }
}

/// Takes a Sparkplug payload apart as `PayloadFlattener` does with JSON: its numbers with their names, and the rest as
/// JSON text. Storage is used again for the next message.
struct SparkplugFlattener {
    /// Whether a node or device is there, beside its own metrics.
    private static let online = "online"
    /// Integers up to here are the same as doubles.
    private static let exact: UInt64 = 1 << 53

    struct Leaf {
        /// In `names`.
        var name: Range<Int>
        var value: Double?
        /// In `texts`, where the double is not the number that was sent.
        var text: Range<Int>?
        /// Microseconds since 1970 by the node's clock.
        var time: Int64?
        var flags: RowFlags
    }

    enum Outcome: Equatable {
        case flat
        case event(EventKind)
    }

    private(set) var leaves: [Leaf] = []
    private(set) var names: [UInt8] = []
    private(set) var texts: [UInt8] = []
    /// A JSON array of what is no leaf, or not all of one; empty: there is nothing.
    private(set) var rest: [UInt8] = []
    /// Microseconds since 1970 by the node's clock.
    private(set) var time: Int64?
    /// There is a timestamp that is no time before the year 10,000.
    private(set) var hasUnusableTime = false
    private let maximumLeaves: Int

    init(maximumLeaves: Int) { self.maximumLeaves = maximumLeaves }

    /// - Parameter definition: what the birth before it says, or the message itself where it is one.
    mutating func flatten(_ message: SparkplugMessage, definition: SparkplugDefinition?) -> Outcome {
        reset()
        // A node's death is its will, made before the connection: what its timestamps say is no time of death.
        let isWill = message.kind == .nodeDeath
        time = isWill ? nil : microseconds(message.payload.timestamp)
        for metric in message.payload.metrics {
            let start = names.count
            let known = metric.isNamed ? nil : metric.alias.flatMap { definition?.metric(alias: $0) }
            if let kind = appendName(of: metric, known) { return .event(kind) }
            let datatype = metric.datatype ?? known?.datatype ?? definition?.datatype(of: Array(names[start...]))
            let metricTime = isWill ? nil : microseconds(metric.timestamp) ?? time
            let properties = metric.properties.map { SparkplugProperties(properties: $0) }
            if let number = metric.number(datatype: datatype) {
                guard leaves.count < maximumLeaves else { return .event(.tooManyMetrics) }
                append(number, name: start..<names.count, time: metricTime, flags: metric.flags(properties?.quality))
                if metric.metadata == nil, properties?.isQualityAlone ?? true { continue }
            }
            appendRest(metric, name: start..<names.count, datatype: datatype, properties)
        }
        if message.kind.isBirth || message.kind.isDeath {
            let start = names.count
            names.append(contentsOf: Self.online.utf8)
            append(.unsigned(message.kind.isBirth ? 1 : 0), name: start..<names.count, time: time, flags: [])
        }
        if let uuid = message.payload.uuid {
            openRest()
            appendJSON(key: "uuid", text: uuid)
            rest.append(UInt8(ascii: "}"))
        }
        if let body = message.payload.body {
            openRest()
            appendJSON(key: "body", base64: body)
            rest.append(UInt8(ascii: "}"))
        }
        if !rest.isEmpty { rest.append(UInt8(ascii: "]")) }
        return .flat
    }

    private mutating func reset() {
        leaves.removeAll(keepingCapacity: true)
        names.removeAll(keepingCapacity: true)
        texts.removeAll(keepingCapacity: true)
        rest.removeAll(keepingCapacity: true)
        time = nil
        hasUnusableTime = false
    }

    private mutating func microseconds(_ milliseconds: UInt64?) -> Int64? {
        guard let milliseconds else { return nil }
        guard milliseconds <= 253_402_300_799_999 else {
            hasUnusableTime = true
            return nil
        }
        return Int64(milliseconds) * 1_000
    }

    // MARK: Names

    /// Its own, the one of its alias, or the alias itself where no birth is known that names it.
    private mutating func appendName(of metric: SparkplugMetric, _ known: SparkplugDefinition.Metric?) -> EventKind? {
        guard let name = metric.name, metric.isNamed else {
            if let known {
                names.append(contentsOf: known.name)
            } else if let alias = metric.alias {
                names.append(contentsOf: "alias:\(alias)".utf8)
            } else {
                names.append(contentsOf: "unnamed".utf8)
            }
            return nil
        }
        guard name.readableBytes <= RowBuilder.maximumPath else { return .nameTooLong }
        guard let name = name.storableText else { return .unstorable }
        names.append(contentsOf: name)
        return nil
    }

    // MARK: Numbers

    private mutating func append(_ number: SparkplugNumber, name: Range<Int>, time: Int64?, flags: RowFlags) {
        var leaf = Leaf(name: name, value: nil, text: nil, time: time, flags: flags)
        switch number {
        case .real(let value) where value.isFinite: leaf.value = value
        case .real(let value):
            leaf.text = append(text: Self.text(ofNotFinite: value))
        case .signed(let value):
            leaf.value = Double(value)
            if value.magnitude > Self.exact { leaf.text = append(text: String(value)) }
        case .unsigned(let value):
            leaf.value = Double(value)
            if value > Self.exact { leaf.text = append(text: String(value)) }
        }
        leaves.append(leaf)
    }

    private static func text(ofNotFinite value: Double) -> String {
        value.isNaN ? "NaN" : value < 0 ? "-Infinity" : "Infinity"
    }

    private mutating func append(text: String) -> Range<Int> {
        let start = texts.count
        texts.append(contentsOf: text.utf8)
        return start..<texts.count
    }

    // MARK: The rest

    /// An object a metric, in an array: names may come twice in one message, with different times. A number is not in it:
    /// it is a leaf.
    private mutating func appendRest(
        _ metric: SparkplugMetric, name: Range<Int>, datatype: UInt32?, _ properties: SparkplugProperties?
    ) {
        openRest()
        rest.append(contentsOf: "\"name\":".utf8)
        let text = Array(names[name])
        appendJSON(string: text)
        if let datatype { rest.append(contentsOf: ",\"datatype\":\(datatype)".utf8) }
        if let timestamp = metric.timestamp { rest.append(contentsOf: ",\"timestamp\":\(timestamp)".utf8) }
        if metric.isHistorical { rest.append(contentsOf: ",\"historical\":true".utf8) }
        if metric.isTransient { rest.append(contentsOf: ",\"transient\":true".utf8) }
        if metric.number(datatype: datatype) == nil {
            rest.append(UInt8(ascii: ","))
            appendValue(of: metric)
        }
        if let encoded = metric.properties, let properties {
            appendJSON(key: "properties", properties, encoded: encoded)
        }
        if let encoded = metric.metadata {
            appendJSON(key: "metadata", SparkplugProperties(metadata: encoded), encoded: encoded)
        }
        rest.append(UInt8(ascii: "}"))
    }

    private mutating func appendValue(of metric: SparkplugMetric) {
        switch metric.isNull ? nil : metric.value {
        case .string(let value)?:
            // What jsonb cannot hold is kept as bytes.
            if let text = value.storableText {
                rest.append(contentsOf: "\"value\":".utf8)
                appendJSON(string: text)
            } else {
                appendJSON(key: "base64", base64: value)
            }
        case .bytes(let value)?, .opaque(let value)?: appendJSON(key: "base64", base64: value)
        case .int?, .long?, .float?, .double?, .boolean?, nil: rest.append(contentsOf: "\"value\":null".utf8)
        }
    }

    private mutating func openRest() {
        rest.append(UInt8(ascii: rest.isEmpty ? "[" : ","))
        rest.append(UInt8(ascii: "{"))
    }

    /// An object, or all of it in base64 where it cannot be told by its keys.
    private mutating func appendJSON(key: String, _ properties: SparkplugProperties, encoded: ByteBuffer) {
        rest.append(UInt8(ascii: ","))
        let keys = properties.entries.map(\.key.storableText)
        guard !keys.isEmpty, keys.allSatisfy({ $0 != nil }) else {
            appendJSON(key: "encoded_\(key)", base64: encoded)
            return
        }
        rest.append(contentsOf: "\"\(key)\":{".utf8)
        for (index, (name, entry)) in zip(keys, properties.entries).enumerated() {
            if index > 0 { rest.append(UInt8(ascii: ",")) }
            appendJSON(string: name ?? [])
            rest.append(UInt8(ascii: ":"))
            appendJSON(value: entry.value)
        }
        rest.append(UInt8(ascii: "}"))
    }

    private mutating func appendJSON(value: SparkplugProperties.Value) {
        switch value {
        case .null: rest.append(contentsOf: "null".utf8)
        case .boolean(let value): rest.append(contentsOf: (value ? "true" : "false").utf8)
        case .number(.signed(let value)): rest.append(contentsOf: String(value).utf8)
        case .number(.unsigned(let value)): rest.append(contentsOf: String(value).utf8)
        case .number(.real(let value)):
            // JSON has no NaN and no infinity.
            rest.append(contentsOf: (value.isFinite ? "\(value)" : "\"\(Self.text(ofNotFinite: value))\"").utf8)
        case .text(let text):
            if let text = text.storableText {
                appendJSON(string: text)
            } else {
                appendJSON(object: text)
            }
        case .nested(let encoded): appendJSON(object: encoded)
        }
    }

    private mutating func appendJSON(object value: ByteBuffer) {
        rest.append(UInt8(ascii: "{"))
        appendJSON(key: "base64", base64: value)
        rest.append(UInt8(ascii: "}"))
    }

    private mutating func appendJSON(key: String, text: ByteBuffer) {
        rest.append(contentsOf: "\"\(key)\":".utf8)
        appendJSON(value: .text(text))
    }

    private mutating func appendJSON(key: String, base64 value: ByteBuffer) {
        rest.append(contentsOf: "\"\(key)\":\"".utf8)
        rest.append(contentsOf: Base64.encoded(value.readableBytesView))
        rest.append(UInt8(ascii: "\""))
    }

    /// - Parameter bytes: UTF-8 without U+0000.
    private mutating func appendJSON(string bytes: [UInt8]) {
        rest.append(UInt8(ascii: "\""))
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                rest.append(UInt8(ascii: "\\"))
                rest.append(byte)
            case 0..<0x20:
                let digits = String(byte, radix: 16)
                rest.append(contentsOf: "\\u00\(byte < 0x10 ? "0" : "")\(digits)".utf8)
            default: rest.append(byte)
            }
        }
        rest.append(UInt8(ascii: "\""))
    }
}

extension SparkplugMetric {
    fileprivate func flags(_ quality: SparkplugQuality?) -> RowFlags {
        var flags: RowFlags = []
        switch quality {
        case .bad?, .other?: flags.insert(.badQuality)
        case .stale?: flags.insert(.staleQuality)
        case .good?, nil: break
        }
        if isHistorical { flags.insert(.historical) }
        if isTransient { flags.insert(.transient) }
        return flags
    }
}

/// RFC 4648, section 4.
enum Base64 {
    private static let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    static func encoded(_ bytes: some Collection<UInt8>) -> [UInt8] {
        var text: [UInt8] = []
        text.reserveCapacity((bytes.count + 2) / 3 * 4)
        var group: UInt32 = 0
        var count = 0
        func put(_ shift: UInt32) { text.append(digits[Int(group >> shift & 63)]) }
        for byte in bytes {
            group = group << 8 | UInt32(byte)
            count += 1
            guard count == 3 else { continue }
            for shift in [18, 12, 6, 0] as [UInt32] { put(shift) }
            (group, count) = (0, 0)
        }
        if count > 0 {
            group <<= UInt32(8 * (3 - count))
            for shift in ([18, 12, 6] as [UInt32]).prefix(count + 1) { put(shift) }
            text.append(contentsOf: repeatElement(UInt8(ascii: "="), count: 3 - count))
        }
        return text
    }
}
