import CRDKafka
import EventLog
import Testing

/// librdkafka's mock cluster: real TCP on 127.0.0.1, records in memory. It silently forgets beyond 5 MiB a partition, so
/// each test that uses it checks with `expectNothingForgotten`.
final class MockKafka: @unchecked Sendable {
    // `@unchecked Sendable`: librdkafka's mock cluster is driven by messages to its own thread.
    private let handle: OpaquePointer
    private let cluster: OpaquePointer
    let brokers: String
    let topic = "sensor-data"

    static let produceRequest: Int16 = 0

    init(partitions: Int32) throws {
        let configuration = rd_kafka_conf_new()
        rd_kafka_conf_set_log_cb(configuration) { _, _, _, _ in }
        handle = try #require(rd_kafka_new(RD_KAFKA_PRODUCER, configuration, nil, 0))
        cluster = try #require(rd_kafka_mock_cluster_new(handle, 1))
        brokers = String(cString: rd_kafka_mock_cluster_bootstraps(cluster))
        #expect(rd_kafka_mock_topic_create(cluster, topic, partitions, 1) == RD_KAFKA_RESP_ERR_NO_ERROR)
    }

    deinit {
        rd_kafka_mock_cluster_destroy(cluster)
        rd_kafka_destroy(handle)
    }

    /// The next requests of this kind are answered with these errors.
    func fail(_ request: Int16, with errors: [rd_kafka_resp_err_t]) {
        rd_kafka_mock_push_request_errors_array(cluster, request, errors.count, errors)
    }

    func setBroker(down: Bool) {
        if down { rd_kafka_mock_broker_set_down(cluster, 1) } else { rd_kafka_mock_broker_set_up(cluster, 1) }
    }

    func configuration() -> KafkaConfiguration {
        var configuration = KafkaConfiguration(brokers: brokers)
        configuration.topic = topic
        configuration.linger = .milliseconds(2)
        configuration.messageTimeout = .seconds(10)
        // The first round of joining takes 3 s, in which a shorter session would end; later ones the session less a second.
        configuration.sessionTimeout = .milliseconds(4500)
        return configuration
    }

    static func expectNothingForgotten(_ log: any EventLog) async throws {
        for bounds in try await log.bounds() { #expect(bounds.first == 0, "the mock cluster forgot records") }
    }
}
