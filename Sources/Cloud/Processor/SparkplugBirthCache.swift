import Sparkplug

/// Births that this processor knows: of nodes and devices that it has met lately, those of the database and those that are
/// being stored; and what they say, as far as data needed it. What is not here is read when a batch needs it, so the cost
/// follows the batch.
struct SparkplugBirthCache: Sendable {
    struct Entry: Sendable {
        var births = SparkplugBirths()
        /// As the database has it, microseconds since 1970; `nil`: it does not know the node or device.
        var usedAt: Int64?
        /// The largest sequence of the data that was read by each birth, so that a birth which comes late can be told from
        /// one that comes in time.
        fileprivate var newestRead: [Reader: Int64] = [:]
        fileprivate var lastBatch: UInt64 = 0

        fileprivate var weight: Int { SparkplugBirthCache.weightOfEntry + births.count + newestRead.count }

        /// By which birth of its own run a message was read; without a sequence, by none of it.
        fileprivate struct Reader: Hashable {
            var run: Int32
            var sequence: Int64?
        }

        fileprivate func reader(at position: GatewayPosition) -> (birth: SparkplugBirth?, reader: Reader) {
            let birth = births.birth(at: position)
            let isOfRun = birth?.position.run == position.run
            return (birth, Reader(run: position.run, sequence: isOfRun ? birth?.position.sequence : nil))
        }
    }

    enum Learned {
        case known
        case new
        /// Data after it was read by a birth that says something else.
        case newButLate
    }

    private struct Loaded: Sendable {
        var definition: SparkplugDefinition
        var lastBatch: UInt64

        var weight: Int { SparkplugBirthCache.weightOfEntry + definition.metrics.count }
    }

    /// The database is told at most this often that a node or device is in use; microseconds.
    static let useInterval: Int64 = 3_600_000_000
    /// In metrics: a name and an empty table.
    private static let weightOfEntry = 8
    /// More than there are births; beyond, it begins anew.
    private static let maximumReaders = 512

    private let maximumWeight: Int
    private var entries: [SparkplugKey: Entry] = [:]
    /// Machines of one make say the same: what they say is here once.
    private var definitions: [SparkplugDigest: Loaded] = [:]
    private var batch: UInt64 = 0
    /// About the number of metrics in memory.
    private(set) var weight = 0

    init(maximumWeight: Int) { self.maximumWeight = maximumWeight }

    var count: Int { entries.count }

    /// Between batches only: what was not used for longest goes, down to three quarters.
    mutating func startBatch() {
        batch += 1
        guard weight > maximumWeight else { return }
        enum Item {
            case entry(SparkplugKey)
            case definition(SparkplugDigest)
        }
        var items = entries.map { (lastBatch: $0.value.lastBatch, item: Item.entry($0.key)) }
        items += definitions.map { (lastBatch: $0.value.lastBatch, item: Item.definition($0.key)) }
        items.sort { $0.lastBatch < $1.lastBatch }
        for (_, item) in items {
            if weight <= maximumWeight / 4 * 3 { break }
            switch item {
            case .entry(let key): weight -= entries.removeValue(forKey: key)?.weight ?? 0
            case .definition(let digest): weight -= definitions.removeValue(forKey: digest)?.weight ?? 0
            }
        }
    }

    mutating func clear() {
        entries = [:]
        definitions = [:]
        weight = 0
    }

    // MARK: Definitions

    mutating func insert(_ definition: SparkplugDefinition) {
        if use(definition.digest) { return }
        let loaded = Loaded(definition: definition, lastBatch: batch)
        weight += loaded.weight
        definitions[definition.digest] = loaded
    }

    func knows(_ digest: SparkplugDigest) -> Bool { definitions[digest] != nil }

    /// - Returns: whether it is here; it is then in use by this batch.
    @discardableResult
    private mutating func use(_ digest: SparkplugDigest) -> Bool {
        guard let index = definitions.index(forKey: digest) else { return false }
        definitions.values[index].lastBatch = batch
        return true
    }

    // MARK: Births

    /// - Returns: whether it is here; it is then in use by this batch.
    mutating func use(_ key: SparkplugKey) -> Bool {
        guard let index = entries.index(forKey: key) else { return false }
        entries.values[index].lastBatch = batch
        return true
    }

    /// As it is stored; empty where nothing is.
    mutating func insert(_ key: SparkplugKey, _ entry: Entry) {
        let batch = batch
        update(key) { known in
            let newestRead = known.newestRead
            known = entry
            known.newestRead = newestRead
            known.lastBatch = batch
        }
    }

    func birth(of key: SparkplugKey, at position: GatewayPosition) -> SparkplugBirth? {
        entries[key]?.births.birth(at: position)
    }

    func definition(of key: SparkplugKey, at position: GatewayPosition) -> SparkplugDefinition? {
        birth(of: key, at: position).flatMap { definitions[$0.digest]?.definition }
    }

    /// Data that is being read now.
    mutating func read(_ key: SparkplugKey, at positions: [GatewayPosition]) {
        guard !positions.isEmpty, entries[key] != nil else { return }
        var used: Set<SparkplugDigest> = []
        update(key) { entry in
            for position in positions {
                let (birth, reader) = entry.reader(at: position)
                if let birth { used.insert(birth.digest) }
                entry.newestRead[reader] = max(entry.newestRead[reader] ?? .min, position.sequence)
            }
            if entry.newestRead.count > Self.maximumReaders { entry.newestRead = [:] }
        }
        for digest in used { use(digest) }
    }

    /// - Parameter time: when the log took it, which is when the database is told.
    mutating func learn(_ told: SparkplugTold, time: Int64) -> Learned {
        insert(told.definition)
        let position = told.birth.position
        let batch = batch
        return update(told.key) { entry in
            entry.lastBatch = batch
            let (before, reader) = entry.reader(at: position)
            guard entry.births.learn(told.birth) else { return .known }
            entry.usedAt = max(entry.usedAt ?? .min, time)
            guard let newest = entry.newestRead[reader], newest > position.sequence else { return .new }
            // From here on what was read is behind this birth.
            entry.newestRead[reader] = position.sequence - 1
            entry.newestRead[.init(run: position.run, sequence: position.sequence)] = newest
            return before?.digest == told.birth.digest ? .new : .newButLate
        }
    }

    /// - Returns: whether the database's word of its last use is old.
    mutating func isUseDue(_ key: SparkplugKey, time: Int64) -> Bool {
        guard let usedAt = entries[key]?.usedAt, time &- usedAt > Self.useInterval else { return false }
        entries[key]?.usedAt = time
        return true
    }

    mutating func makeRoom(of key: SparkplugKey) -> SparkplugBirths.Removed {
        guard entries[key] != nil else { return .init() }
        return update(key) { $0.births.makeRoom() }
    }

    private mutating func update<Value>(_ key: SparkplugKey, _ body: (inout Entry) -> Value) -> Value {
        // Out of the table, so that it is changed in place.
        var entry = entries.removeValue(forKey: key)
        weight -= entry?.weight ?? 0
        var changed = entry.take() ?? Entry()
        let value = body(&changed)
        weight += changed.weight
        entries[key] = changed
        return value
    }
}
