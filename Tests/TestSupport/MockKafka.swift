import CRDKafka
import EventLog
import Glibc

/// librdkafka's mock cluster: real TCP on 127.0.0.1, records in memory. Beyond 5 MiB or 100,000 record sets a partition it
/// silently forgets the oldest, read or not: a test in which that happens proves nothing, so it fails, by `end` or, where
/// that was not reached, by the death of the process.
///
/// `@unchecked Sendable`: librdkafka's mock cluster is driven by messages to its own thread, and what is stored here is not
/// changed after `init` but for `isEnded`, which the one test that owns this changes.
package final class MockKafka: @unchecked Sendable {
    /// First offsets of the partitions of which records are gone.
    package struct Forgotten: Error, Equatable, CustomStringConvertible {
        package let first: [Int32: Int64]

        package var description: String {
            "the mock cluster forgot records, as it does beyond 5 MiB a partition: first offsets are now \(first)"
        }
    }

    package struct Failure: Error, CustomStringConvertible {
        package let description: String
    }

    private let handle: OpaquePointer
    private let cluster: OpaquePointer
    private let partitions: Int32
    private var isEnded = false
    package let brokers: String
    package let topic = "sensor-data"

    package static let produceRequest: Int16 = 0

    package init(partitions: Int32) throws {
        self.partitions = partitions
        let configuration = rd_kafka_conf_new()
        rd_kafka_conf_set_log_cb(configuration) { _, _, _, _ in }
        guard let handle = rd_kafka_new(RD_KAFKA_PRODUCER, configuration, nil, 0) else {
            throw Failure(description: "no librdkafka")
        }
        guard let cluster = rd_kafka_mock_cluster_new(handle, 1) else {
            rd_kafka_destroy(handle)
            throw Failure(description: "no mock cluster")
        }
        (self.handle, self.cluster) = (handle, cluster)
        brokers = String(cString: rd_kafka_mock_cluster_bootstraps(cluster))
        guard rd_kafka_mock_topic_create(cluster, topic, partitions, 1) == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw Failure(description: "no topic in the mock cluster")
        }
    }

    deinit {
        if !isEnded, let first = try? forgotten(), !first.isEmpty {
            preconditionFailure("\(Forgotten(first: first))")
        }
        rd_kafka_mock_cluster_destroy(cluster)
        rd_kafka_destroy(handle)
    }

    /// Every test that uses the cluster ends with this.
    ///
    /// - Throws: where the cluster has forgotten records.
    package func end() throws {
        isEnded = true
        let first = try forgotten()
        if !first.isEmpty { throw Forgotten(first: first) }
    }

    /// Asks as a client would, whatever was done to the broker before.
    private func forgotten() throws -> [Int32: Int64] {
        setBroker(down: false)
        delay(milliseconds: 0)
        let configuration = rd_kafka_conf_new()
        rd_kafka_conf_set(configuration, "bootstrap.servers", brokers, nil, 0)
        rd_kafka_conf_set_log_cb(configuration) { _, _, _, _ in }
        guard let client = rd_kafka_new(RD_KAFKA_PRODUCER, configuration, nil, 0) else {
            throw Failure(description: "no librdkafka")
        }
        defer { rd_kafka_destroy(client) }
        var found: [Int32: Int64] = [:]
        for partition in 0..<partitions {
            var first: Int64 = 0
            var next: Int64 = 0
            let code = rd_kafka_query_watermark_offsets(client, topic, partition, &first, &next, 10_000)
            guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
                throw Failure(description: "the mock cluster's records cannot be counted: error \(code.rawValue)")
            }
            if first > 0 { found[partition] = first }
        }
        return found
    }

    // MARK: Faults

    /// The next requests of this kind are answered with these errors.
    package func fail(_ request: Int16, with errors: [rd_kafka_resp_err_t]) {
        rd_kafka_mock_push_request_errors_array(cluster, request, errors.count, errors)
    }

    package func setBroker(down: Bool) {
        if down { rd_kafka_mock_broker_set_down(cluster, 1) } else { rd_kafka_mock_broker_set_up(cluster, 1) }
    }

    /// Every answer takes so long.
    package func delay(milliseconds: Int32) { rd_kafka_mock_broker_set_rtt(cluster, 1, milliseconds) }

    package func configuration() -> KafkaConfiguration {
        var configuration = KafkaConfiguration(brokers: brokers)
        configuration.topic = topic
        configuration.linger = .milliseconds(2)
        configuration.messageTimeout = .seconds(10)
        // The first round of joining takes 3 s, in which a shorter session would end; later ones the session less a second.
        configuration.sessionTimeout = .milliseconds(4500)
        return configuration
    }
}
