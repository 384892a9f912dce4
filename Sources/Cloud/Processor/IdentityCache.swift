import Glibc
import NIOCore
import SyncModel

/// A name as its bytes: Swift's String takes canonically equivalent texts for equal, PostgreSQL does not, and two
/// devices must never become one.
struct ExactName: Hashable, Sendable {
    var text: String

    init(_ text: String) { self.text = text }

    static func == (a: ExactName, b: ExactName) -> Bool { a.text.utf8.elementsEqual(b.text.utf8) }

    func hash(into hasher: inout Hasher) {
        var copy = text
        copy.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
}

/// One (gateway, epoch).
struct SourceKey: Hashable, Sendable {
    var gateway: ExactName
    var epoch: Epoch

    init(gateway: String, epoch: Epoch) {
        self.gateway = ExactName(gateway)
        self.epoch = epoch
    }
}

/// A metric by name.
struct MetricKey: Hashable, Sendable {
    var device: Int32
    var topic: ExactName
    var path: ExactName
}

/// The metric ids of one topic of a device.
final class TopicMetrics {
    /// Metrics of the last message in their order: devices send the same shape again and again, and comparing bytes is
    /// cheaper than hashing them.
    private var shape: [(path: [UInt8], id: Int32)] = []
    private var ids: [[UInt8]: Int32] = [:]

    /// Appends the leaves' ids.
    ///
    /// - Returns: the paths that have none.
    func ids(
        of leaves: [PayloadFlattener.Leaf], paths: [UInt8], into found: inout [Int32]
    ) -> [Range<Int>] {
        var unknown: [Range<Int>] = []
        // Read once: each access to a property of a class costs a check.
        let shape = self.shape
        paths.withUnsafeBytes { bytes in
            for (position, leaf) in leaves.enumerated() {
                let path = UnsafeRawBufferPointer(rebasing: bytes[leaf.path])
                if position < shape.count, Self.isEqual(shape[position].path, path) {
                    found.append(shape[position].id)
                } else if let id = ids[Array(path)] {
                    found.append(id)
                    remember(Array(path), id, at: position)
                } else {
                    unknown.append(leaf.path)
                }
            }
        }
        return unknown
    }

    private static func isEqual(_ known: [UInt8], _ path: UnsafeRawBufferPointer) -> Bool {
        guard known.count == path.count else { return false }
        guard let start = path.baseAddress, path.count > 0 else { return true }
        // Not empty, so it has an address.
        return known.withUnsafeBytes { memcmp($0.baseAddress!, start, path.count) == 0 }
    }

    private func remember(_ path: [UInt8], _ id: Int32, at position: Int) {
        if position < shape.count {
            shape[position] = (path, id)
        } else if position == shape.count {
            shape.append((path, id))
        }
    }

    func insert(_ path: [UInt8], id: Int32) { ids[path] = id }
}

/// What is known of a device. All of its metrics are known: a path that is not here does not exist (or was made by
/// another processor a moment ago, which the database tells when it is inserted).
final class DeviceEntry {
    let id: Int32
    fileprivate(set) var metricCount = 0
    private var topics: [ByteBuffer: TopicMetrics] = [:]
    private var last: (topic: ByteBuffer, metrics: TopicMetrics)?

    init(id: Int32) { self.id = id }

    func metrics(topic: ByteBuffer) -> TopicMetrics {
        if let last, last.topic == topic { return last.metrics }
        let metrics: TopicMetrics
        if let known = topics[topic] {
            metrics = known
        } else {
            // A copy of its own: a slice would keep its whole batch in memory.
            metrics = TopicMetrics()
            topics[ByteBuffer(bytes: topic.readableBytesView)] = metrics
        }
        last = (ByteBuffer(bytes: topic.readableBytesView), metrics)
        return metrics
    }
}

/// Ids of sources, devices and metrics, filled from the database; only what is committed there is in it. When it is
/// full it is emptied: the database knows everything.
package final class IdentityCache {
    private let maximumMetrics: Int
    private let maximumNames: Int
    private(set) var sources: [SourceKey: Int32] = [:]
    private(set) var devices: [ExactName: DeviceEntry] = [:]
    private var devicesByID: [Int32: DeviceEntry] = [:]
    private var metricCount = 0
    /// Of `registry_version` when the devices were read.
    package var registryVersion: Int64?

    package init(maximumMetrics: Int = 2_000_000, maximumNames: Int = 500_000) {
        self.maximumMetrics = maximumMetrics
        self.maximumNames = maximumNames
    }

    /// Between batches only: entries that a batch uses must not go.
    func makeRoom() {
        if metricCount > maximumMetrics || sources.count + devices.count > maximumNames { clear() }
    }

    package func clear() {
        sources = [:]
        devices = [:]
        devicesByID = [:]
        metricCount = 0
        registryVersion = nil
    }

    func insert(source: SourceKey, id: Int32) { sources[source] = id }

    func insert(device: String, id: Int32) {
        let entry = DeviceEntry(id: id)
        devices[ExactName(device)] = entry
        devicesByID[id] = entry
    }

    /// Nothing where the device is not in the cache (any more).
    func insert(metric path: [UInt8], topic: ByteBuffer, ofDevice device: Int32, id: Int32) {
        guard let entry = devicesByID[device] else { return }
        entry.metrics(topic: topic).insert(path, id: id)
        entry.metricCount += 1
        metricCount += 1
    }
}
