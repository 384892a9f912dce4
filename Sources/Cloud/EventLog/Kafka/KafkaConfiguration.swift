import Operations

/// Where the topic is, and the bounds of what is kept in memory on the way to and from it.
package struct KafkaConfiguration: Sendable {
    package enum Compression: String, Sendable, CaseIterable {
        case none, lz4, zstd
    }

    /// `host:port`, separated by commas.
    package var brokers: String
    /// Must exist with its partitions (`cloud/topics`); better with `message.timestamp.type=LogAppendTime`: with
    /// CreateTime the append time is the ingest's clock instead of the broker's.
    package var topic = "sensor-data"
    package var clientID = "sluice"
    /// How long the producer gathers records for a request.
    package var linger: Duration = .milliseconds(50)
    /// An append fails as unavailable after this; keep it below the sender's HTTP timeout.
    package var messageTimeout: Duration = .seconds(20)
    /// For questions to the cluster (bounds, partitions, identity).
    package var requestTimeout: Duration = .seconds(10)
    /// Records that may wait in the producer; beyond them appends are busy.
    package var queueMaximumMessages = 500_000
    package var queueMaximumKilobytes = 256 * 1024
    package var compression = Compression.lz4
    /// Key, value and headers; not above the broker's `max.message.bytes`.
    package var maximumRecordBytes = 1_000_000
    /// After so long without a sign of life a reader loses its partitions; at most 10 s.
    package var sessionTimeout: Duration = .seconds(10)
    /// A reader that does not ask for so long loses its partitions: its database hangs. Not below `sessionTimeout`.
    package var maximumPollInterval: Duration = .seconds(60)
    /// Bytes that a reader fetches ahead, over all its partitions.
    package var fetchQueueKilobytes = 64 * 1024
    /// Further properties of librdkafka (security and the like), as they are.
    package var properties: [String: String] = [:]
    /// A file of lines `name=value`, for secrets; they win over `properties`. Empty lines and lines that begin with `#` are
    /// passed over.
    package var propertiesFile: String?

    package var tls: CloudConfiguration.KafkaTLS?
    package var sasl: CloudConfiguration.KafkaSASL?
    /// Whether a reader that leaves gives its partitions to the others at once, or only after `sessionTimeout`.
    package var leavesGroup = true

    package init(brokers: String) { self.brokers = brokers }

    /// As the daemon's configuration says.
    package init(_ kafka: CloudConfiguration.Kafka) {
        self.init(brokers: kafka.brokers.joined(separator: ","))
        topic = kafka.topic
        properties = kafka.properties
        propertiesFile = kafka.propertiesFile
        tls = kafka.tls
        sasl = kafka.sasl
        sessionTimeout = .seconds(kafka.sessionTimeout)
    }

    /// What the delivery promise rests on; a configuration cannot change it.
    private static let reserved: Set<String> = [
        "acks", "request.required.acks", "enable.idempotence", "enable.gapless.guarantee", "partitioner",
        "delivery.timeout.ms",
        "message.timeout.ms", "message.max.bytes", "enable.auto.commit", "enable.auto.offset.store",
        "auto.offset.reset", "group.id", "group.instance.id", "partition.assignment.strategy", "session.timeout.ms",
        "queue.buffering.max.messages", "queue.buffering.max.kbytes", "queued.max.messages.kbytes", "linger.ms",
        "queue.buffering.max.ms", "compression.type", "compression.codec", "bootstrap.servers", "metadata.broker.list",
        "client.id", "transactional.id", "check.crcs", "max.poll.interval.ms",
    ]

    /// Common properties, then the operator's own.
    func shared() throws(EventLogError) -> [(String, String)] {
        guard !brokers.isEmpty else { throw .other("Kafka: no brokers are configured") }
        guard !topic.isEmpty else { throw .other("Kafka: no topic is configured") }
        var all = [
            ("bootstrap.servers", brokers), ("client.id", clientID), ("socket.keepalive.enable", "true"),
            ("reconnect.backoff.max.ms", "2000"), ("message.max.bytes", "\(maximumRecordBytes)"),
            // For so long after partitions were added, the members of a group and the producers disagree on their number.
            ("topic.metadata.refresh.interval.ms", "10000"),
        ]
        let security = try security()
        all += security
        let secrets = try propertiesFile.map { path throws(EventLogError) in try Self.read(path) } ?? [:]
        let own = properties.merging(secrets) { $1 }
        for (name, value) in own.sorted(by: { $0.key < $1.key }) {
            guard !Self.reserved.contains(name) else {
                throw .other("Kafka: the property \(name) cannot be set: the delivery promise rests on Sluice's value")
            }
            guard !security.contains(where: { $0.0 == name }) else {
                throw .other(
                    "Kafka: \(name) is set by eventLog.kafka.tls or sasl, and again as a property: one is enough")
            }
            all.append((name, value))
        }
        for (name, value) in all where name == "sasl.mechanism" || name == "sasl.mechanisms" {
            try Self.refuseBrokenSCRAM(value)
        }
        return all
    }

    func producer() throws(EventLogError) -> [(String, String)] {
        try shared() + [
            ("enable.idempotence", "true"), ("acks", "all"), ("partitioner", "murmur2_random"),
            ("linger.ms", "\(linger.milliseconds)"), ("message.timeout.ms", "\(messageTimeout.milliseconds)"),
            ("queue.buffering.max.messages", "\(queueMaximumMessages)"),
            ("queue.buffering.max.kbytes", "\(queueMaximumKilobytes)"), ("compression.type", compression.rawValue),
        ]
    }

    /// - Parameter member: the same after a restart, so that a restart within the session timeout moves no partitions.
    func consumer(group: String, member: String) throws(EventLogError) -> [(String, String)] {
        let session = min(sessionTimeout.milliseconds, 10_000)
        return try shared() + [
            ("group.id", group), ("group.instance.id", member), ("partition.assignment.strategy", "range"),
            ("session.timeout.ms", "\(session)"), ("heartbeat.interval.ms", "\(max(1, session / 4))"),
            // So long a rebalance may wait for a member whose database does not answer.
            ("max.poll.interval.ms", "\(maximumPollInterval.milliseconds)"),
            ("enable.auto.commit", "false"), ("enable.auto.offset.store", "false"), ("auto.offset.reset", "error"),
            ("queued.max.messages.kbytes", "\(fetchQueueKilobytes)"), ("check.crcs", "true"),
        ]
    }

    /// Values may be secrets: no error shows one.
    private static func read(_ path: String) throws(EventLogError) -> [String: String] {
        let bytes: [UInt8]
        do {
            bytes = try AtomicFile.read(path, maximumBytes: 64 * 1024)
        } catch {
            throw .other("Kafka: the properties' file \(path) cannot be read: \(errorText(error.code))")
        }
        var found: [String: String] = [:]
        let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        for (number, line) in lines.enumerated() {
            let text = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
            guard let first = text.first, first != UInt8(ascii: "#") else { continue }
            guard let sign = text.firstIndex(of: UInt8(ascii: "=")), sign > text.startIndex else {
                throw .other("Kafka: line \(number + 1) of \(path) is not name=value")
            }
            found[String(decoding: text[..<sign], as: UTF8.self)] = String(decoding: text[(sign + 1)...], as: UTF8.self)
        }
        return found
    }
}
