import CRDKafka

#if canImport(Musl)
    import Musl
#else
    import Glibc
#endif

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
    /// Bytes that a reader fetches ahead, over all its partitions.
    package var fetchQueueKilobytes = 64 * 1024
    /// Further properties of librdkafka (security and the like), as they are.
    package var properties: [String: String] = [:]
    /// Properties whose values are read from files, so that no secret stands in a configuration.
    package var secretFiles: [String: String] = [:]

    package init(brokers: String) { self.brokers = brokers }

    /// What the delivery promise rests on; a configuration cannot change it.
    private static let reserved: Set<String> = [
        "acks", "request.required.acks", "enable.idempotence", "enable.gapless.guarantee", "partitioner",
        "delivery.timeout.ms",
        "message.timeout.ms", "message.max.bytes", "enable.auto.commit", "enable.auto.offset.store",
        "auto.offset.reset", "group.id", "group.instance.id", "partition.assignment.strategy", "session.timeout.ms",
        "queue.buffering.max.messages", "queue.buffering.max.kbytes", "queued.max.messages.kbytes", "linger.ms",
        "queue.buffering.max.ms", "compression.type", "compression.codec", "bootstrap.servers", "metadata.broker.list",
        "client.id", "transactional.id", "check.crcs",
    ]

    /// Common properties, then the operator's own.
    private func shared() throws(EventLogError) -> [(String, String)] {
        guard !brokers.isEmpty else { throw .other("Kafka: no brokers are configured") }
        guard !topic.isEmpty else { throw .other("Kafka: no topic is configured") }
        var all = [
            ("bootstrap.servers", brokers), ("client.id", clientID), ("socket.keepalive.enable", "true"),
            ("reconnect.backoff.max.ms", "2000"), ("message.max.bytes", "\(maximumRecordBytes)"),
        ]
        let secrets = try secretFiles.sorted { $0.key < $1.key }.map { entry throws(EventLogError) in
            (entry.key, try Self.secret(entry.key, path: entry.value))
        }
        for (name, value) in properties.sorted(by: { $0.key < $1.key }) + secrets {
            guard !Self.reserved.contains(name) else {
                throw .other("Kafka: the property \(name) cannot be set: the delivery promise rests on Sluice's value")
            }
            guard properties[name] == nil || secretFiles[name] == nil else {
                throw .other("Kafka: the property \(name) is given both as a value and as a file: remove one")
            }
            all.append((name, value))
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
            ("enable.auto.commit", "false"), ("enable.auto.offset.store", "false"), ("auto.offset.reset", "error"),
            ("queued.max.messages.kbytes", "\(fetchQueueKilobytes)"), ("check.crcs", "true"),
        ]
    }

    /// A secret's file, at most 64 KiB, without the line end that editors add.
    private static func secret(_ property: String, path: String) throws(EventLogError) -> String {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw .other("Kafka: cannot read the file of \(property), \(path): \(errorText(errno))")
        }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 64 * 1024)
        let count = bytes.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
        guard count > 0 else { throw .other("Kafka: the file of \(property), \(path), is empty or cannot be read") }
        var text = bytes[..<count]
        while let last = text.last, last == 10 || last == 13 { text.removeLast() }
        return String(decoding: text, as: UTF8.self)
    }
}
