import EventLog
import Operations
import Testing

@Suite struct TopicPlanTests {
    private let declared = TopicDeclaration(
        name: "t", partitions: 4, replication: 3,
        configuration: ["retention.ms": "259200000", "cleanup.policy": "delete"])

    private func state(
        replicas: [Int] = [3, 3, 3, 3], _ configuration: [String: TopicState.Setting] = [:]
    ) -> TopicState {
        let same: [String: TopicState.Setting] = [
            "retention.ms": .init("259200000", isOwn: true), "cleanup.policy": .init("delete", isOwn: false),
            "max.message.bytes": .init("1048588", isOwn: false),
        ]
        return TopicState(replicas: replicas, configuration: same.merging(configuration) { $1 })
    }

    @Test func whatIsAsDeclaredNeedsNothing() {
        #expect(TopicPlan(declared, state()) == TopicPlan(declared, state()))
        #expect(TopicPlan(declared, state()).differences.isEmpty && TopicPlan(declared, state()).actions.isEmpty)
    }

    @Test func aMissingTopicIsCreated() {
        let plan = TopicPlan(declared, nil)
        #expect(plan.differences == [.missing] && plan.actions == [.create])
    }

    @Test func partitionsAreAddedAndNeverTaken() {
        let fewer = TopicPlan(declared, state(replicas: [3, 3]))
        #expect(fewer.differences == [.partitions(declared: 4, found: 2)] && fewer.actions == [.grow(to: 4)])
        let more = TopicPlan(declared, state(replicas: [3, 3, 3, 3, 3]))
        #expect(more.differences == [.partitions(declared: 4, found: 5)] && more.actions.isEmpty)
        #expect(more.differences[0].remedy?.contains("declare 5") == true)
    }

    @Test func replicationIsNamedPerPartition() {
        let plan = TopicPlan(declared, state(replicas: [3, 2, 3, 1]))
        #expect(
            plan.differences == [
                .replication(partition: 1, declared: 3, found: 2), .replication(partition: 3, declared: 3, found: 1),
            ])
        #expect(plan.actions.isEmpty && plan.differences.allSatisfy { $0.remedy != nil })
    }

    /// The request replaces all that the topic has of its own, so it carries that too.
    @Test func aChangeKeepsWhatOthersHaveSet() {
        let plan = TopicPlan(
            declared,
            state([
                "retention.ms": .init("1", isOwn: true), "max.message.bytes": .init("2000000", isOwn: true),
                "leader.replication.throttled.replicas": .init("0:1", isOwn: true),
            ]))
        #expect(
            plan.differences == [
                .configuration("retention.ms", declared: "259200000", found: .init("1", isOwn: true)),
                .undeclared("max.message.bytes", value: "2000000"),
            ])
        #expect(
            plan.actions == [
                .configure([
                    "retention.ms": "259200000", "max.message.bytes": "2000000", "cleanup.policy": "delete",
                    "leader.replication.throttled.replicas": "0:1",
                ])
            ])
    }

    @Test func aDefaultOfTheBrokersIsADifferenceToo() {
        let plan = TopicPlan(declared, state(["cleanup.policy": .init("compact", isOwn: false)]))
        #expect(
            plan.differences.map(\.description) == [
                "cleanup.policy: declared delete, found compact (the brokers' default)"
            ])
        #expect(plan.actions.count == 1)
    }

    @Test func whatTheBrokersDoNotKnowIsNotSent() {
        var odd = declared
        odd.configuration["retention.msx"] = "1"
        let plan = TopicPlan(odd, state())
        #expect(
            plan.differences == [.configuration("retention.msx", declared: "1", found: nil)] && plan.actions.isEmpty)
    }

    @Test func fewerBrokersDemandNoMoreReplicasThanThereAre() {
        var topic = declared
        topic.configuration["min.insync.replicas"] = "2"
        #expect(topic.replicated(1).configuration["min.insync.replicas"] == "1")
        #expect(topic.replicated(2).configuration["min.insync.replicas"] == "2" && topic.replicated(2).replication == 2)
    }
}
