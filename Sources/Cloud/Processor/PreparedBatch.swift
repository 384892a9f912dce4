import Database
import NIOCore
import SyncModel

/// Where deduplication keeps its state: one row of `deduplication`.
struct DeduplicationKey: Hashable, Sendable {
    var source: Int32
    var device: ExactName
}

/// How far a batch moves one partition.
struct PartitionAdvance: Sendable, Equatable {
    var partition: Int32
    /// Fencing epoch under which this processor claimed it.
    var epoch: Int64
    var from: Int64
    var to: Int64
    /// How far this processor's attempts under this epoch have reached: one whose answer was lost may be committed.
    var farthest: Int64
    /// When the last of these records was appended, microseconds since 1970.
    var newest: Int64 = 0
}

/// The rows of one message: byte ranges of the batch's copies, both empty only while it is being built.
struct PreparedMessage: Sendable {
    var measurements: Range<Int>
    var events: Range<Int>
    var rows: Int32
    var time: MessageTime
}

/// What becomes of a message's time.
struct MessageTime: Sendable, Equatable {
    /// Microseconds since 1970, as is `device`.
    var time: Int64
    var device: Int64?
    var flags: RowFlags
}

/// One thing of the log that the transaction applies, in the log's order.
enum PreparedItem: Sendable {
    /// `first` is the position of its first message in `PreparedBatch.messages`.
    case messages(key: Int, DeviceMessages, device: Int32, first: Int, appendTime: Int64, partition: Int32)
    case ledger(key: Int, LedgerLine, partition: Int32)
    case account(source: Int32, EpochAccount)
    case correction(source: Int32, ClockCorrection)
    case undecodable(StoredRecordReference, reason: String)
}

/// A record that could not be decoded, as it stands in the log.
struct StoredRecordReference: Sendable {
    var partition: Int32
    var offset: Int64
    var key: String
    var value: ByteBuffer
}

/// What a batch's transaction compares and sets first, so that it is stored once, and by nobody who lost the right to it.
enum BatchClaim: Sendable, Equatable {
    /// The partitions' offsets move (`PreparedBatch.advances`).
    case offsets
    /// The same, and what lies between is noted as sampled: the batch has a part of its messages.
    case sample
    /// A dead letter, by its id, is replayed.
    case deadLetter(Int64)
    /// Sampled ranges of the log are stored whole.
    case complement([SampleRange])
}

/// Offsets of which only a sample is stored.
struct SampleRange: Sendable, Equatable {
    var partition: Int32
    var first: Int64
    var next: Int64
}

/// Everything of one poll, ready to be stored in one transaction; can be stored again after a failure as it is.
struct PreparedBatch: Sendable {
    var claim = BatchClaim.offsets
    var advances: [PartitionAdvance] = []
    var items: [PreparedItem] = []
    var keys: [DeduplicationKey] = []
    var messages: [PreparedMessage] = []
    var measurements = BinaryCopy()
    var events = BinaryCopy()
    /// Since 1970, UTC: the hours in which rows lie.
    var hours: Set<Int64> = []
    var registryVersion: Int64 = 0
    var incarnation = ""
    /// Newest gateway time of each gateway in microseconds since 1970, for the age metric.
    var newest: [String: Int64] = [:]
    var sparkplug = SparkplugChanges()
    /// Why PostgreSQL refuses the rows of these messages, by their positions.
    var refused: [Int: String] = [:]

    /// For reports of trouble that is no one partition's.
    var firstPartition: Int32 {
        if case .complement(let ranges) = claim, let first = ranges.first { return first.partition }
        return advances.first?.partition ?? -1
    }

    /// Where an item with this position in `keys` came from.
    func partition(ofKey wanted: Int) -> Int32 {
        for item in items {
            switch item {
            case .messages(let key, _, _, _, _, let partition) where key == wanted: return partition
            case .ledger(let key, _, let partition) where key == wanted: return partition
            default: continue
            }
        }
        preconditionFailure("each key is an item's")
    }

    /// The W3C `traceparent` of the message at this position of `messages`.
    func trace(ofMessage position: Int) -> String? {
        for case .messages(_, let entry, _, let first, _, _) in items
        where first <= position && position < first + entry.messages.count {
            return entry.messages[position - first].traceparent(epoch: entry.epoch)
        }
        return nil
    }

    /// Byte ranges of the rows of the chosen messages, neighbours joined.
    static func slices(_ ranges: some Sequence<Range<Int>>) -> [Range<Int>] {
        var slices: [Range<Int>] = []
        for range in ranges where !range.isEmpty {
            if let last = slices.last, last.upperBound == range.lowerBound {
                slices[slices.count - 1] = last.lowerBound..<range.upperBound
            } else {
                slices.append(range)
            }
        }
        return slices
    }
}
