import NIOCore

/// A record to be appended. The key decides the partition (murmur2, as Kafka's Java client).
package struct LogRecord: Sendable, Equatable {
    package var key: String
    package var value: ByteBuffer
    /// Headers travel beside the value (trace context).
    package var headers: [Header]

    package struct Header: Sendable, Equatable {
        package var name: String
        package var value: String

        package init(name: String, value: String) {
            self.name = name
            self.value = value
        }
    }

    package init(key: String, value: ByteBuffer, headers: [Header] = []) {
        self.key = key
        self.value = value
        self.headers = headers
    }
}

/// A record as it stands in the log.
package struct StoredLogRecord: Sendable, Equatable {
    package var partition: Int32
    package var offset: Int64
    /// Microseconds since 1970, the log's own append time.
    package var appendTime: Int64
    package var record: LogRecord

    package init(partition: Int32, offset: Int64, appendTime: Int64, record: LogRecord) {
        self.partition = partition
        self.offset = offset
        self.appendTime = appendTime
        self.record = record
    }
}

/// First retained and next offset of a partition.
package struct PartitionBounds: Sendable, Equatable {
    package var partition: Int32
    package var first: Int64
    package var next: Int64

    package init(partition: Int32, first: Int64, next: Int64) {
        self.partition = partition
        self.first = first
        self.next = next
    }
}

package enum EventLogError: Error, Sendable, Equatable {
    /// The producer's queue or the disk is full: try again after a while (429 to the gateway).
    case busy(String)
    /// The log cannot be reached or did not answer in time.
    case unavailable(String)
    /// An offset outside the log, or another log than the one whose offsets are known: stop with an alarm.
    case outOfRange(partition: Int32, offset: Int64, first: Int64, next: Int64)
    case recordTooLarge(bytes: Int)
    case closed
    case other(String)
}

extension EventLogError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .busy(let why), .unavailable(let why), .other(let why): why
        case .outOfRange(let partition, let offset, let first, let next):
            "partition \(partition) has no offset \(offset): it holds \(first) to \(next)"
        case .recordTooLarge(let bytes): "a record of \(bytes) bytes is too large for the event log"
        case .closed: "the event log is closed"
        }
    }
}

/// Durable, partitioned and ordered by key; at least once. Implementations: `EmbeddedEventLog` and `KafkaEventLog`.
package protocol EventLog: Sendable {
    /// Kafka's cluster and topic id, or the embedded file's uuid: when it changes, known offsets mean nothing.
    func incarnation() async throws(EventLogError) -> String
    func partitionCount() async throws(EventLogError) -> Int32
    /// Returns only when every record is durable; on an error any subset may be.
    func append(_ records: [LogRecord]) async throws(EventLogError)
    func bounds() async throws(EventLogError) -> [PartitionBounds]
    /// Joins the group: partitions come and go as events of the reader.
    func makeReader(group: String, member: String) async throws(EventLogError) -> any EventLogReader
    func close() async
}

package enum EventLogEvent: Sendable, Equatable {
    /// The reader must be told where to start each partition (`seek`) before records of it come.
    case assigned([Int32])
    case revoked([Int32])
    case records([StoredLogRecord])
    /// Nothing came within the time allowed.
    case idle
}

/// One member of a consumer group; used by one task at a time.
package protocol EventLogReader: Sendable {
    func next(maximumRecords: Int, maximumBytes: Int, timeout: Duration) async throws(EventLogError) -> EventLogEvent
    func seek(partition: Int32, to offset: Int64) async throws(EventLogError)
    /// For the lag display only: the database's offsets decide.
    func commit(partition: Int32, next: Int64) async
    func close() async
    /// Closes, and lets the other members have the partitions at once: for a member that will not come back soon.
    func leave() async
}

extension EventLogReader {
    package func leave() async { await close() }
}
