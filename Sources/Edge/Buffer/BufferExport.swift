import NIOCore

/// What an operator may have as lines of JSON.
package enum BufferContents: Sendable {
    /// That wait for the cloud, oldest first.
    ///
    /// - Parameter newest: only so many of them; `nil` is all.
    case messages(newest: Int?)
    /// That the cloud refuses, oldest first.
    case deadLetters
}

/// An export on its way. A slice of rows is read in one job of the store's, so that a commit waits for one slice at most;
/// who asked makes lines of it: a frame that makes no sense is told, and costs the daemon nothing.
struct BufferExport: Sendable {
    private enum Slice {
        case frames([StoredFrame])
        case letters([DeadLetter])
    }

    /// Of lines.
    private(set) var count = 0
    private let contents: BufferContents
    /// The row that was read last.
    private var after: Int64?
    /// Messages of the next frame that are left out.
    private var skipping = 0
    private var slice = Slice.frames([])

    init(_ contents: BufferContents) { self.contents = contents }

    /// - Returns: with the next slice; `nil` at the end.
    func advanced(in store: BufferStore) throws(SQLiteError) -> BufferExport? {
        var next = self
        switch contents {
        case .messages(let newest):
            if let newest, count >= newest { return nil }
            if after == nil { (next.after, next.skipping) = try store.start(ofNewest: newest) }
            let frames = try store.waitingFrames(
                after: next.after ?? 0, maximumBytes: store.configuration.readSlice)
            guard let last = frames.last else { return nil }
            (next.slice, next.after) = (.frames(frames), last.id)
        case .deadLetters:
            let (letters, last) = try store.deadLetters(
                after: after ?? 0, maximumBytes: store.configuration.readSlice)
            guard !letters.isEmpty else { return nil }
            (next.slice, next.after) = (.letters(letters), last)
        }
        return next
    }

    /// Of the slice that was read last.
    mutating func lines() throws(BufferError) -> ByteBuffer {
        let lines: MessageLines
        switch (slice, contents) {
        case (.frames(let frames), .messages(let newest?)):
            lines = try MessageLines(frames, skipping: skipping, maximum: newest - count)
        case (.frames(let frames), _): lines = try MessageLines(frames, maximum: nil)
        case (.letters(let letters), _): lines = MessageLines(letters)
        }
        count += lines.count
        skipping = 0
        return lines.text
    }
}

extension Buffer {
    /// What is committed meanwhile belongs to it; what is answered meanwhile may be left out.
    ///
    /// - Parameter write: called with whole lines; the next slice is read when it returns.
    /// - Returns: how many.
    package func export(
        _ contents: BufferContents, write: (ByteBuffer) async throws -> Void
    ) async throws -> Int {
        var export = BufferExport(contents)
        while true {
            let before = export
            let next = try await perform { store throws(SQLiteError) in try before.advanced(in: store) }
            guard let next else { return export.count }
            export = next
            let lines = try export.lines()
            if lines.readableBytes > 0 { try await write(lines) }
        }
    }

    /// The same for a buffer whose daemon is down: takes the daemon's lock and changes nothing that it could see. Blocks.
    package static func exportOffline(
        _ contents: BufferContents, path: String, write: (ByteBuffer) throws -> Void
    ) throws -> Int {
        try offline(path: path) { store in
            var export = BufferExport(contents)
            while let next = try store.attempt({ () throws(SQLiteError) in try export.advanced(in: store) }).get() {
                export = next
                let lines = try export.lines()
                if lines.readableBytes > 0 { try write(lines) }
            }
            return export.count
        }
    }
}
