/// A topic as `cloud/topics.yaml` declares it.
package struct TopicDeclaration: Sendable, Equatable {
    package var name: String
    package var partitions: Int
    package var replication: Int
    /// Kafka's topic configurations that must be in force, whoever sets them.
    package var configuration: [String: String]

    package init(name: String, partitions: Int, replication: Int, configuration: [String: String]) {
        self.name = name
        self.partitions = partitions
        self.replication = replication
        self.configuration = configuration
    }

    /// The same for a cluster of fewer brokers: no more in-sync replicas are demanded than there are replicas.
    package func replicated(_ replication: Int) -> TopicDeclaration {
        var topic = self
        topic.replication = replication
        if let demanded = configuration[Self.inSync].flatMap({ Int($0) }), demanded > replication {
            topic.configuration[Self.inSync] = String(replication)
        }
        return topic
    }

    package static let inSync = "min.insync.replicas"
}

/// Reads `cloud/topics.yaml`, and refuses what the delivery promise could not stand on.
package enum TopicsFile {
    /// - Throws: all that is wrong, at once.
    package static func load(_ file: String) throws(ConfigurationProblems) -> [TopicDeclaration] {
        let root = try ConfigurationSection.load(file: file)
        let sections = root.sections("topics") ?? []
        if sections.isEmpty, root.report.problems.isEmpty {
            root.problem("topics", found: "nothing", allowed: "a list of topics")
        }
        let topics = sections.compactMap { topic($0) }
        var names: Set<String> = []
        for topic in topics where !names.insert(topic.name).inserted {
            root.problem("topics", found: "\(topic.name) more than once", allowed: "it once")
        }
        root.finish()
        try root.report.finish()
        return topics
    }

    private static func topic(_ section: ConfigurationSection) -> TopicDeclaration? {
        let name = section.require("name", .identifier)
        let partitions = section.require("partitions", .integer(1...10_000))
        let replication = section.require("replication", .integer(1...100))
        if let key = section.require("key", .text), key != "device id" {
            section.problem("key", found: key.shown, allowed: "device id: what a device sends stays in its order")
        }
        var configuration: [String: String] = [:]
        if let settings = section.section("configuration") {
            for key in settings.keys {
                if let value = settings.value(key, .text) { configuration[key] = value }
            }
            judge(configuration, replication ?? .max, settings)
            settings.finish()
        } else if !section.has("configuration") {
            section.problem("configuration", found: "nothing", allowed: "a map of Kafka's topic configurations")
        }
        section.finish()
        guard let name, let partitions, let replication else { return nil }
        return TopicDeclaration(
            name: name, partitions: partitions, replication: replication, configuration: configuration)
    }

    /// What an acknowledged message could be lost by, and why.
    private static func judge(
        _ configuration: [String: String], _ replication: Int, _ section: ConfigurationSection
    ) {
        let fixed = [
            ("cleanup.policy", "delete", "compaction would keep one message a device"),
            ("unclean.leader.election.enable", "false", "a replica that is behind would become the leader"),
            ("retention.bytes", "-1", "messages would go by size, processed or not"),
            (
                "message.timestamp.type", "LogAppendTime",
                "a backlog's own old times would delete it before it is processed"
            ),
        ]
        for (key, value, reason) in fixed where configuration[key] != value {
            section.problem(
                key, found: configuration[key]?.shown ?? "nothing", allowed: "\(value): else \(reason)")
        }
        let hours72 = 72 * 3_600_000
        let retention = configuration["retention.ms"].flatMap { Int($0) } ?? 0
        if retention != -1, retention < hours72 {
            section.problem(
                "retention.ms", found: configuration["retention.ms"]?.shown ?? "nothing",
                allowed: "at least \(hours72) (72 hours), or -1")
        }
        let inSync = configuration[TopicDeclaration.inSync].flatMap { Int($0) } ?? 0
        let least = min(2, replication)
        if inSync < least || inSync > replication {
            section.problem(
                TopicDeclaration.inSync, found: configuration[TopicDeclaration.inSync]?.shown ?? "nothing",
                allowed: "\(least) or more, and no more than replication")
        }
    }
}
