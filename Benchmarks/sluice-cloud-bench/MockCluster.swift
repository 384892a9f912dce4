import CRDKafka
import EventLog

/// librdkafka's mock cluster: real TCP, records in memory, at most 5 MiB a partition.
final class MockCluster {
    private let handle: OpaquePointer
    private let cluster: OpaquePointer
    let brokers: String

    init(partitions: Int32) throws {
        let configuration = rd_kafka_conf_new()
        rd_kafka_conf_set_log_cb(configuration) { _, _, _, _ in }
        guard let handle = rd_kafka_new(RD_KAFKA_PRODUCER, configuration, nil, 0) else {
            throw Failure(text: "librdkafka makes no instance")
        }
        guard let cluster = rd_kafka_mock_cluster_new(handle, 1) else {
            rd_kafka_destroy(handle)
            throw Failure(text: "librdkafka makes no mock cluster")
        }
        self.handle = handle
        self.cluster = cluster
        brokers = String(cString: rd_kafka_mock_cluster_bootstraps(cluster))
        guard rd_kafka_mock_topic_create(cluster, "sensor-data", partitions, 1) == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw Failure(text: "the mock cluster makes no topic")
        }
    }

    deinit {
        rd_kafka_mock_cluster_destroy(cluster)
        rd_kafka_destroy(handle)
    }
}
