import SyncModel

extension StoredFrame {
    /// The frame without some of its messages, as one frame for each run that is left; `nil` when it cannot be taken
    /// apart.
    ///
    /// - Parameter positions: in the frame as it is stored.
    func without(_ positions: Set<Int>) -> [StoredFrame]? {
        guard let parts = FrameParts(header: header, records: records), parts.count == count else { return nil }
        var frames: [StoredFrame] = []
        var next = 0
        for position in positions.sorted() + [count] {
            if position > next {
                let (header, records) = parts.encoded(next..<position)
                frames.append(
                    StoredFrame(
                        id: id, header: header, records: records, count: position - next, firstRecord: next))
            }
            next = position + 1
        }
        return frames
    }
}

extension [StoredFrame] {
    /// All messages in order; empty when a frame cannot be taken apart, for then splitting leads nowhere.
    package var pieces: [BatchSplit.Piece] {
        let canBeSplit = allSatisfy { FrameParts(header: $0.header, records: $0.records)?.count == $0.count }
        return canBeSplit
            ? map { .init(frame: $0.id, records: $0.firstRecord..<($0.firstRecord + $0.count)) } : []
    }

    /// The frames that hold these messages and no others, without those that are gone; `nil` when one cannot be taken
    /// apart.
    package func parts(_ pieces: [BatchSplit.Piece]) -> [StoredFrame]? {
        var found: [StoredFrame] = []
        for piece in pieces {
            guard
                let frame = first(where: { frame in
                    frame.id == piece.frame && frame.firstRecord <= piece.records.lowerBound
                        && piece.records.upperBound <= frame.firstRecord + frame.count
                })
            else {
                if contains(where: { $0.id == piece.frame }) { return nil }
                continue
            }
            guard piece.records.count < frame.count else {
                found.append(frame)
                continue
            }
            guard let parts = FrameParts(header: frame.header, records: frame.records), parts.count == frame.count
            else {
                return nil
            }
            let range = (piece.records.lowerBound - frame.firstRecord)..<(piece.records.upperBound - frame.firstRecord)
            let (header, records) = parts.encoded(range)
            found.append(
                StoredFrame(
                    id: frame.id, header: header, records: records, count: range.count,
                    firstRecord: piece.records.lowerBound))
        }
        return found
    }
}
