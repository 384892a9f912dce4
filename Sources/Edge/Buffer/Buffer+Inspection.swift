import NIOConcurrencyHelpers
import NIOCore
import SyncModel

/// What an operator asks of a buffer; JSON on the local socket and in `sluice buffer stats`.
package struct BufferStats: Codable, Sendable, Equatable {
    package var gateway: String
    /// That wait for the cloud, as do the bytes.
    package var messages: Int
    package var bytes: Int
    package var maximumBytes: Int
    package var isFull: Bool
    /// When the oldest message that waits arrived, by the gateway's clock; microseconds since 1970.
    package var oldest: Int64?
    /// Rows that hold them, at most: some may have been dropped or answered in between.
    package var frames: Int64
    package var ledgerLines: Int64
    package var epochs: Int64
    package var sessions: Int64
    package var retained: Int64
    /// Of the file, of what in it is free to be used again, and of the write-ahead log.
    package var fileBytes: Int64
    package var freeBytes: Int64
    package var logBytes: Int64
    /// Of the file system, for an unprivileged process.
    package var diskFreePercent: Double?
}

/// Looks into the file for an operator. All of it is bounded by slices, so that a commit waits for one slice at most; what
/// the cloud answers for meanwhile is left out.
extension BufferStore {
    func stats() throws(SQLiteError) -> BufferStats {
        let pageSize = try statements.pageSize.value()
        let fill = shared.fill.withLockedValue { $0 }
        func count(_ table: String) throws(SQLiteError) -> Int64 {
            try connection.integer("SELECT count(*) FROM \(table)") ?? 0
        }
        return BufferStats(
            gateway: gateway, messages: fill.messages, bytes: fill.bytes, maximumBytes: fill.maximumBytes,
            isFull: fill.isFull, oldest: fill.oldestFrame, frames: last.frame - answered.prefix.frame,
            ledgerLines: try count("ledger"), epochs: try count("epoch"), sessions: try count("session"),
            retained: try count("retained"), fileBytes: try statements.pages.value() * pageSize,
            freeBytes: try statements.freePages.value() * pageSize, logBytes: Int64(connection.walPages) * pageSize,
            diskFreePercent: FileSystem.freePercent(at: configuration.path))
    }

    /// Where the newest messages begin.
    ///
    /// - Parameter newest: so many; `nil` is all.
    /// - Returns: the frame before them, and how many messages of the next one are older.
    func start(ofNewest newest: Int?) throws(SQLiteError) -> (after: Int64, skipping: Int) {
        guard let newest else { return (answered.prefix.frame, 0) }
        let statement = try connection.prepare("SELECT id, count FROM frame WHERE id > ? ORDER BY id DESC")
        defer { statement.finalize() }
        statement.bind(1, answered.prefix.frame)
        var found = 0
        while found < newest, try statement.step() {
            guard !answered.contains(statement.integer(0)) else { continue }
            found += Int(statement.integer(1))
            if found >= newest { return (statement.integer(0) - 1, found - newest) }
        }
        return (answered.prefix.frame, 0)
    }

    /// Frames that wait for the cloud, of so many bytes together unless the first alone is larger; none at the end.
    func waitingFrames(after frame: Int64, maximumBytes: Int) throws(SQLiteError) -> [StoredFrame] {
        let statement = try connection.prepare(
            "SELECT id, header, records, count FROM frame WHERE id > ? ORDER BY id")
        defer { statement.finalize() }
        statement.bind(1, max(frame, answered.prefix.frame))
        var found: [StoredFrame] = []
        var bytes = 0
        while bytes < maximumBytes, try statement.step() {
            guard !answered.contains(statement.integer(0)) else { continue }
            let frame = StoredFrame(
                id: statement.integer(0), header: statement.blob(1), records: statement.blob(2),
                count: Int(statement.integer(3)))
            bytes += frame.header.readableBytes + frame.records.readableBytes
            found.append(frame)
        }
        return found
    }
}

extension Buffer {
    package func stats() async throws(BufferError) -> BufferStats {
        try await perform { store throws(SQLiteError) in try store.stats() }
    }

    /// Gives the messages that wait for the cloud as lines of JSON, oldest first, a slice at a time. What is committed
    /// meanwhile belongs to it; what is answered meanwhile may be left out.
    ///
    /// - Parameters:
    ///   - newest: only so many of them.
    ///   - write: called with whole lines; the next slice is read when it returns.
    /// - Returns: how many.
    package func export(
        newest: Int?, write: (ByteBuffer) async throws -> Void
    ) async throws -> Int {
        let slice = readSlice
        var (after, skipping) = try await perform { store throws(SQLiteError) in try store.start(ofNewest: newest) }
        var count = 0
        while newest.map({ count < $0 }) ?? true {
            let from = after
            let frames = try await perform { store throws(SQLiteError) in
                try store.waitingFrames(after: from, maximumBytes: slice)
            }
            guard let end = frames.last?.id else { break }
            // Decoded here: a frame that makes no sense is told, and costs the daemon nothing.
            let lines = try MessageLines(frames, skipping: skipping, maximum: newest.map { $0 - count })
            if lines.count > 0 { try await write(lines.text) }
            (after, skipping, count) = (end, 0, count + lines.count)
        }
        return count
    }

    /// The same for a buffer whose daemon is down: takes the daemon's lock and changes nothing that it could see. Blocks.
    package static func exportOffline(
        path: String, newest: Int?, write: (ByteBuffer) throws -> Void
    ) throws -> Int {
        try offline(path: path) { store in
            var (after, skipping) = try store.attempt { () throws(SQLiteError) in
                try store.start(ofNewest: newest)
            }.get()
            var count = 0
            while true {
                let frames = try store.attempt { () throws(SQLiteError) in
                    try store.waitingFrames(after: after, maximumBytes: store.configuration.readSlice)
                }.get()
                guard let end = frames.last?.id else { return count }
                let lines = try MessageLines(frames, skipping: skipping, maximum: nil)
                if lines.count > 0 { try write(lines.text) }
                (after, skipping, count) = (end, 0, count + lines.count)
            }
        }
    }

    package static func statsOffline(path: String) throws -> BufferStats {
        try offline(path: path) { store in
            try store.attempt { () throws(SQLiteError) in try store.stats() }.get()
        }
    }

    package static func offlineAccounting(path: String) throws -> GatewayAccounting {
        try offline(path: path) { store in
            try store.attempt { () throws(SQLiteError) in try store.accounting() }.get()
        }
    }

    private static func offline<Value>(path: String, _ body: (BufferStore) throws -> Value) throws -> Value {
        guard FileSystem.exists(path) else {
            throw BufferError.unusable(
                "\(path): there is no buffer; name the file that buffer.path of the gateway names")
        }
        let lock = try LockFile.acquire(for: path)
        defer { lock.release() }
        let configuration = Configuration(path: path, gatewayID: "")
        let connection = try Schema.open(configuration, existingOnly: true)
        let store = try BufferStore(configuration, connection: connection, shared: BufferShared())
        defer { store.close() }
        return try body(store)
    }
}
