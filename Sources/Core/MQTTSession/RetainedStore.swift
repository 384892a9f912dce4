import MQTTWire
import NIOCore

/// The last retained message of each topic, by level: a filter visits the topics that it matches, not all of them.
struct RetainedStore: Sendable {
    struct Entry: Sendable {
        let message: RoutedMessage
        let qos: QoS
        let levels: [BytewiseString]
    }

    /// A node without an entry has children, except the root.
    private struct Node: Sendable {
        var children: [BytewiseString: Int] = [:]
        var entry: Entry?
    }

    private var nodes: [Node] = [Node()]
    private var freeNodes: [Int] = []
    private(set) var count = 0
    private(set) var byteCount = 0

    /// Whether the message would stay within the bounds.
    func hasRoom(for publish: Publish, messages: Int, bytes: Int) -> Bool {
        guard publish.payload.readableBytes > 0 else { return true }
        let size =
            publish.topic.readableBytes + publish.payload.readableBytes + publish.applicationProperties.readableBytes
        let old = self[publish.topic]
        return count + (old == nil ? 1 : 0) <= messages && byteCount - (old?.message.size ?? 0) + size <= bytes
    }

    subscript(topic: ByteBuffer) -> Entry? { path(to: TopicPath.levels(of: topic)).flatMap { nodes[$0.last!].entry } }

    mutating func set(_ message: RoutedMessage, qos: QoS) {
        let levels = TopicPath.levels(of: message.topic)
        var node = 0
        for level in levels {
            if let next = nodes[node].children[level] {
                node = next
            } else {
                let next = newNode()
                nodes[node].children[level] = next
                node = next
            }
        }
        if let old = nodes[node].entry { byteCount -= old.message.size } else { count += 1 }
        byteCount += message.size
        nodes[node].entry = Entry(message: message, qos: qos, levels: levels)
    }

    /// - Returns: whether there was one.
    mutating func remove(_ topic: ByteBuffer) -> Bool {
        let levels = TopicPath.levels(of: topic)
        guard var path = path(to: levels), let old = nodes[path.last!].entry else { return false }
        nodes[path.last!].entry = nil
        count -= 1
        byteCount -= old.message.size
        while path.count > 1, nodes[path.last!].entry == nil, nodes[path.last!].children.isEmpty {
            freeNodes.append(path.removeLast())
            nodes[path.last!].children[levels[path.count - 1]] = nil
        }
        return true
    }

    /// The messages that a filter matches, in an order that is the same each time, until `body` says no.
    func forEachMatch(of filter: FilterPattern, gatewayTime: Int64, _ body: (Entry) -> Bool) {
        _ = visit(filter.levels[...], node: 0) { $0.message.isExpired(at: gatewayTime) || body($0) }
    }

    /// Topics whose message has expired.
    func expired(at gatewayTime: Int64) -> [ByteBuffer] {
        nodes.compactMap { node in
            guard let message = node.entry?.message, message.isExpired(at: gatewayTime) else { return nil }
            return message.topic
        }
    }

    /// - Returns: whether to go on.
    private func visit(_ levels: ArraySlice<FilterPattern.Level>, node: Int, _ body: (Entry) -> Bool) -> Bool {
        switch levels.first {
        case nil: return nodes[node].entry.map(body) ?? true
        case .literal(let name):
            guard let next = nodes[node].children[name] else { return true }
            return visit(levels.dropFirst(), node: next, body)
        case .plus: return children(of: node).allSatisfy { visit(levels.dropFirst(), node: $0, body) }
        // MQTT-4.7.1-2: the level above it too.
        case .hash:
            return nodes[node].entry.map(body) ?? true
                && children(of: node).allSatisfy { visit(levels, node: $0, body) }
        }
    }

    /// What a wildcard takes at this place (MQTT-4.7.2-1), in the order of the names.
    private func children(of node: Int) -> [Int] {
        nodes[node].children
            .filter { node != 0 || !TopicPath.isReserved($0.key) }
            .sorted { $0.key.string.utf8.lexicographicallyPrecedes($1.key.string.utf8) }
            .map(\.value)
    }

    /// The nodes from the root to the topic's own.
    private func path(to levels: [BytewiseString]) -> [Int]? {
        var path = [0]
        for level in levels {
            guard let next = nodes[path.last!].children[level] else { return nil }
            path.append(next)
        }
        return path
    }

    private mutating func newNode() -> Int {
        if let free = freeNodes.popLast() {
            nodes[free] = Node()
            return free
        }
        nodes.append(Node())
        return nodes.count - 1
    }
}

extension RoutedMessage {
    /// Bytes that it is counted with against a bound.
    var size: Int { topic.readableBytes + payload.readableBytes + applicationProperties.readableBytes }

    func isExpired(at gatewayTime: Int64) -> Bool {
        if let expiresAt { expiresAt <= gatewayTime } else { false }
    }
}
