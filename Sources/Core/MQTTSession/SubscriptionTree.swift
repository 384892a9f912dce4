import MQTTWire
import NIOCore

/// A session's claim on a filter.
struct Subscriber: Sendable, Equatable {
    var session: Int
    var qos: QoS
    var noLocal: Bool
    var retainAsPublished: Bool
    var identifier: UInt32?
    /// The filter reaches topics that the session may not get: each is judged by itself.
    var isGuarded = false
}

/// What one session gets of a message: once, whatever number of its filters match (MQTT-3.3.4-2).
struct Match: Sendable, Equatable {
    var session: Int
    var qos: QoS
    var retainAsPublished: Bool
    /// Of every filter that matched.
    var identifiers: [UInt32]

    init(_ subscriber: Subscriber) {
        session = subscriber.session
        qos = subscriber.qos
        retainAsPublished = subscriber.retainAsPublished
        identifiers = subscriber.identifier.map { [$0] } ?? []
    }
}

struct Matches: Sendable, Equatable {
    var direct: [Match] = []
    /// Indices into `SubscriptionTree.shares`.
    var shares: [Int] = []

    var isEmpty: Bool { direct.isEmpty && shares.isEmpty }
}

/// The filters of all sessions, by level.
struct SubscriptionTree: Sendable {
    private struct Node: Sendable {
        var children: [BytewiseString: Int] = [:]
        var plus: Int?
        /// Of filters that end here.
        var here: [Subscriber] = []
        /// Of filters that end here with `#`.
        var below: [Subscriber] = []
        var sharesHere: [Int] = []
        var sharesBelow: [Int] = []

        var isEmpty: Bool {
            children.isEmpty && plus == nil && here.isEmpty && below.isEmpty && sharesHere.isEmpty
                && sharesBelow.isEmpty
        }
    }

    struct Share: Sendable {
        var name: BytewiseString
        var members: [Subscriber] = []
        /// Where the next search for a receiver starts.
        var next = 0
    }

    private var nodes: [Node] = [Node()]
    private var freeNodes: [Int] = []
    var shares: [Share] = []
    private var freeShares: [Int] = []
    /// Changes with every change, so that what was looked up before can be told stale.
    private(set) var version: UInt64 = 1
    private(set) var count = 0

    mutating func insert(_ filter: SubscriptionFilter, _ subscriber: Subscriber) {
        version += 1
        var node = 0
        var isBelow = false
        for level in filter.filter.levels {
            switch level {
            case .hash: isBelow = true
            case .plus:
                if let next = nodes[node].plus {
                    node = next
                } else {
                    let next = newNode()
                    nodes[node].plus = next
                    node = next
                }
            case .literal(let name):
                if let next = nodes[node].children[name] {
                    node = next
                } else {
                    let next = newNode()
                    nodes[node].children[name] = next
                    node = next
                }
            }
        }
        if let name = filter.share {
            let index = share(named: name, at: node, isBelow: isBelow)
            if Self.put(subscriber, into: &shares[index].members) { count += 1 }
        } else if isBelow {
            if Self.put(subscriber, into: &nodes[node].below) { count += 1 }
        } else if Self.put(subscriber, into: &nodes[node].here) {
            count += 1
        }
    }

    mutating func remove(_ filter: SubscriptionFilter, session: Int) {
        version += 1
        var path: [(parent: Int, level: FilterPattern.Level)] = []
        var node = 0
        var isBelow = false
        for level in filter.filter.levels {
            let next: Int?
            switch level {
            case .hash:
                isBelow = true
                continue
            case .plus: next = nodes[node].plus
            case .literal(let name): next = nodes[node].children[name]
            }
            guard let next else { return }
            path.append((node, level))
            node = next
        }
        if let name = filter.share {
            removeShared(name, session: session, at: node, isBelow: isBelow)
        } else if isBelow {
            if Self.drop(session, from: &nodes[node].below) { count -= 1 }
        } else if Self.drop(session, from: &nodes[node].here) {
            count -= 1
        }
        prune(node, path: path)
    }

