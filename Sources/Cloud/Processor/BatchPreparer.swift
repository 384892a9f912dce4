import Database
import EventLog
import NIOCore
import Sparkplug
import SyncModel

/// Turns records of the log into a batch that is ready to be stored. Asks the database only for ids and days that are
/// not known yet.
final class BatchPreparer {
    private let configuration: ProcessorConfiguration
    let cache: IdentityCache
    private var builder: RowBuilder
    private let sparkplug: SparkplugResolver
    /// Bytes of the last batch's rows, so that the next one's buffers need not grow.
    private var lastBytes = (measurements: 0, events: 0)
    /// Days since 1970 whose partitions are known to exist.
    private var days: Set<Int32> = []

    init(configuration: ProcessorConfiguration, cache: IdentityCache = IdentityCache()) {
        self.configuration = configuration
        self.cache = cache
        sparkplug = SparkplugResolver(maximum: configuration.sparkplugMetricsInMemory)
        builder = RowBuilder(configuration: configuration)
    }

    private struct Decoded {
        var record: StoredLogRecord
        var entry: Result<LogEntry, SyncDecodingError>
    }

    nonisolated(nonsending) func prepare(
        _ records: [StoredLogRecord], advances: [PartitionAdvance], incarnation: String,
        claim: BatchClaim = .offsets, connection: PostgresConnection
    ) async throws(PostgresError) -> PreparedBatch {
        cache.makeRoom()
        var decoded = records.map { record in
            Decoded(
                record: record,
                entry: Result { () throws(SyncDecodingError) in try LogEntry.decode(record.record.value) })
        }
        if claim == .sample { decoded = decoded.compactMap(Self.sampled) }
        try await resolveNames(decoded, connection)
        var batch = PreparedBatch()
        batch.sparkplug = try await sparkplug.resolve(sparkplugMessages(decoded), connection)
        batch.claim = claim
        batch.advances = advances
        batch.incarnation = incarnation
        batch.registryVersion = cache.registryVersion ?? 0
        addItems(decoded, to: &batch)
        batch.measurements.reserve(lastBytes.measurements)
        batch.events.reserve(lastBytes.events)
        builder.startBatch()
        let deferred = build(&batch, only: nil, isFinal: false)
        if !deferred.isEmpty {
            try await resolveMetrics(connection)
            _ = build(&batch, only: deferred, isFinal: true)
        }
        sparkplug.makeRoom(in: &batch.sparkplug)
        lastBytes = (batch.measurements.byteCount, batch.events.byteCount)
        batch.hours = builder.hours
        try await makePartitions(connection)
        return batch
    }

    /// The messages of the sample; everything else waits for the complement, so that it is stored as if there had been no
    /// sample. Sparkplug's too: data is named by births, which may not be in the sample.
    private static func sampled(_ decoded: Decoded) -> Decoded? {
        guard case .success(.messages(var entry)) = decoded.entry else { return nil }
        entry.messages.removeAll { message in
            !Sample.has(device: entry.device, sequence: message.sequence)
                || SparkplugTopic.isSparkplug(message.topic)
        }
        if entry.messages.isEmpty { return nil }
        return Decoded(record: decoded.record, entry: .success(.messages(entry)))
    }

    /// Forgets what the database may not know any more. A batch may still be on its way.
    func forget() {
        cache.clear()
        days = []
        sparkplug.forgetInMemory()
    }

    /// The days of the batch that was prepared last: somebody may have dropped their partitions.
    nonisolated(nonsending) func remakePartitions(_ connection: PostgresConnection) async throws(PostgresError) {
        days = []
        try await makePartitions(connection)
    }

    /// No batch is on its way: what the last one said of births is in the database, or was not stored.
    func forgetBirths() {
        sparkplug.clear()
    }

    nonisolated(nonsending) func makePartitions(days wanted: Set<Int32>, connection: PostgresConnection)
        async throws(PostgresError)
    {
        let missing = wanted.subtracting(days).sorted()
        guard !missing.isEmpty else { return }
        try await IdentityStore.partitions(days: missing, on: connection)
        days.formUnion(missing)
    }

    private nonisolated(nonsending) func makePartitions(_ connection: PostgresConnection) async throws(PostgresError) {
        try await makePartitions(days: builder.days, connection: connection)
    }

    // MARK: Ids

