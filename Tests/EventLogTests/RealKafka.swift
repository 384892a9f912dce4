import CRDKafka
import EventLog
import Foundation
import Testing

/// A broker that `SLUICE_TEST_KAFKA` (host:port) names.
enum RealKafka {
    static let brokers = ProcessInfo.processInfo.environment["SLUICE_TEST_KAFKA"]

    /// A new topic of its own for each test.
    static func configuration(partitions: Int32) throws -> KafkaConfiguration {
        let brokers = try #require(brokers)
        var configuration = KafkaConfiguration(brokers: brokers)
        configuration.topic = "sluice-test-" + UUID().uuidString
        configuration.linger = .milliseconds(2)
        // Brokers take no less (`group.min.session.timeout.ms`).
        configuration.sessionTimeout = .seconds(6)
        try create(configuration.topic, partitions: partitions, brokers: brokers)
        return configuration
    }

    private static func create(_ topic: String, partitions: Int32, brokers: String) throws {
        let configuration = rd_kafka_conf_new()
        rd_kafka_conf_set(configuration, "bootstrap.servers", brokers, nil, 0)
        let handle = try #require(rd_kafka_new(RD_KAFKA_PRODUCER, configuration, nil, 0))
        defer { rd_kafka_destroy(handle) }
        let queue = rd_kafka_queue_new(handle)
        defer { rd_kafka_queue_destroy(queue) }
        var new = rd_kafka_NewTopic_new(topic, partitions, 1, nil, 0)
        defer { rd_kafka_NewTopic_destroy(new) }
        rd_kafka_NewTopic_set_config(new, "message.timestamp.type", "LogAppendTime")
        rd_kafka_CreateTopics(handle, &new, 1, nil, queue)
        let event = try #require(rd_kafka_queue_poll(queue, 20_000))
        defer { rd_kafka_event_destroy(event) }
        var count = 0
        let results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count)
        try #require(count == 1)
        #expect(rd_kafka_topic_result_error(results?[0]) == RD_KAFKA_RESP_ERR_NO_ERROR)
        try waitForLeaders(of: topic, partitions: partitions, handle)
    }

    /// A broker answers for a new partition only when it has become its leader, some moments after the topic was created.
    private static func waitForLeaders(of topic: String, partitions: Int32, _ handle: OpaquePointer) throws {
        let end = ContinuousClock.now + .seconds(10)
        for partition in 0..<partitions {
            var first: Int64 = 0
            var next: Int64 = 0
            while rd_kafka_query_watermark_offsets(handle, topic, partition, &first, &next, 1_000)
                != RD_KAFKA_RESP_ERR_NO_ERROR
            {
                try #require(ContinuousClock.now < end, "partition \(partition) of \(topic) has no leader")
                usleep(50_000)
            }
        }
    }
}

@Suite struct RealKafkaTests {
    /// The shared suite runs on the broker too when there is one; this test's only work is to say whether it did.
    @Test(.enabled(if: RealKafka.brokers != nil, "set SLUICE_TEST_KAFKA=host:port to run the shared suite on a broker"))
    func theSharedSuiteRunsOnARealBroker() {
        #expect(LogKind.available.contains(.kafka))
    }
}
