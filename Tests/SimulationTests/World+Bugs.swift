import NIOCore
import SyncModel

@testable import Buffer

/// Bugs that reach into the file.
extension World {
    /// Some frame is gone that nobody has yet asked for.
    func dropSilently(_ edge: Edge) {
        guard !hasPlanted, edge.failedCommits == 0, edge.store.last.frame > edge.store.answered.end.frame + 1,
            edge.store.openCuts.isEmpty
        else { return }
        hasPlanted = true
        note("a frame is dropped without a line")
        _ = edge.store.attempt { () throws(SQLiteError) in
            try edge.store.connection.execute(
                "DELETE FROM frame WHERE id = \(edge.store.answered.end.frame + 1)")
        }
    }

    /// Every frame that a salvage has carried over says another sequence.
    func renumber(_ store: BufferStore) {
        _ = store.attempt { () throws(SQLiteError) in
            let (frames, _) = try store.frames(from: 1, through: .max, maximumBytes: .max)
            let totals = try store.connection.prepare("SELECT total_messages FROM frame WHERE id = ?")
            let update = try store.connection.prepare("UPDATE frame SET header = ?, checksum = ? WHERE id = ?")
            defer {
                totals.finalize()
                update.finalize()
            }
            for stored in frames {
                var encoded = stored.header
                encoded.writeImmutableBuffer(stored.records)
                guard let frame = try? Frame.decode(encoded) else { continue }
                var header = ByteBuffer()
                FrameHeader.encode(
                    epoch: frame.epoch, firstSequence: frame.firstSequence + 1, clock: frame.clock, into: &header)
                for device in frame.devices { FrameHeader.encode(device, into: &header) }
                totals.bind(1, stored.id)
                let total = try totals.value()
                update.bind(1, header)
                update.bind(
                    2,
                    FrameChecksum.of(
                        id: stored.id, totalMessages: total, header: header, records: stored.records))
                update.bind(3, stored.id)
                try update.run()
            }
        }
    }

    /// Zeros or wrong bits come over the database file, its log or what a salvage builds while the power is off.
    func rot() {
        for _ in 0...Int.random(in: 0..<3, using: &random) {
            let names = ["", "", "-wal", ".rebuild"]
            rot("buffer.db" + names[Int.random(in: 0..<names.count, using: &random)])
        }
    }

    private func rot(_ name: String) {
        guard var bytes = disk.image[name], bytes.count > 4_096 else { return }
        isDamaged = true
        hasRottenLog = hasRottenLog || name == "buffer.db-wal"
        let first = Int.random(in: 100..<bytes.count, using: &random)
        if Bool.random(using: &random) {
            bytes[first] ^= 1 << UInt8.random(in: 0..<8, using: &random)
        } else {
            let end = min(bytes.count, first + Int.random(in: 1...4_096, using: &random))
            for index in first..<end { bytes[index] = 0 }
        }
        disk.image[name] = bytes
        note("bytes at \(first) of \(name) are wrong")
    }
}
