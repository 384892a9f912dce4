import Operations

/// A topic as the cluster has it.
package struct TopicState: Sendable, Equatable {
    package struct Setting: Sendable, Equatable {
        package var value: String
        /// Set for this topic, rather than a default of the brokers.
        package var isOwn: Bool

        package init(_ value: String, isOwn: Bool) {
            self.value = value
            self.isOwn = isOwn
        }
    }

    /// Replicas of each partition.
    package var replicas: [Int]
    package var configuration: [String: Setting]

    package init(replicas: [Int], configuration: [String: Setting]) {
        self.replicas = replicas
        self.configuration = configuration
    }
}

/// Where the cluster is not as declared.
package enum TopicDifference: Sendable, Equatable {
    case missing
    case partitions(declared: Int, found: Int)
    case replication(partition: Int, declared: Int, found: Int)
    /// `found` is `nil` where the brokers do not know the configuration.
    case configuration(String, declared: String, found: TopicState.Setting?)
    /// Set for the topic, but not declared.
    case undeclared(String, value: String)

    /// What `apply` cannot do, and who can.
    package var remedy: String? {
        switch self {
        case .missing: nil
        case .partitions(let declared, let found):
            found > declared
                ? "Kafka cannot take partitions away, and what is in them would be lost: declare \(found)" : nil
        case .replication: "move the replicas with kafka-reassign-partitions.sh"
        case .configuration(let name, _, found: nil): "these brokers do not know \(name): declare what they know"
        case .configuration: nil
        case .undeclared(let name, _):
            "declare it, or remove it: kafka-configs.sh --alter --entity-type topics --delete-config \(name)"
        }
    }
}

extension TopicDifference: CustomStringConvertible {
    package var description: String {
        switch self {
        case .missing: "declared, but not in the cluster"
        case .partitions(let declared, let found): "partitions: declared \(declared), found \(found)"
        case .replication(let partition, let declared, let found):
            "replication of partition \(partition): declared \(declared), found \(found)"
        case .configuration(let name, let declared, let found):
            if let found {
                "\(name): declared \(declared), found \(found.value) (\(found.isOwn ? "of the topic" : "the brokers' default"))"
            } else {
                "\(name): declared \(declared), found nothing"
            }
        case .undeclared(let name, let value): "\(name): not declared, found \(value)"
        }
    }
}

/// What has to be done, in this order.
package enum TopicAction: Sendable, Equatable {
    case create
    case grow(to: Int)
    /// Every configuration that the topic is to have of its own: the request replaces them all.
    case configure([String: String])
}

package struct TopicPlan: Sendable, Equatable {
    package var differences: [TopicDifference] = []
    package var actions: [TopicAction] = []

    /// Set while replicas move, by the tool that moves them: neither a difference nor ours to remove.
    private static let throttles: Set<String> = [
        "leader.replication.throttled.replicas", "follower.replication.throttled.replicas",
    ]

    /// - Parameter state: `nil` where there is no such topic.
    package init(_ declared: TopicDeclaration, _ state: TopicState?) {
        guard let state else {
            differences = [.missing]
            actions = [.create]
            return
        }
        let found = state.replicas.count
        if found != declared.partitions {
            differences.append(.partitions(declared: declared.partitions, found: found))
            if found < declared.partitions { actions.append(.grow(to: declared.partitions)) }
        }
        for (partition, replicas) in state.replicas.enumerated() where replicas != declared.replication {
            differences.append(.replication(partition: partition, declared: declared.replication, found: replicas))
        }
        var mends = false
        for (name, value) in declared.configuration.sorted(by: { $0.key < $1.key })
        where state.configuration[name]?.value != value {
            let setting = state.configuration[name]
            differences.append(.configuration(name, declared: value, found: setting))
            if setting != nil { mends = true }
        }
        let own = state.configuration.filter { $0.value.isOwn }
        for (name, setting) in own.sorted(by: { $0.key < $1.key })
        where declared.configuration[name] == nil && !Self.throttles.contains(name) {
            differences.append(.undeclared(name, value: setting.value))
        }
        if mends {
            let known = declared.configuration.filter { state.configuration[$0.key] != nil }
            actions.append(.configure(own.mapValues(\.value).merging(known) { $1 }))
        }
    }
}
