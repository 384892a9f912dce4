import CRDKafka
import EventLog
import Testing

/// librdkafka's mock cluster with several brokers, whose faults a test chooses.
///
/// `@unchecked Sendable`: the mock cluster is driven by messages to its own thread.
final class FaultyKafka: @unchecked Sendable {
    private let handle: OpaquePointer
    private let cluster: OpaquePointer
    let brokers: String
    let partitions: Int32
    let brokerCount: Int32
    static let topic = "sensor-data"

    init(partitions: Int32 = 8, brokers count: Int32 = 3) throws {
        self.partitions = partitions
        brokerCount = count
        let configuration = rd_kafka_conf_new()
        rd_kafka_conf_set_log_cb(configuration) { _, _, _, _ in }
        handle = try #require(rd_kafka_new(RD_KAFKA_PRODUCER, configuration, nil, 0))
        cluster = try #require(rd_kafka_mock_cluster_new(handle, count))
        brokers = String(cString: rd_kafka_mock_cluster_bootstraps(cluster))
        let code = rd_kafka_mock_topic_create(cluster, Self.topic, partitions, min(3, count))
        #expect(code == RD_KAFKA_RESP_ERR_NO_ERROR)
    }

    deinit {
        rd_kafka_mock_cluster_destroy(cluster)
        rd_kafka_destroy(handle)
    }

    func setBrokers(down: Bool) {
        for broker in 1...brokerCount {
            if down {
                rd_kafka_mock_broker_set_down(cluster, broker)
            } else {
                rd_kafka_mock_broker_set_up(cluster, broker)
            }
        }
    }

    func setRoundTrip(milliseconds: Int32) {
        for broker in 1...brokerCount { rd_kafka_mock_broker_set_rtt(cluster, broker, milliseconds) }
    }

    func setLeader(_ broker: Int32, of partition: Int32) {
        rd_kafka_mock_partition_set_leader(cluster, Self.topic, partition, broker)
    }

    func open(_ change: (inout KafkaConfiguration) -> Void = { _ in }) throws -> KafkaEventLog {
        var configuration = KafkaConfiguration(brokers: brokers)
        configuration.topic = Self.topic
        configuration.linger = .milliseconds(2)
        configuration.messageTimeout = .seconds(5)
        configuration.requestTimeout = .seconds(3)
        // The first round of joining takes 3 s, in which a shorter session would end.
        configuration.sessionTimeout = .milliseconds(4_500)
        change(&configuration)
        return try KafkaEventLog.open(configuration, logger: quietLogger)
    }

    /// It forgets beyond 5 MiB a partition.
    static func expectNothingForgotten(_ log: any EventLog) async throws {
        for bounds in try await log.bounds() { #expect(bounds.first == 0, "the mock cluster forgot records") }
    }
}
