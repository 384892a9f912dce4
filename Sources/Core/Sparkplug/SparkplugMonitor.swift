import NIOCore

/// Follows the edge nodes and devices of the Sparkplug namespace by what they publish: births and deaths, gaps in the
/// sequence, aliases that no birth has named. A pure value and bounded; it decides nothing about a message, and knows
/// nothing of a node before its next birth.
package struct SparkplugMonitor: Sendable {
    package enum State: String, Sendable {
        /// Nothing but data was seen of it: its birth was before the gateway's start.
        case unknown
        case online
        case offline
    }

    package struct Limits: Sendable {
        package var nodes = 1_000
        /// Of all nodes.
        package var devices = 10_000
        /// Of all nodes and devices.
        package var aliases = 200_000

        package init() {}
    }

    package struct Counters: Sendable, Equatable {
        package var births: UInt64 = 0
        package var deaths: UInt64 = 0
        /// Deaths of a connection that a later birth had replaced.
        package var staleDeaths: UInt64 = 0
        /// Messages that are missing in nodes' sequences.
        package var lost: UInt64 = 0
        /// Metrics of data that go by an alias which no birth since the gateway's start has named.
        package var unknownAliases: UInt64 = 0
        /// Messages whose topic or payload is no Sparkplug.
        package var malformed: UInt64 = 0
        /// Messages of nodes and devices beyond the limits.
        package var unfollowed: UInt64 = 0

        package init() {}
    }

    struct Device: Sendable {
        var isOnline = false
        var aliases: Set<UInt64> = []
    }

    struct Node: Sendable {
        let entity: SparkplugEntity
        var state = State.unknown
        /// Microseconds since 1970 by the gateway's clock.
        var bornAt: Int64?
        var bdSeq: UInt64?
        /// 0 to 255; `nil`: not known.
        var nextSequence: UInt8?
        var lost: UInt64 = 0
        var aliases: Set<UInt64> = []
        var devices: [SparkplugEntity: Device] = [:]
        var devicesOnline = 0
        /// The number of the message that was heard last, of all messages.
        var lastHeard: UInt64 = 0
    }

    private let limits: Limits
    private var nodes: [SparkplugEntity: Node] = [:]
    private var heard: UInt64 = 0
    private var deviceCount = 0
    private var aliasCount = 0
    package private(set) var counters = Counters()
    package private(set) var nodesOnline = 0
    package private(set) var devicesOnline = 0

    package init(limits: Limits = Limits()) { self.limits = limits }

    /// A message that was taken, on a topic that `SparkplugTopic.isSparkplug`.
    ///
    /// - Parameter wallTime: microseconds since 1970 by the gateway's clock.
    package mutating func observe(topic: ByteBuffer, payload: ByteBuffer, wallTime: Int64) {
        guard let topic = SparkplugTopic(topic) else {
            counters.malformed &+= 1
            return
        }
        // Commands are for nodes, and no word of theirs; hosts have nothing to do with them.
        guard case .edge(let kind, let entity) = topic, !kind.isCommand else { return }
        let name = entity.node
        guard canFollow(name) else {
            counters.unfollowed &+= 1
            return
        }
        let message: SparkplugPayload
        do throws(SparkplugDecodingError) {
            message = try SparkplugPayload.decode(payload)
        } catch {
            counters.malformed &+= 1
            return
        }
        heard += 1
        var node = take(name)
        node.lastHeard = heard
        switch kind {
        case .nodeBirth: birth(of: &node, message, wallTime: wallTime)
        case .nodeDeath: death(of: &node, message)
        case .deviceBirth, .deviceData, .deviceDeath:
            follow(message.sequence, of: &node)
            device(entity, kind, message, of: &node)
        case .nodeData:
            follow(message.sequence, of: &node)
            check(message, known: node.aliases, state: node.state)
        case .nodeCommand, .deviceCommand: break
        }
        put(node)
    }

    // MARK: Nodes

    /// Counted, not searched: this is asked for each message, and a full table may be met by any number of strangers.
    private func canFollow(_ entity: SparkplugEntity) -> Bool {
        nodes.count < limits.nodes || nodesOnline < nodes.count || nodes[entity] != nil
    }

    /// Out of the table, so that its sets are changed in place; `put` brings it back.
    private mutating func take(_ entity: SparkplugEntity) -> Node {
        if let node = nodes.removeValue(forKey: entity) { return leave(node) }
        // The one that has been silent for longest makes room, unless it is there.
        if nodes.count >= limits.nodes,
            let oldest = nodes.values.lazy.filter({ $0.state != .online }).min(by: { $0.lastHeard < $1.lastHeard })
        {
            nodes[oldest.entity] = nil
            deviceCount -= oldest.devices.count
            aliasCount -= oldest.aliasCount
            devicesOnline -= oldest.devicesOnline
        }
        return Node(entity: entity)
    }

    private mutating func leave(_ node: Node) -> Node {
        if node.state == .online { nodesOnline -= 1 }
        devicesOnline -= node.devicesOnline
        return node
    }

    private mutating func put(_ node: Node) {
        if node.state == .online { nodesOnline += 1 }
        devicesOnline += node.devicesOnline
        nodes[node.entity] = node
    }

    /// All devices are offline until their own births, and no alias of before counts: they are forgotten, so that names
    /// which change from life to life do not use up the table.
    private mutating func birth(of node: inout Node, _ message: SparkplugPayload, wallTime: Int64) {
        counters.births &+= 1
        node.state = .online
        node.bornAt = wallTime
        node.bdSeq = message.bdSeq
        node.nextSequence = message.sequence.map { UInt8(truncatingIfNeeded: $0) &+ 1 }
        deviceCount -= node.devices.count
        aliasCount -= node.aliasCount
        node.devices = [:]
        node.devicesOnline = 0
        node.aliases = learn(message)
    }

    /// A death whose number is not that of the birth belongs to an older connection: the node has come back since.
    private mutating func death(of node: inout Node, _ message: SparkplugPayload) {
        if node.state == .online, let born = node.bdSeq, let dead = message.bdSeq, born != dead {
            counters.staleDeaths &+= 1
            return
        }
        counters.deaths &+= 1
        node.state = .offline
        node.nextSequence = nil
        silence(&node)
    }

    private func silence(_ node: inout Node) {
        guard node.devicesOnline > 0 else { return }
        for entity in node.devices.keys { node.devices[entity]?.isOnline = false }
        node.devicesOnline = 0
    }

    // MARK: Devices

    private mutating func device(
        _ entity: SparkplugEntity, _ kind: SparkplugKind, _ message: SparkplugPayload, of node: inout Node
    ) {
        if kind == .deviceBirth { counters.births &+= 1 }
        if kind == .deviceDeath { counters.deaths &+= 1 }
        guard var device = node.devices[entity] ?? newDevice() else {
            counters.unfollowed &+= 1
            return
        }
        let wasOnline = device.isOnline
        switch kind {
        case .deviceBirth:
            device.isOnline = true
            aliasCount -= device.aliases.count
            device.aliases = learn(message)
        case .deviceDeath: device.isOnline = false
        default: check(message, known: device.aliases, state: device.isOnline ? .online : .unknown)
        }
        node.devicesOnline += (device.isOnline ? 1 : 0) - (wasOnline ? 1 : 0)
        node.devices[entity] = device
    }

    private mutating func newDevice() -> Device? {
        guard deviceCount < limits.devices else { return nil }
        deviceCount += 1
        return Device()
    }

    // MARK: Aliases and sequences

    /// Aliases beyond the limit are not remembered, and then counted as unknown.
    private mutating func learn(_ message: SparkplugPayload) -> Set<UInt64> {
        let aliases = Set(message.metrics.lazy.compactMap(\.alias).prefix(max(0, limits.aliases - aliasCount)))
        aliasCount += aliases.count
        return aliases
    }

    private mutating func check(_ message: SparkplugPayload, known: Set<UInt64>, state: State) {
        for metric in message.metrics {
            guard let alias = metric.alias, metric.name == nil else { continue }
            if state != .online || !known.contains(alias) { counters.unknownAliases &+= 1 }
        }
    }

    /// Each message of a node and its devices has the next number, 0 after 255. A number again is the same message again.
    private mutating func follow(_ sequence: UInt64?, of node: inout Node) {
        guard let sequence = sequence.flatMap(UInt8.init(exactly:)) else { return }
        defer { node.nextSequence = sequence &+ 1 }
        guard let next = node.nextSequence, sequence != next, sequence != next &- 1 else { return }
        let missing = UInt64(sequence &- next)
        node.lost &+= missing
        counters.lost &+= missing
    }
}

extension SparkplugMonitor.Node {
    fileprivate var aliasCount: Int { devices.values.reduce(aliases.count) { $0 + $1.aliases.count } }
}

extension SparkplugMonitor {
    /// A node for people to see.
    package struct Sight: Sendable, Equatable {
        /// `group/node`.
        package var name: String
        package var state: State
        /// Microseconds since 1970 by the gateway's clock; `nil`: not since the gateway's start.
        package var bornAt: Int64?
        package var devices: Int
        package var devicesOnline: Int
        /// Messages that are missing in its sequence.
        package var lost: UInt64
    }

    package var nodeCount: Int { nodes.count }

    /// Those that are not online first.
    package func sights(maximum: Int) -> [Sight] {
        let all = nodes.values.map { node in
            Sight(
                name: node.entity.text, state: node.state, bornAt: node.bornAt, devices: node.devices.count,
                devicesOnline: node.devicesOnline, lost: node.lost)
        }
        let sorted = all.sorted { a, b in
            (a.state == .online) == (b.state == .online) ? a.name < b.name : a.state != .online
        }
        return Array(sorted.prefix(maximum))
    }
}
