import MQTTWire
import NIOCore

/// The topics that a client knows by an alias (MQTT 5.0, 3.3.2.3.4). The first topics that it gets have one, for the life
/// of the connection: a table that changed under many topics would cost more bytes than it saves.
struct OutgoingAliases: Sendable {
    /// Bounds the search for a topic, whatever the client would take.
    static let limit = 64

    let maximum: Int
    /// By alias - 1.
    private var topics: [ByteBuffer] = []

    /// - Parameter maximum: what the client takes; 0: none (MQTT-3.1.2-26, -27).
    init(maximum: Int) { self.maximum = min(maximum, Self.limit) }

    /// How the next PUBLISH to the client may name the topic; `remember` makes a new alias valid.
    func naming(of topic: ByteBuffer) -> TopicNaming {
        guard maximum > 0 else { return .name }
        if let index = topics.firstIndex(of: topic) { return .alias(UInt16(index + 1)) }
        return topics.count < maximum ? .nameWithAlias(UInt16(topics.count + 1)) : .name
    }

    mutating func remember(_ topic: ByteBuffer) { topics.append(topic.compacted) }
}
