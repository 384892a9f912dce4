import Database
import NIOCore
import Sparkplug

/// A message of a node or device, or a command for one, on its way to be read.
struct SparkplugArrival: Sendable {
    var kind: SparkplugKind
    var key: SparkplugKey
    var position: GatewayPosition
    var payload: ByteBuffer
    /// When the log took it; microseconds since 1970.
    var time: Int64
}

/// Finds what the messages of a batch are read by: births of the batch itself, those in memory, and those of the database.
final class SparkplugResolver {
    /// What one batch may read, in births and metrics.
    private let maximum: Int
    private(set) var births: SparkplugBirthCache
    /// Those that the last batch stores: while it is on its way, the database does not have them yet.
    private var recent: [SparkplugTold] = []

    init(maximum: Int) {
        self.maximum = maximum
        births = SparkplugBirthCache(maximumWeight: maximum)
    }

    /// What a batch has of one node or device.
    private struct Demand {
        var births: [SparkplugTold] = []
        /// All messages, births as well.
        var messages: [(position: GatewayPosition, payload: ByteBuffer)] = []
        /// What is in memory does not do.
        var isOfDatabase = false
        var time: Int64 = .min
    }

    private struct Learned {
        var new: [SparkplugTold] = []
        var late = 0
    }

    func clear() {
        births.clear()
        recent = []
    }

    /// What has been read stays, what the last batch said of births is as it was.
    func forgetInMemory() { births.clear() }

    /// All births of the batch count before any data is read: each has its own place in the gateway's order.
    nonisolated(nonsending) func resolve(
        _ messages: [SparkplugArrival], _ connection: PostgresConnection
    ) async throws(PostgresError) -> SparkplugChanges {
        births.startBatch()
        for told in recent { births.insert(told.definition) }
        let demands = demands(messages)
        var learned: [SparkplugKey: Learned] = [:]
        var requests: [SparkplugStore.Request] = []
        for (key, demand) in demands {
            if !demand.isOfDatabase, births.use(key) {
                learned[key] = learn(demand)
                if !isMissing(key, demand) { continue }
            }
            requests.append(request(key, demand))
        }
        if !requests.isEmpty {
            let found = try await SparkplugStore.read(requests, loaded: births, maximum: maximum, on: connection)
            for definition in found.definitions { births.insert(definition) }
            for (key, entry) in found.entries { births.insert(key, entry) }
            let read = Set(found.entries.lazy.map(\.key))
            for told in recent where read.contains(told.key) {
                _ = births.learn(told, time: demands[told.key]?.time ?? .min)
            }
            for key in read { learned[key] = demands[key].map { learn($0) } }
        }
        return changes(demands, learned)
    }

    func makeRoom(in changes: inout SparkplugChanges) {
        for key in Set(changes.births.map(\.key)) {
            let removed = births.makeRoom(of: key)
            changes.removed += (removed.repeats + removed.oldest).map { (key, $0) }
            changes.forgotten += removed.oldest.count
        }
    }

    private func demands(_ messages: [SparkplugArrival]) -> [SparkplugKey: Demand] {
        var demands: [SparkplugKey: Demand] = [:]
        for message in messages {
            // A command's sender is not the node: it may have another partition than the births, and these be stored
            // by another processor. So commands are read by what the database knows now, if they need it.
            if message.kind.isCommand, !SparkplugMessage.dependsOnBirth(message.payload) { continue }
            var demand = demands.removeValue(forKey: message.key) ?? Demand()
            demand.messages.append((message.position, message.payload))
            demand.isOfDatabase = demand.isOfDatabase || message.kind.isCommand
            demand.time = max(demand.time, message.time)
            if message.kind.isBirth, let definition = SparkplugMessage.definition(ofBirth: message.payload) {
                demand.births.append(
                    SparkplugTold(key: message.key, position: message.position, definition: definition))
            }
            demands[message.key] = demand
        }
        return demands
    }

    private func learn(_ demand: Demand) -> Learned {
        var learned = Learned()
        for told in demand.births {
            switch births.learn(told, time: demand.time) {
            case .known: break
            case .new: learned.new.append(told)
            case .newButLate:
                learned.new.append(told)
                learned.late += 1
            }
        }
        return learned
    }

    /// Whether something of it depends on what a known birth says, which is not in memory.
    private func isMissing(_ key: SparkplugKey, _ demand: Demand) -> Bool {
        demand.messages.contains { isMissing(key, $0.position, $0.payload) }
    }

    private func isMissing(_ key: SparkplugKey, _ position: GatewayPosition, _ payload: ByteBuffer) -> Bool {
        guard let birth = births.birth(of: key, at: position), !births.knows(birth.digest) else { return false }
        return SparkplugMessage.dependsOnBirth(payload)
    }

    private func request(_ key: SparkplugKey, _ demand: Demand) -> SparkplugStore.Request {
        SparkplugStore.Request(
            key: key, births: demand.births.map(\.birth) + recent.filter { $0.key == key }.map(\.birth),
            messages: demand.messages)
    }

    private func changes(
        _ demands: [SparkplugKey: Demand], _ learned: [SparkplugKey: Learned]
    ) -> SparkplugChanges {
        var changes = SparkplugChanges()
        for (key, demand) in demands {
            guard let learned = learned[key] else {
                // Nothing is known of it, not even whether the database has these births: it leaves out what it has.
                changes.births += demand.births
                changes.unresolved += demand.messages.count { SparkplugMessage.dependsOnBirth($0.payload) }
                continue
            }
            changes.births += learned.new
            changes.late += Array(repeating: key, count: learned.late)
            changes.unresolved += demand.messages.count { isMissing(key, $0.position, $0.payload) }
            births.read(key, at: demand.messages.map(\.position))
            if births.isUseDue(key, time: demand.time) { changes.used.append(key) }
        }
        changes.time = demands.values.lazy.map(\.time).max() ?? .min
        recent = changes.births
        return changes
    }
}
