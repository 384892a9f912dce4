import Foundation
import Operations
import Testing

@Suite struct TopicsFileTests {
    private func load(_ text: String) throws -> [TopicDeclaration] {
        let file = try TemporaryFile(text)
        return try withExtendedLifetime(file) { try TopicsFile.load(file.path) }
    }

    private static let shipped = try? String(contentsOfFile: repository + "/cloud/topics.yaml", encoding: .utf8)

    @Test func theShippedTopicIsTheOneThatIsDemanded() throws {
        let topics = try TopicsFile.load(repository + "/cloud/topics.yaml")
        #expect(
            topics == [
                TopicDeclaration(
                    name: "sensor-data", partitions: 32, replication: 3,
                    configuration: [
                        "retention.ms": "259200000", "retention.bytes": "-1", "min.insync.replicas": "2",
                        "unclean.leader.election.enable": "false", "cleanup.policy": "delete",
                        "message.timestamp.type": "LogAppendTime",
                    ])
            ])
        #expect(topics[0].name == CloudConfiguration.Kafka(brokers: []).topic)
    }

    /// What an acknowledged message could be lost by is refused in the declaration already.
    @Test(arguments: [
        (
            "retention.ms: 259200000", "retention.ms: 259199999",
            "retention.ms: found 259199999, allowed at least 259200000"
        ),
        ("retention.ms: 259200000", "retention.ms: -1", ""),
        ("retention.bytes: -1", "retention.bytes: 1000", "retention.bytes: found 1000, allowed -1"),
        ("cleanup.policy: delete", "cleanup.policy: compact", "cleanup.policy: found compact, allowed delete"),
        (
            "unclean.leader.election.enable: false", "unclean.leader.election.enable: true",
            "unclean.leader.election.enable: found true"
        ),
        ("LogAppendTime", "CreateTime", "message.timestamp.type: found CreateTime, allowed LogAppendTime"),
        ("min.insync.replicas: 2", "min.insync.replicas: 1", "min.insync.replicas: found 1, allowed 2 or more"),
        ("min.insync.replicas: 2", "min.insync.replicas: 4", "min.insync.replicas: found 4"),
        ("key: device id", "key: gateway", "key: found gateway, allowed device id"),
        ("partitions: 32", "partitions: 0", "partitions: found 0"),
        ("partitions: 32", "partition: 32", "partitions: found nothing"),
    ])
    func mistakes(old: String, new: String, expected: String) throws {
        let text = try #require(Self.shipped).replacingOccurrences(of: old, with: new)
        var found = ""
        do { _ = try load(text) } catch { found = "\(error)" }
        #expect(expected.isEmpty ? found.isEmpty : found.contains(expected), "\(found)")
    }

    @Test func noTopicsAreAMistakeToo() {
        #expect(throws: ConfigurationProblems.self) { try load("topics: []") }
        #expect(throws: ConfigurationProblems.self) { try load("{}") }
    }
}