    private nonisolated(nonsending) func resolveNames(
        _ records: [Decoded], _ connection: PostgresConnection
    ) async throws(PostgresError) {
        var sources: Set<SourceKey> = []
        var devices: Set<ExactName> = []
        for record in records {
            switch record.entry {
            case .success(.messages(let entry)):
                sources.insert(SourceKey(gateway: entry.gateway, epoch: entry.epoch))
                devices.insert(ExactName(entry.device))
            case .success(.ledger(let gateway, let line)):
                sources.insert(SourceKey(gateway: gateway, epoch: line.epoch))
            case .success(.account(let gateway, let account)):
                sources.insert(SourceKey(gateway: gateway, epoch: account.epoch))
            case .success(.correction(let gateway, let correction)):
                sources.insert(SourceKey(gateway: gateway, epoch: correction.epoch))
            case .failure: break
            }
        }
        let newSources = sources.filter { cache.sources[$0] == nil }
        if !newSources.isEmpty {
            for (key, id) in try await IdentityStore.sources(Array(newSources), on: connection) {
                cache.insert(source: key, id: id)
            }
        }
        let newDevices = devices.filter { cache.devices[$0] == nil }
        guard !newDevices.isEmpty else { return }
        let found = try await IdentityStore.devices(newDevices.map(\.text), on: connection)
        if let known = cache.registryVersion, known != found.registryVersion {
            // Something was deleted since the others were read. They go, and the version with them, so that the next
            // transaction refuses this batch and all of it is read anew.
            cache.registryVersion = -1
        } else {
            cache.registryVersion = found.registryVersion
        }
        for device in found.devices { cache.insert(device: device.name, id: device.id) }
        insert(found.metrics)
    }

    // MARK: Births

    /// What belongs to the nodes and devices of Sparkplug.
    private func sparkplugMessages(_ records: [Decoded]) -> [SparkplugArrival] {
        var arrivals: [SparkplugArrival] = []
        for record in records {
            guard case .success(.messages(let entry)) = record.entry,
                let source = cache.sources[SourceKey(gateway: entry.gateway, epoch: entry.epoch)]
            else { continue }
            for message in entry.messages where SparkplugTopic.isSparkplug(message.topic) {
                guard case .edge(let kind, let entity)? = SparkplugTopic(message.topic),
                    entity.path.count <= RowBuilder.maximumTopic, !entity.path.contains(0)
                else { continue }
                arrivals.append(
                    SparkplugArrival(
                        kind: kind, key: SparkplugKey(gateway: ExactName(entry.gateway), entity: entity),
                        position: GatewayPosition(entry: entry, message: message, source: source),
                        payload: message.payload, time: record.record.appendTime))
            }
        }
        return arrivals
    }

    private func insert(_ metrics: [IdentityStore.Metric]) {
        for metric in metrics {
            cache.insert(
                metric: Array(metric.path.utf8), topic: ByteBuffer(string: metric.topic), ofDevice: metric.device,
                id: metric.id)
        }
    }

    private nonisolated(nonsending) func resolveMetrics(_ connection: PostgresConnection) async throws(PostgresError) {
        let missing = builder.takeMissing()
        if missing.isEmpty { return }
        insert(
            try await IdentityStore.metrics(missing, limit: configuration.metricsPerDevice, on: connection))
    }

    // MARK: Items and rows

    private func addItems(_ records: [Decoded], to batch: inout PreparedBatch) {
        var keys: [DeduplicationKey: Int] = [:]
        func key(_ source: Int32, _ device: String) -> Int {
            let key = DeduplicationKey(source: source, device: ExactName(device))
            if let known = keys[key] { return known }
            keys[key] = batch.keys.count
            batch.keys.append(key)
            return batch.keys.count - 1
        }
        for record in records {
            let partition = record.record.partition
            switch record.entry {
            case .success(.messages(let entry)):
                guard let source = cache.sources[SourceKey(gateway: entry.gateway, epoch: entry.epoch)],
                    let device = cache.devices[ExactName(entry.device)]
                else { preconditionFailure("names are resolved before items are made") }
                batch.items.append(
                    .messages(
                        key: key(source, entry.device), entry, device: device.id, first: batch.messages.count,
                        appendTime: record.record.appendTime, partition: partition))
                let empty = PreparedMessage(
                    measurements: 0..<0, events: 0..<0, rows: 0, time: MessageTime(time: 0, device: nil, flags: []))
                batch.messages.append(contentsOf: repeatElement(empty, count: entry.messages.count))
                note(entry, appendTime: record.record.appendTime, in: &batch)
            case .success(.ledger(let gateway, let line)):
                guard let source = cache.sources[SourceKey(gateway: gateway, epoch: line.epoch)] else {
                    preconditionFailure("names are resolved before items are made")
                }
                batch.items.append(.ledger(key: key(source, line.device), line, partition: partition))
            case .success(.account(let gateway, let account)):
                guard let source = cache.sources[SourceKey(gateway: gateway, epoch: account.epoch)] else {
                    preconditionFailure("names are resolved before items are made")
                }
                batch.items.append(.account(source: source, account))
            case .success(.correction(let gateway, let correction)):
                guard let source = cache.sources[SourceKey(gateway: gateway, epoch: correction.epoch)] else {
                    preconditionFailure("names are resolved before items are made")
                }
                batch.items.append(.correction(source: source, correction))
            case .failure(let error):
                let reference = StoredRecordReference(
                    partition: partition, offset: record.record.offset, key: record.record.record.key,
                    value: record.record.record.value)
                batch.items.append(.undecodable(reference, reason: error.description))
            }
        }
    }