    /// - Parameters:
    ///   - publisher: the session whose own messages its no-local filters leave out.
    ///   - mayReceive: asked for sessions with a guarded filter. Members of shared subscriptions are not judged here.
    func match(_ topic: [BytewiseString], publisher: Int?, mayReceive: (Int) -> Bool = { _ in true }) -> Matches {
        var found: [Subscriber] = []
        var matches = Matches()
        collect(topic, at: 0, node: 0, &found, &matches.shares)
        if let publisher { found.removeAll { $0.noLocal && $0.session == publisher } }
        found.removeAll { $0.isGuarded && !mayReceive($0.session) }
        if found.count > 1 { found.sort { $0.session < $1.session } }
        for subscriber in found {
            if let last = matches.direct.indices.last, matches.direct[last].session == subscriber.session {
                matches.direct[last].qos = max(matches.direct[last].qos, subscriber.qos)
                if subscriber.retainAsPublished { matches.direct[last].retainAsPublished = true }
                if let identifier = subscriber.identifier { matches.direct[last].identifiers.append(identifier) }
            } else {
                matches.direct.append(Match(subscriber))
            }
        }
        return matches
    }

    /// Its depth is that of the topic, which is bounded.
    private func collect(
        _ topic: [BytewiseString], at index: Int, node: Int, _ found: inout [Subscriber], _ shared: inout [Int]
    ) {
        let isReservedRoot = index == 0 && TopicPath.isReserved(topic[0])
        if !isReservedRoot {
            found.append(contentsOf: nodes[node].below)
            shared.append(contentsOf: nodes[node].sharesBelow)
        }
        guard index < topic.count else {
            found.append(contentsOf: nodes[node].here)
            shared.append(contentsOf: nodes[node].sharesHere)
            return
        }
        if let next = nodes[node].children[topic[index]] { collect(topic, at: index + 1, node: next, &found, &shared) }
        if !isReservedRoot, let next = nodes[node].plus { collect(topic, at: index + 1, node: next, &found, &shared) }
    }

    private mutating func newNode() -> Int {
        if let free = freeNodes.popLast() {
            nodes[free] = Node()
            return free
        }
        nodes.append(Node())
        return nodes.count - 1
    }

    private mutating func share(named name: BytewiseString, at node: Int, isBelow: Bool) -> Int {
        let known = isBelow ? nodes[node].sharesBelow : nodes[node].sharesHere
        if let index = known.first(where: { shares[$0].name == name }) { return index }
        let index: Int
        if let free = freeShares.popLast() {
            shares[free] = Share(name: name)
            index = free
        } else {
            shares.append(Share(name: name))
            index = shares.count - 1
        }
        if isBelow { nodes[node].sharesBelow.append(index) } else { nodes[node].sharesHere.append(index) }
        return index
    }

    private mutating func removeShared(_ name: BytewiseString, session: Int, at node: Int, isBelow: Bool) {
        let known = isBelow ? nodes[node].sharesBelow : nodes[node].sharesHere
        guard let index = known.first(where: { shares[$0].name == name }) else { return }
        if Self.drop(session, from: &shares[index].members) { count -= 1 }
        guard shares[index].members.isEmpty else { return }
        nodes[node].sharesBelow.removeAll { $0 == index }
        nodes[node].sharesHere.removeAll { $0 == index }
        freeShares.append(index)
    }

    private mutating func prune(_ leaf: Int, path: [(parent: Int, level: FilterPattern.Level)]) {
        var node = leaf
        for step in path.reversed() {
            guard nodes[node].isEmpty else { return }
            switch step.level {
            case .plus: nodes[step.parent].plus = nil
            case .literal(let name): nodes[step.parent].children[name] = nil
            case .hash: break
            }
            freeNodes.append(node)
            node = step.parent
        }
    }

    /// - Returns: whether it is new.
    private static func put(_ subscriber: Subscriber, into list: inout [Subscriber]) -> Bool {
        if let index = list.firstIndex(where: { $0.session == subscriber.session }) {
            list[index] = subscriber
            return false
        }
        list.append(subscriber)
        return true
    }

    private static func drop(_ session: Int, from list: inout [Subscriber]) -> Bool {
        guard let index = list.firstIndex(where: { $0.session == session }) else { return false }
        list.remove(at: index)
        return true
    }
}
