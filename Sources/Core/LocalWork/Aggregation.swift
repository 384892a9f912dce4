import NIOCore

/// Which values of a window are sent.
package struct AggregateValues: OptionSet, Sendable, Hashable {
    package let rawValue: UInt8

    package init(rawValue: UInt8) { self.rawValue = rawValue }

    package static let last = AggregateValues(rawValue: 1)
    package static let mean = AggregateValues(rawValue: 2)
    package static let minimum = AggregateValues(rawValue: 4)
    package static let maximum = AggregateValues(rawValue: 8)
    package static let count = AggregateValues(rawValue: 16)
    package static let all: AggregateValues = [.last, .mean, .minimum, .maximum, .count]
}

/// What a rule makes of the messages of one device and topic within a window.
package struct AggregationRule: Sendable, Equatable {
    /// Microseconds. Windows lie side by side in the gateway's own time, from its beginning.
    package var window: Int64
    package var values: AggregateValues
    /// An aggregate none of whose values is farther than this from the last that was sent is not sent. The count is no such
    /// value.
    package var deadBand: Double?
    /// Microseconds after which it is sent all the same.
    package var maximumSilence: Int64
    /// What the aggregates' topics have after the messages'.
    package var topicSuffix: String

    package init(
        window: Int64, values: AggregateValues, deadBand: Double? = nil, maximumSilence: Int64 = 3_600_000_000,
        topicSuffix: String = ""
    ) {
        self.window = window
        self.values = values
        self.deadBand = deadBand
        self.maximumSilence = maximumSilence
        self.topicSuffix = topicSuffix
    }

    /// Where the window ends, exclusively, that a moment of the gateway's own time lies in.
    package func windowEnd(of time: Int64) -> Int64 {
        let index = time >= 0 ? time / window : (time + 1) / window - 1
        return (index + 1) * window
    }
}

/// What happens at the edge to messages that match a filter.
package struct LocalRule: Sendable, Equatable {
    package enum Action: Sendable, Equatable {
        /// They end as ledger lines.
        case discard
        case aggregate(AggregationRule)
    }

    /// Under which the buffer's file keeps what the rule holds.
    package var name: String
    package var action: Action

    package init(name: String, action: Action) {
        self.name = name
        self.action = action
    }
}

/// The numbers of one member within a window.
struct NumberSummary: Sendable, Equatable {
    private(set) var last: Double
    private(set) var minimum: Double
    private(set) var maximum: Double
    private(set) var count: UInt64 = 1
    private var sum: Double
    /// What the sum has lost to rounding (Neumaier).
    private var lost = 0.0

    init(_ value: Double) { (last, minimum, maximum, sum) = (value, value, value, value) }

    mutating func add(_ value: Double) {
        last = value
        minimum = min(minimum, value)
        maximum = max(maximum, value)
        count += 1
        let next = sum + value
        lost += sum.magnitude >= value.magnitude ? (sum - next) + value : (value - next) + sum
        sum = next
    }

    /// Rounding may carry it past the ends, where no mean can be.
    var mean: Double { min(max((sum + lost) / Double(count), minimum), maximum) }

    func values(_ wanted: AggregateValues) -> [(name: String, value: Double)] {
        var values: [(name: String, value: Double)] = []
        if wanted.contains(.last) { values.append(("last", last)) }
        if wanted.contains(.mean) { values.append(("mean", mean)) }
        if wanted.contains(.minimum) { values.append(("min", minimum)) }
        if wanted.contains(.maximum) { values.append(("max", maximum)) }
        if wanted.contains(.count) { values.append(("count", Double(count))) }
        return values
    }
}

/// The members of one device's topic within a window, in the order in which they came first.
struct SeriesSummary: Sendable {
    private(set) var members: [(path: String, numbers: NumberSummary)] = []
    private var places: [String: Int] = [:]

    /// - Returns: how many members are new.
    mutating func add(_ payload: NumericPayload) -> Int {
        let before = members.count
        for member in payload.members {
            if let place = places[member.path] {
                members[place].numbers.add(member.value)
            } else {
                places[member.path] = members.count
                members.append((member.path, NumberSummary(member.value)))
            }
        }
        return members.count - before
    }

    /// `{"mean":1.5,"max":2}` of numbers that stand alone, `{"rpm":{"mean":1500,"max":1510}}` of members.
    func payload(_ wanted: AggregateValues) -> ByteBuffer {
        var tree = ValueTree()
        for member in members {
            let path =
                member.path == NumericPayload.alone
                ? []
                : member.path.split(
                    separator: NumericPayload.separator, omittingEmptySubsequences: false)
            tree.add(member.numbers.values(wanted), at: path[...])
        }
        var text = ""
        tree.write(to: &text)
        return ByteBuffer(string: text)
    }

    /// What a dead band compares.
    func sentValues(_ wanted: AggregateValues) -> SentValues {
        var values: [String: Double] = [:]
        for member in members {
            for (name, value) in member.numbers.values(wanted.subtracting(.count)) {
                values["\(name) \(member.path)"] = value
            }
        }
        return SentValues(values)
    }
}

/// A JSON object in the making: values by name, and objects by key, as they came.
private struct ValueTree {
    private var values: [(name: String, value: Double)] = []
    private var children: [(key: Substring, tree: ValueTree)] = []
    private var places: [Substring: Int] = [:]

    /// As deep as payloads are.
    mutating func add(_ values: [(name: String, value: Double)], at path: ArraySlice<Substring>) {
        guard let key = path.first else {
            self.values = values
            return
        }
        if places[key] == nil {
            places[key] = children.count
            children.append((key, ValueTree()))
        }
        guard let place = places[key] else { return }
        children[place].tree.add(values, at: path.dropFirst())
    }

    func write(to text: inout String) {
        text += "{"
        var isFirst = true
        func part(_ key: some StringProtocol) {
            text += isFirst ? "\"\(key)\":" : ",\"\(key)\":"
            isFirst = false
        }
        for (name, value) in values {
            part(name)
            text += value.json
        }
        for (key, tree) in children {
            part(key)
            tree.write(to: &text)
        }
        text += "}"
    }
}

/// The values of an aggregate, to compare the next one with.
package struct SentValues: Sendable, Equatable {
    private var values: [String: Double]

    init(_ values: [String: Double]) { self.values = values }

    /// The same values of the same members, none farther away than `distance`.
    func isWithin(_ distance: Double, of other: SentValues) -> Bool {
        values.count == other.values.count
            && values.allSatisfy { key, value in
                other.values[key].map { (value - $0).magnitude <= distance } ?? false
            }
    }

    /// As they are stored; `init(encoded:)` reads it.
    package var encoded: ByteBuffer {
        var bytes = ByteBuffer()
        for (key, value) in values.sorted(by: { $0.key < $1.key }) {
            bytes.writeInteger(UInt32(key.utf8.count))
            bytes.writeString(key)
            bytes.writeInteger(value.bitPattern)
        }
        return bytes
    }

    /// `nil` for anything else: then there is nothing to compare with.
    package init?(encoded: ByteBuffer) {
        var bytes = encoded
        var values: [String: Double] = [:]
        while bytes.readableBytes > 0 {
            guard let length = bytes.readInteger(as: UInt32.self), let key = bytes.readString(length: Int(length)),
                let bits = bytes.readInteger(as: UInt64.self)
            else { return nil }
            values[key] = Double(bitPattern: bits)
        }
        self.values = values
    }
}

extension Double {
    /// The shortest text that is read back as the same number; whole numbers without a fraction.
    fileprivate var json: String {
        let text = description
        return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
    }
}
