import CSQLite
import Dispatch
import NIOConcurrencyHelpers
import NIOCore

/// Scans the segments in order and keeps a position a partition. A seek sets the scan back to where that partition lies;
/// records that other partitions have had already are passed over.
final class EmbeddedLogReader: EventLogReader {
    /// Used on `queue` alone.
    private struct Cursor {
        /// `nil` until the partition's `seek`.
        var positions: [Int64?]
        /// Segment to scan, and where in it; `nil` before its first record.
        var segment: Int64 = .max
        var iterator: SegmentIterator?
        /// Offset of the next record of each partition in the segment, valid with `iterator`.
        var offsets: [Int64] = []
        var time: Int64 = 0
        var hasAnnounced = false
        var isClosed = false
    }

    private let queue: DispatchQueue
    private let file: SQLiteFile
    private let partitions: Int
    private let group: String
    private let state: NIOLockedValueBox<EmbeddedLogState>
    /// The lock is never contended: one task at a time uses a reader, and its work runs on `queue`.
    private let cursor: NIOLockedValueBox<Cursor>

    static func open(
        path: String, partitions: Int, group: String, vfs: String?, state: NIOLockedValueBox<EmbeddedLogState>
    ) async throws(EventLogError) -> EmbeddedLogReader {
        let queue = DispatchQueue(label: "sluice.eventlog.reader")
        return try await queue.result { () throws(EventLogError) in
            do throws(SQLiteError) {
                let file = try SQLiteFile(path: path, readOnly: true, vfs: vfs)
                return EmbeddedLogReader(queue: queue, file: file, partitions: partitions, group: group, state: state)
            } catch { throw .unavailable("the event log cannot be opened for reading: \(error)") }
        }.get()
    }

    private init(
        queue: DispatchQueue, file: SQLiteFile, partitions: Int, group: String,
        state: NIOLockedValueBox<EmbeddedLogState>
    ) {
        self.queue = queue
        self.file = file
        self.partitions = partitions
        self.group = group
        self.state = state
        cursor = NIOLockedValueBox(Cursor(positions: Array(repeating: nil, count: partitions)))
    }

    func next(
        maximumRecords: Int, maximumBytes: Int, timeout: Duration
    ) async throws(EventLogError) -> EventLogEvent {
        let deadline = ContinuousClock.now + timeout
        while true {
            let waiter = OneShot()
            let event = try await queue.result { () throws(EventLogError) in
                try self.read(maximumRecords: max(1, maximumRecords), maximumBytes: maximumBytes, waiter: waiter)
            }.get()
            if let event { return event }
            await Self.wait(for: waiter, until: deadline)
            if Task.isCancelled || ContinuousClock.now >= deadline {
                return try await lastLook(maximumRecords: maximumRecords, maximumBytes: maximumBytes)
            }
        }
    }

    /// What came at the very end of the time allowed is still given.
    private func lastLook(maximumRecords: Int, maximumBytes: Int) async throws(EventLogError) -> EventLogEvent {
        try await queue.result { () throws(EventLogError) in
            try self.read(maximumRecords: max(1, maximumRecords), maximumBytes: maximumBytes, waiter: nil) ?? .idle
        }.get()
    }

    func seek(partition: Int32, to offset: Int64) async throws(EventLogError) {
        try await queue.result { () throws(EventLogError) in try self.move(partition, to: offset) }.get()
    }

    /// Nothing to do: the database's offsets decide, and the lag is computed from them and `bounds`.
    func commit(partition: Int32, next: Int64) async {}

    func close() async {
        _ = await queue.result { () throws(EventLogError) in
            let isFirst = self.cursor.withLockedValue { cursor in
                defer { cursor.isClosed = true }
                return !cursor.isClosed
            }
            guard isFirst else { return }
            self.file.close()
            self.state.withLockedValue { $0.groups[self.group] = nil }
        }
    }

    private static func wait(for waiter: OneShot, until deadline: ContinuousClock.Instant) async {
        await withTaskGroup(of: Void.self) { tasks in
            tasks.addTask {
                // A cancelled sleep fires at once, so that a cancelled reader does not wait.
                try? await Task.sleep(until: deadline, clock: .continuous)
                waiter.fire()
            }
            await waiter.wait()
            tasks.cancelAll()
        }
    }

    // MARK: - On the queue

    /// - Returns: `nil` when everything was read; `waiter` then fires with the next commit.
    private func read(
        maximumRecords: Int, maximumBytes: Int, waiter: OneShot?
    ) throws(EventLogError) -> EventLogEvent? {
        var cursor = cursor.withLockedValue { $0 }
        defer { self.cursor.withLockedValue { $0 = cursor } }
        guard !cursor.isClosed else { throw .closed }
        if !cursor.hasAnnounced {
            cursor.hasAnnounced = true
            return .assigned((0..<Int32(partitions)).map { $0 })
        }
        var records: [StoredLogRecord] = []
        var bytes = 0
        while records.count < maximumRecords, bytes < maximumBytes || records.isEmpty {
            do throws(EventLogError) {
                guard try load(&cursor, waiter: records.isEmpty ? waiter : nil) else { break }
                try take(
                    &cursor, into: &records, bytes: &bytes, maximumRecords: maximumRecords, maximumBytes: maximumBytes)
            } catch {
                // What was taken counts as read: give it first, the error comes again with the next call.
                guard records.isEmpty else { break }
                // Told once, until it is sought again: the other partitions go on.
                if case .outOfRange(let partition, _, _, _) = error { cursor.positions[Int(partition)] = nil }
                throw error
            }
        }
        return records.isEmpty ? nil : .records(records)
    }

