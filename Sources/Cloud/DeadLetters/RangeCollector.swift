import EventLog
import NIOCore

/// Collects the records of the log into whole ranges, in bounded memory. A range that the log does not have whole yet
/// stays in the log: an object is only ever written whole, so that all who write it write the same.
package struct RangeCollector: Sendable {
    package enum Effect: Sendable, Equatable {
        case none
        /// All records of the range that the log has.
        case complete(DeadLetterRange, [StoredLogRecord])
        /// Nothing more is collected of the partition: it stays in the log.
        case blocked(Int32, reason: String)
    }

    package struct Seek: Sendable, Equatable {
        package var partition: Int32
        package var offset: Int64

        package init(partition: Int32, offset: Int64) {
            self.partition = partition
            self.offset = offset
        }
    }

    private struct Partial: Sendable {
        var range: DeadLetterRange
        /// Of the first record that belongs to it.
        var first: Int64
        var records: [StoredLogRecord] = []
        var bytes = 0
        /// Its records were let go to make room: they are read again.
        var isBehind = false

        var next: Int64 { first + Int64(records.count) }

        mutating func letGo() {
            records = []
            bytes = 0
            isBehind = true
        }
    }

    private let maximumRangeBytes: Int
    private let maximumBytes: Int
    private var partials: [Int32: Partial] = [:]
    private var bytes = 0

    /// - Parameter maximumRangeBytes: of keys and values of one range.
    ///
    /// Memory is at most twice that, and one record.
    package init(maximumRangeBytes: Int = DeadLetterObject.maximumRecordBytes) {
        self.maximumRangeBytes = maximumRangeBytes
        maximumBytes = 2 * maximumRangeBytes
    }

    /// Begins with the range in which the next offset lies.
    ///
    /// - Parameter logFirst: the first offset that the log still has.
    /// - Returns: where to read from; `nil` where the log has forgotten records that nobody has stored.
    package mutating func begin(partition: Int32, next: Int64, logFirst: Int64) -> Seek? {
        remove(partition)
        guard logFirst <= next else { return nil }
        let range = DeadLetterRange(partition: partition, containing: next)
        let first = max(range.start, logFirst)
        partials[partition] = Partial(range: range, first: first)
        return Seek(partition: partition, offset: first)
    }

    package mutating func remove(_ partition: Int32) {
        if let partial = partials.removeValue(forKey: partition) { bytes -= partial.bytes }
    }

    package mutating func add(_ record: StoredLogRecord) -> Effect {
        let partition = record.partition
        guard var partial = partials[partition], !partial.isBehind, record.offset >= partial.next else { return .none }
        guard record.offset == partial.next else {
            // Before its first record these are what was on the way when the reader was sent back.
            if partial.records.isEmpty { return .none }
            remove(partition)
            return .blocked(partition, reason: "offset \(partial.next) is missing in the log")
        }
        let size = record.size
        partial.records.append(record)
        partial.bytes += size
        bytes += size
        partials[partition] = partial
        if partial.bytes > maximumRangeBytes {
            remove(partition)
            return .blocked(
                partition,
                reason: "the range from offset \(partial.range.start) has more than \(maximumRangeBytes) bytes")
        }
        if partial.next == partial.range.end {
            remove(partition)
            let end = partial.range.end
            partials[partition] = Partial(
                range: DeadLetterRange(partition: partition, containing: end), first: end)
            return .complete(partial.range, partial.records)
        }
        if bytes > maximumBytes { makeRoom() }
        return .none
    }

    /// The fullest goes on, so that there is always one that ends.
    private mutating func makeRoom() {
        guard let fullest = partials.max(by: { $0.value.bytes < $1.value.bytes })?.key else { return }
        for partition in partials.keys where partition != fullest { partials[partition]?.letGo() }
        bytes = partials[fullest]?.bytes ?? 0
    }

    /// Called when a range is complete, or when the log has nothing more: what was let go is to be read again.
    ///
    /// - Parameter isAtEnd: what is held cannot become whole now, and makes room.
    package mutating func takeSeeks(isAtEnd: Bool) -> [Seek] {
        let behind = partials.filter(\.value.isBehind).keys.sorted()
        if behind.isEmpty { return [] }
        if isAtEnd {
            for partition in partials.keys where partials[partition]?.records.isEmpty == false {
                partials[partition]?.letGo()
            }
            bytes = 0
        }
        return behind.compactMap { partition in
            partials[partition]?.isBehind = false
            return partials[partition].map { Seek(partition: partition, offset: $0.first) }
        }
    }
}

extension StoredLogRecord {
    fileprivate var size: Int {
        record.headers.reduce(record.key.utf8.count + record.value.readableBytes) {
            $0 + $1.name.utf8.count + $1.value.utf8.count
        }
    }
}
