import CRDKafka
import Logging
import Operations

/// Asks for and changes a cluster's topics. Its calls block for at most `KafkaConfiguration.requestTimeout`; for the
/// operator's tool, on one thread.
package final class KafkaTopicAdmin {
    private let handle: OpaquePointer
    private let queue: OpaquePointer
    private let context: KafkaContext
    private let timeout: Int32

    package init(_ configuration: KafkaConfiguration, logger: Logger) throws(EventLogError) {
        context = KafkaContext(logger: logger)
        timeout = Int32(configuration.requestTimeout.milliseconds)
        handle = try KafkaHandle.make(RD_KAFKA_PRODUCER, try configuration.shared(), context: context) { _ in }
        queue = rd_kafka_queue_new(handle)
    }

    deinit {
        rd_kafka_queue_destroy(queue)
        rd_kafka_destroy(handle)
    }

    // MARK: - Questions

    /// - Returns: `nil` where there is no such topic.
    package func state(of topic: String) throws(EventLogError) -> TopicState? {
        guard let replicas = try replicas(of: topic) else { return nil }
        return TopicState(replicas: replicas, configuration: try configuration(of: topic))
    }

    private func replicas(of name: String) throws(EventLogError) -> [Int]? {
        var answer: UnsafePointer<rd_kafka_metadata>?
        // All topics, since asking for one by its name may create it.
        let code = rd_kafka_metadata(handle, 1, nil, &answer, timeout)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let metadata = answer else {
            throw .unavailable("Kafka: the cluster's topics cannot be had: \(kafkaText(code))")
        }
        defer { rd_kafka_metadata_destroy(metadata) }
        for index in 0..<Int(metadata.pointee.topic_cnt) {
            guard let topic = metadata.pointee.topics?[index], String(cString: topic.topic) == name else { continue }
            guard topic.err == RD_KAFKA_RESP_ERR_NO_ERROR else {
                throw .unavailable("Kafka: the topic \(name) cannot be had: \(kafkaText(topic.err))")
            }
            return (0..<Int(topic.partition_cnt)).map { Int(topic.partitions[$0].replica_cnt) }
        }
        return nil
    }

    private func configuration(of topic: String) throws(EventLogError) -> [String: TopicState.Setting] {
        var resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic)
        defer { rd_kafka_ConfigResource_destroy(resource) }
        rd_kafka_DescribeConfigs(handle, &resource, 1, nil, queue)
        let event = try answer(to: "the configuration of \(topic)")
        defer { rd_kafka_event_destroy(event) }
        var count = 0
        let resources = rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &count)
        guard count == 1, let found = resources?[0] else {
            throw .other("Kafka: the brokers did not answer for the configuration of \(topic)")
        }
        try check(
            rd_kafka_ConfigResource_error(found), rd_kafka_ConfigResource_error_string(found),
            "the configuration of \(topic)")
        var settings: [String: TopicState.Setting] = [:]
        var entries = 0
        let list = rd_kafka_ConfigResource_configs(found, &entries)
        for index in 0..<entries {
            guard let entry = list?[index], let name = rd_kafka_ConfigEntry_name(entry),
                let value = rd_kafka_ConfigEntry_value(entry)
            else { continue }
            settings[String(cString: name)] = TopicState.Setting(
                String(cString: value),
                isOwn: rd_kafka_ConfigEntry_source(entry) == RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG)
        }
        return settings
    }

    // MARK: - Changes

    /// - Returns: false where somebody else has made the topic meanwhile: a broker does it by itself for a program that asks.
    @discardableResult
    package func perform(_ action: TopicAction, on topic: TopicDeclaration) throws(EventLogError) -> Bool {
        switch action {
        case .create: return try create(topic)
        case .grow(let partitions): try grow(topic.name, to: partitions)
        case .configure(let settings): try configure(topic.name, settings)
        }
        return true
    }

    private func create(_ topic: TopicDeclaration) throws(EventLogError) -> Bool {
        var text = [CChar](repeating: 0, count: 512)
        var new = rd_kafka_NewTopic_new(
            topic.name, Int32(topic.partitions), Int32(topic.replication), &text, text.count)
        guard new != nil else {
            throw .other("Kafka: the topic \(topic.name) cannot be declared: \(Self.string(text))")
        }
        defer { rd_kafka_NewTopic_destroy(new) }
        for (name, value) in topic.configuration { rd_kafka_NewTopic_set_config(new, name, value) }
        rd_kafka_CreateTopics(handle, &new, 1, nil, queue)
        let event = try answer(to: "creating \(topic.name)")
        defer { rd_kafka_event_destroy(event) }
        var count = 0
        let results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count)
        if count == 1, let result = results?[0],
            rd_kafka_topic_result_error(result) == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS
        {
            return false
        }
        try check(results, count, "creating \(topic.name)")
        return true
    }

    private func grow(_ topic: String, to partitions: Int) throws(EventLogError) {
        var text = [CChar](repeating: 0, count: 512)
        var new = rd_kafka_NewPartitions_new(topic, partitions, &text, text.count)
        guard new != nil else {
            throw .other("Kafka: \(topic) cannot have \(partitions) partitions: \(Self.string(text))")
        }
        defer { rd_kafka_NewPartitions_destroy(new) }
        rd_kafka_CreatePartitions(handle, &new, 1, nil, queue)
        let event = try answer(to: "adding partitions to \(topic)")
        defer { rd_kafka_event_destroy(event) }
        var count = 0
        let results = rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(event), &count)
        try check(results, count, "adding partitions to \(topic)")
    }

    /// Replaces all that the topic has of its own: librdkafka 2.0.2 has no request for single ones.
    private func configure(_ topic: String, _ settings: [String: String]) throws(EventLogError) {
        var resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic)
        defer { rd_kafka_ConfigResource_destroy(resource) }
        for (name, value) in settings { rd_kafka_ConfigResource_set_config(resource, name, value) }
        rd_kafka_AlterConfigs(handle, &resource, 1, nil, queue)
        let event = try answer(to: "configuring \(topic)")
        defer { rd_kafka_event_destroy(event) }
        var count = 0
        let resources = rd_kafka_AlterConfigs_result_resources(rd_kafka_event_AlterConfigs_result(event), &count)
        guard count == 1, let done = resources?[0] else {
            throw .other("Kafka: the brokers did not answer for configuring \(topic)")
        }
        try check(
            rd_kafka_ConfigResource_error(done), rd_kafka_ConfigResource_error_string(done), "configuring \(topic)")
    }

    // MARK: - Answers

    private func answer(to what: String) throws(EventLogError) -> OpaquePointer {
        guard let event = rd_kafka_queue_poll(queue, timeout) else {
            throw .unavailable("Kafka: no answer to \(what) within \(timeout) ms")
        }
        let code = rd_kafka_event_error(event)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            defer { rd_kafka_event_destroy(event) }
            throw Self.error(code, rd_kafka_event_error_string(event), what)
        }
        return event
    }

    private func check(
        _ results: UnsafeMutablePointer<OpaquePointer?>?, _ count: Int, _ what: String
    ) throws(EventLogError) {
        guard count == 1, let result = results?[0] else {
            throw .other("Kafka: the brokers did not answer for \(what)")
        }
        try check(rd_kafka_topic_result_error(result), rd_kafka_topic_result_error_string(result), what)
    }

    private func check(
        _ code: rd_kafka_resp_err_t, _ text: UnsafePointer<CChar>?, _ what: String
    ) throws(EventLogError) {
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw Self.error(code, text, what) }
    }

    private static func error(
        _ code: rd_kafka_resp_err_t, _ text: UnsafePointer<CChar>?, _ what: String
    ) -> EventLogError {
        .other("Kafka: \(what) failed: \(text.map { String(cString: $0) } ?? kafkaText(code))")
    }

    private static func string(_ text: [CChar]) -> String {
        String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
