import MQTTWire
import NIOCore

/// The last retained message of each topic.
struct RetainedStore: Sendable {
    struct Entry: Sendable {
        let message: RoutedMessage
        let qos: QoS
        let levels: [BytewiseString]
    }

    private var entries: [BytewiseString: Entry] = [:]
    private(set) var byteCount = 0

    var count: Int { entries.count }

    /// Whether the message would stay within the bounds.
    func hasRoom(for publish: Publish, messages: Int, bytes: Int) -> Bool {
        guard publish.payload.readableBytes > 0 else { return true }
        let size =
            publish.topic.readableBytes + publish.payload.readableBytes + publish.applicationProperties.readableBytes
        let old = entries[BytewiseString(publish.topic.readableBytesView)]
        return count + (old == nil ? 1 : 0) <= messages && byteCount - (old?.message.size ?? 0) + size <= bytes
    }

    mutating func set(_ message: RoutedMessage, qos: QoS) {
        let key = BytewiseString(message.topic.readableBytesView)
        let entry = Entry(message: message, qos: qos, levels: TopicPath.levels(of: message.topic))
        byteCount += message.size
        if let old = entries.updateValue(entry, forKey: key) { byteCount -= old.message.size }
    }

    subscript(topic: ByteBuffer) -> Entry? { entries[BytewiseString(topic.readableBytesView)] }

    /// - Returns: whether there was one.
    mutating func remove(_ topic: ByteBuffer) -> Bool {
        guard let old = entries.removeValue(forKey: BytewiseString(topic.readableBytesView)) else { return false }
        byteCount -= old.message.size
        return true
    }

    /// In the order of their topics, so that a subscriber sees the same order each time.
    func matching(_ filter: FilterPattern, wallTime: Int64) -> [Entry] {
        if filter.isExact {
            let topic = filter.levels.map {
                if case .literal(let name) = $0 { name.string } else { "" }
            }
            guard let entry = entries[BytewiseString(topic.joined(separator: "/"))] else { return [] }
            return entry.message.isExpired(at: wallTime) ? [] : [entry]
        }
        return entries.values
            .filter { filter.matches($0.levels) && !$0.message.isExpired(at: wallTime) }
            .sorted { $0.message.topic.readableBytesView.lexicographicallyPrecedes($1.message.topic.readableBytesView) }
    }

    /// Topics whose message has expired.
    func expired(at wallTime: Int64) -> [ByteBuffer] {
        entries.values.filter { $0.message.isExpired(at: wallTime) }.map(\.message.topic)
    }
}

extension RoutedMessage {
    /// Bytes that it is counted with against a bound.
    var size: Int { topic.readableBytes + payload.readableBytes + applicationProperties.readableBytes }

    func isExpired(at wallTime: Int64) -> Bool {
        if let expiresAt { expiresAt <= wallTime } else { false }
    }
}