    /// Makes `cursor.iterator` that of a segment with records to come, unless everything was read.
    private func load(_ cursor: inout Cursor, waiter: OneShot?) throws(EventLogError) -> Bool {
        if cursor.iterator != nil { return true }
        let position = cursor.segment
        let look: Result<(isThere: Bool, first: Int64), EventLogError> = state.withLockedValue { state in
            if let error = state.readError { return .failure(error) }
            if position <= state.lastSegment { return .success((true, state.firstSegment)) }
            if state.phase == .closing { return .failure(.closed) }
            if let waiter { state.waiters[ObjectIdentifier(self)] = waiter }
            return .success((false, state.firstSegment))
        }
        let (isThere, first) = try look.get()
        guard isThere else { return false }
        if cursor.segment < first { try passDeleted(&cursor, first: first) }
        return try fetch(&cursor)
    }

    /// Segments were deleted before they were read: an error for the partitions that had records in them.
    private func passDeleted(_ cursor: inout Cursor, first: Int64) throws(EventLogError) {
        let (starts, next) = state.withLockedValue { ($0.first, $0.next) }
        for (partition, position) in cursor.positions.enumerated() {
            if let position, position < starts[partition] {
                throw .outOfRange(
                    partition: Int32(partition), offset: position, first: starts[partition], next: next[partition])
            }
        }
        cursor.segment = first
    }

    private func fetch(_ cursor: inout Cursor) throws(EventLogError) -> Bool {
        var found: (time: Int64, index: SegmentIndex, data: ByteBuffer)?
        let segment = cursor.segment
        do throws(SQLiteError) {
            try file.run("SELECT time, places, data FROM segment WHERE id = ?1") {
                sqlite3_bind_int64($0, 1, segment)
            } row: { statement in
                if let index = SegmentIndex(columnBytes(statement, 1), partitions: partitions) {
                    found = (sqlite3_column_int64(statement, 0), index, ByteBuffer(bytes: columnBytes(statement, 2)))
                }
                return .stop
            }
        } catch { throw .unavailable("the event log cannot be read: \(error)") }
        guard let found else {
            let first = state.withLockedValue { $0.firstSegment }
            guard segment < first else { throw .other("the event log is damaged at segment \(segment)") }
            // Deleted between the look and the read.
            try passDeleted(&cursor, first: first)
            return try fetch(&cursor)
        }
        cursor.time = found.time
        cursor.offsets = found.index.starts
        cursor.iterator = SegmentIterator(found.data, partitions: partitions)
        return true
    }

    private func take(
        _ cursor: inout Cursor, into records: inout [StoredLogRecord], bytes: inout Int, maximumRecords: Int,
        maximumBytes: Int
    ) throws(EventLogError) {
        guard var iterator = cursor.iterator else { return }
        cursor.iterator = nil
        do throws(SegmentIterator.Damaged) {
            while let place = try iterator.next() {
                let offset = cursor.offsets[place.partition]
                cursor.offsets[place.partition] = offset + 1
                guard let position = cursor.positions[place.partition], offset >= position else { continue }
                let record = try iterator.record(at: place)
                cursor.positions[place.partition] = offset + 1
                records.append(
                    StoredLogRecord(
                        partition: Int32(place.partition), offset: offset, appendTime: cursor.time, record: record))
                bytes += place.body.count
                if records.count >= maximumRecords || bytes >= maximumBytes {
                    cursor.iterator = iterator
                    return
                }
            }
        } catch { throw .other("the event log is damaged at segment \(cursor.segment)") }
        cursor.segment += 1
    }

    private func move(_ partition: Int32, to offset: Int64) throws(EventLogError) {
        guard partition >= 0, Int(partition) < partitions else {
            throw .other("the event log has partitions 0 to \(partitions - 1), not \(partition)")
        }
        let index = Int(partition)
        let look: Result<(segments: ClosedRange<Int64>?, first: Int64, next: Int64), EventLogError> =
            state.withLockedValue { state in
                if let error = state.readError { return .failure(error) }
                let segments =
                    state.lastSegment >= state.firstSegment ? state.firstSegment...state.lastSegment : nil
                return .success((segments, state.first[index], state.next[index]))
            }
        let (segments, first, next) = try look.get()
        guard (first...next).contains(offset) else {
            throw .outOfRange(partition: partition, offset: offset, first: first, next: next)
        }
        let segment = try segments.map { range throws(EventLogError) in
            offset == next ? range.upperBound + 1 : try find(index, offset, in: range)
        }
        let isClosed = cursor.withLockedValue { cursor in
            cursor.positions[index] = offset
            cursor.segment = min(cursor.segment, segment ?? 1)
            // The segment that was being read is read again; its records are passed over by position.
            cursor.iterator = nil
            return cursor.isClosed
        }
        if isClosed { throw .closed }
    }

    /// The last segment whose first offset of the partition is not beyond `offset`.
    private func find(_ partition: Int, _ offset: Int64, in range: ClosedRange<Int64>) throws(EventLogError) -> Int64 {
        var low = range.lowerBound
        var high = range.upperBound
        while low < high {
            let middle = low + (high - low + 1) / 2
            // A segment that was deleted meanwhile lies before what is sought.
            if let start = try start(of: partition, in: middle), start > offset {
                high = middle - 1
            } else {
                low = middle
            }
        }
        return low
    }

    private func start(of partition: Int, in segment: Int64) throws(EventLogError) -> Int64? {
        var start: Int64?
        do throws(SQLiteError) {
            try file.run("SELECT places FROM segment WHERE id = ?1") {
                sqlite3_bind_int64($0, 1, segment)
            } row: { statement in
                start = SegmentIndex.start(of: partition, in: columnBytes(statement, 0), partitions: partitions)
                return .stop
            }
        } catch { throw .unavailable("the event log cannot be read: \(error)") }
        return start
    }
}