    /// A clock that nobody has set says nothing of a message's age: then the log's time counts.
    private func note(_ entry: DeviceMessages, appendTime: Int64, in batch: inout PreparedBatch) {
        guard let last = entry.messages.last else { return }
        let time = last.isClockSynchronised ? min(last.wallTime, appendTime) : appendTime
        batch.newest[entry.gateway] = max(batch.newest[entry.gateway] ?? .min, time)
    }

    /// - Parameter only: positions of messages, ascending; `nil`: all.
    /// - Returns: positions of messages whose metrics have no ids yet.
    private func build(_ batch: inout PreparedBatch, only: [Int]?, isFinal: Bool) -> [Int] {
        var deferred: [Int] = []
        var wanted = only?.makeIterator()
        var next = wanted?.next()
        for item in batch.items {
            guard case .messages(let key, let entry, _, let first, let appendTime, _) = item else { continue }
            let last = first + entry.messages.count
            if only != nil, next.map({ $0 >= last }) ?? true { continue }
            guard let device = cache.devices[batch.keys[key].device] else { continue }
            for (index, message) in entry.messages.enumerated() {
                let position = first + index
                if only != nil {
                    guard next == position else { continue }
                    next = wanted?.next()
                }
                let context = RowContext(
                    entry: entry, message: message, source: batch.keys[key].source, device: device,
                    appendTime: appendTime)
                if let prepared = builder.build(context, births: sparkplug.births, into: &batch, isFinal: isFinal) {
                    batch.messages[position] = prepared
                } else {
                    deferred.append(position)
                }
            }
        }
        return deferred
    }

    /// Replaces the rows of messages that PostgreSQL refuses by one event each, with the payload and the reason.
    func replace(_ refused: [(message: Int, reason: String)], in batch: inout PreparedBatch) {
        for (position, reason) in refused {
            batch.refused[position] = reason
            for item in batch.items {
                guard case .messages(let key, let entry, let id, let first, let appendTime, _) = item,
                    first <= position, position < first + entry.messages.count
                else { continue }
                let context = RowContext(
                    entry: entry, message: entry.messages[position - first], source: batch.keys[key].source,
                    device: DeviceEntry(id: id), appendTime: appendTime)
                batch.messages[position] = builder.rebuild(
                    context, time: batch.messages[position].time, reason: reason, into: &batch)
            }
        }
    }
}

extension RowContext {
    init(entry: DeviceMessages, message: SyncedMessage, source: Int32, device: DeviceEntry, appendTime: Int64) {
        var flags: RowFlags = []
        if !message.isClockSynchronised { flags.insert(.clockNotSynchronised) }
        if entry.lane == .backlog { flags.insert(.backlog) }
        if message.retain { flags.insert(.retain) }
        if message.duplicate { flags.insert(.duplicate) }
        if message.isWill { flags.insert(.will) }
        self.init(
            gateway: ExactName(entry.gateway), device: device,
            position: GatewayPosition(entry: entry, message: message, source: source), topic: message.topic,
            payload: message.payload, appendTime: appendTime, flags: flags)
    }
}

extension GatewayPosition {
    init(entry: DeviceMessages, message: SyncedMessage, source: Int32) {
        self.init(
            run: source, sequence: Int64(clamping: message.sequence), wallTime: message.wallTime,
            monotonicTime: message.monotonicTime, bootHigh: entry.bootHigh, bootLow: entry.bootLow)
    }
}
