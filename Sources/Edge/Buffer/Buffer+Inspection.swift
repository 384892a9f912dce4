import NIOConcurrencyHelpers
import NIOCore
import SyncModel

/// What an operator asks of a buffer; JSON on the local socket and in `sluice buffer stats`.
package struct BufferStats: Codable, Sendable, Equatable {
    package var gateway: String
    /// That wait for the cloud, as do the bytes.
    package var messages: Int
    package var bytes: Int
    /// The part of them that waits for the end of a window.
    package var heldMessages: Int
    package var heldBytes: Int
    package var maximumBytes: Int
    package var isFull: Bool
    /// When the oldest message that waits arrived, by the gateway's clock; microseconds since 1970.
    package var oldest: Int64?
    /// Rows that hold them, without the part that waits for the end of a window.
    package var frames: Int64
    package var ledgerLines: Int64
    /// That are kept: messages which the cloud refuses.
    package var deadLetters: Int64
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
    /// Rows that one slice counts.
    private static let countedRows = 10_000

    /// - Returns: how many of the next rows wait for the cloud, and the last of them; `nil` where there are no others.
    func countWaiting(after frame: Int64) throws(SQLiteError) -> (count: Int64, last: Int64?) {
        let statement = try connection.prepare(
            "SELECT id FROM frame WHERE id > ? ORDER BY id LIMIT \(Self.countedRows)")
        defer { statement.finalize() }
        statement.bind(1, max(frame, answered.prefix.frame))
        var (count, rows, last): (Int64, Int, Int64) = (0, 0, frame)
        while try statement.step() {
            (rows, last) = (rows + 1, statement.integer(0))
            if !answered.contains(last) { count += 1 }
        }
        return (count, rows == Self.countedRows ? last : nil)
    }

    /// - Parameter frames: as counted.
    func stats(frames: Int64) throws(SQLiteError) -> BufferStats {
        let pageSize = try statements.pageSize.value()
        let fill = shared.fill.withLockedValue { $0 }
        func count(_ table: String) throws(SQLiteError) -> Int64 {
            try connection.integer("SELECT count(*) FROM \(table)") ?? 0
        }
        return BufferStats(
            gateway: gateway, messages: fill.messages, bytes: fill.bytes, heldMessages: fill.held.messages,
            heldBytes: fill.held.bytes, maximumBytes: fill.maximumBytes,
            isFull: fill.isFull, oldest: fill.oldestFrame, frames: frames,
            ledgerLines: try count("ledger"), deadLetters: try count("dead_letter"), epochs: try count("epoch"),
            sessions: try count("session"),
            retained: try count("retained"), fileBytes: try statements.pages.value() * pageSize,
            freeBytes: try statements.freePages.value() * pageSize, logBytes: Int64(connection.walPages) * pageSize,
            diskFreePercent: configuration.space.freePercent(configuration.path))
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
        var frames: Int64 = 0
        var next: Int64? = 0
        while let after = next {
            let slice = try await perform { store throws(SQLiteError) in try store.countWaiting(after: after) }
            (frames, next) = (frames + slice.count, slice.last)
        }
        let counted = frames
        return try await perform { store throws(SQLiteError) in try store.stats(frames: counted) }
    }

    package static func statsOffline(path: String) throws -> BufferStats {
        try offline(path: path) { store in
            try store.attempt { () throws(SQLiteError) in
                var frames: Int64 = 0
                var next: Int64? = 0
                while let after = next {
                    let slice = try store.countWaiting(after: after)
                    (frames, next) = (frames + slice.count, slice.last)
                }
                return try store.stats(frames: frames)
            }.get()
        }
    }

    package static func offlineAccounting(path: String) throws -> GatewayAccounting {
        try offline(path: path) { store in
            try store.attempt { () throws(SQLiteError) in try store.accounting() }.get()
        }
    }

    /// Under the daemon's lock, and without any change: what a damaged log has beyond the damage is left for the salvage.
    static func offline<Value>(path: String, _ body: (BufferStore) throws -> Value) throws -> Value {
        guard FileSystem.exists(path) else {
            throw BufferError.unusable(
                "\(path): there is no buffer; name the file that buffer.path of the gateway names")
        }
        let path = try FileSystem.resolved(path)
        let hasBeenUsed = FileSystem.exists(LockFile.path(for: path))
        let finding = StructureCheck.finding(at: path, pageSize: Configuration(path: path, gatewayID: "").pageSize)
        if let finding, !hasBeenUsed {
            throw BufferError.unusable("\(path) is no buffer (\(finding.damage)): name the file that buffer.path names")
        }
        let lock = try LockFile.acquire(for: path)
        defer { lock.release(isClean: false) }
        var configuration = Configuration(path: path, gatewayID: "")
        configuration.reserveBytes = 0
        configuration.beforeFileChange = { () throws(BufferError) in throw .io("\(path) is only looked at") }
        let damage = SalvageFiles(configuration).mark() == nil ? finding?.damage : "a daemon has marked it"
        if let damage {
            throw BufferError.corrupt(
                "\(path) is damaged (\(damage)): start the daemon, which salvages what is readable")
        }
        let connection = try Schema.open(configuration, for: .inspection)
        let store: BufferStore
        do throws(BufferError) {
            store = try BufferStore(configuration, connection: connection, shared: BufferShared())
        } catch {
            connection.close(checkpointing: false)
            throw error
        }
        defer { store.abandon() }
        return try body(store)
    }
}
