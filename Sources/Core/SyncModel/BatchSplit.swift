/// A batch that is sent in parts: because the cloud refuses it, to find the messages for which it does, by halving, first by
/// frames, then within a frame; or because the link does not take all of it within the time of a request.
///
/// A status that hits everything must bury nothing. So the batch's accounts and ledger lines go first, without messages:
/// where they are refused, the messages are not what is wrong. And a message that is refused alone is only suspected until
/// another part of the batch was accepted; where none is, one message at most is buried before someone is called.
package struct BatchSplit: Sendable, Equatable {
    /// Messages of one stored frame.
    package struct Piece: Sendable, Equatable {
        package var frame: Int64
        /// Positions in the frame as it is stored.
        package var records: Range<Int>

        package init(frame: Int64, records: Range<Int>) {
            self.frame = frame
            self.records = records
        }
    }

    /// One message that was refused alone.
    package struct Suspect: Sendable, Equatable {
        package var piece: Piece
        package var status: Int
        /// The cloud's words.
        package var reason: String
    }

    package enum Step: Sendable, Equatable {
        /// Send what belongs to the batch beside its messages; then `accepted` or `refused`.
        case probe
        /// Send these messages; then `accepted` or `refused`.
        case send([Piece])
        /// Make it a dead letter; then `buried`.
        case bury(Suspect)
        /// All is in the log or buried.
        case done
        /// Someone must look.
        case giveUp(status: Int)
    }

    /// So many messages refused alone, and none accepted, mean that it is not the messages.
    private static let maximumSuspects = 4

    /// The cut that is split.
    package let cut: Int64
    private var isProbed = false
    /// What is to be sent yet; the next one is the last.
    private var pending: [[Piece]]
    private var suspects: [Suspect] = []
    private var hasGoodPart = false
    private var burials = 0
    private var isGivenUp = false
    private var lastStatus: Int
    /// In a part, as far as is known of the link; `fewest` however slow it seems, as it may be the cloud that hangs.
    private var maximumMessages = Int.max
    private var fewest = 1

    /// - Parameter pieces: the messages of the refused batch, in order.
    package init(cut: Int64, pieces: [Piece], status: Int) {
        self.cut = cut
        lastStatus = status
        pending = Self.halves(pieces).reversed()
    }

    /// For a batch that took too long.
    ///
    /// - Parameters:
    ///   - pieces: its messages, in order.
    ///   - maximumMessages: in the first part.
    ///   - fewest: in the smallest parts that are tried, but for the last.
    package init(cut: Int64, pieces: [Piece], maximumMessages: Int, fewest: Int) {
        self.cut = cut
        // Request Timeout: what the cloud says of such a request, where it can say anything.
        lastStatus = 408
        pending = pieces.isEmpty ? [] : [pieces]
        self.fewest = max(1, fewest)
        self.maximumMessages = max(self.fewest, maximumMessages)
    }

    /// - Parameter mayBury: whether the limit of burials leaves room.
    package func next(mayBury: Bool) -> Step {
        if isGivenUp { return .giveUp(status: lastStatus) }
        if !isProbed { return .probe }
        if let suspect = suspects.first {
            if hasGoodPart { return mayBury ? .bury(suspect) : .giveUp(status: suspect.status) }
            if pending.isEmpty || suspects.count >= Self.maximumSuspects {
                return mayBury && burials == 0 ? .bury(suspect) : .giveUp(status: suspect.status)
            }
        }
        if let part { return hasGoodPart || burials == 0 ? .send(part) : .giveUp(status: lastStatus) }
        return .done
    }

    /// - Parameter wasQuick: the next part may be larger.
    package mutating func accepted(wasQuick: Bool = false) {
        guard isProbed else {
            isProbed = true
            return
        }
        guard takePart() != nil else { return }
        hasGoodPart = true
        if wasQuick { maximumMessages = min(maximumMessages, .max / 2) * 2 }
    }

    package mutating func refused(status: Int, reason: String) {
        lastStatus = status
        guard isProbed, let part = takePart() else {
            isGivenUp = true
            return
        }
        if part.count == 1, part[0].records.count == 1 {
            suspects.append(Suspect(piece: part[0], status: status, reason: reason))
        } else {
            pending += Self.halves(part).reversed()
        }
    }

    /// The part that was sent took too long; the next ones are smaller.
    package mutating func tookTooLong() {
        guard isProbed, let part else { return }
        maximumMessages = max(fewest, part.messages / 2)
    }

    package mutating func buried() {
        guard !suspects.isEmpty else { return }
        suspects.removeFirst()
        burials += 1
    }

    /// The last part sent has no messages any more; that says nothing of the cloud.
    package mutating func partIsGone() { _ = takePart() }

    package mutating func suspectIsGone() {
        if !suspects.isEmpty { suspects.removeFirst() }
    }

    /// What is sent next.
    private var part: [Piece]? { pending.last.map { $0.prefix(messages: maximumMessages) } }

    private mutating func takePart() -> [Piece]? {
        guard let all = pending.popLast() else { return nil }
        let part = all.prefix(messages: maximumMessages)
        let rest = all.dropFirst(messages: part.messages)
        if !rest.isEmpty { pending.append(rest) }
        return part
    }

    /// Both not empty, unless there is one message alone.
    private static func halves(_ part: [Piece]) -> [[Piece]] {
        if part.count > 1 {
            let middle = part.count / 2
            return [Array(part[..<middle]), Array(part[middle...])]
        }
        guard let piece = part.first else { return [] }
        guard piece.records.count > 1 else { return [part] }
        let middle = piece.records.lowerBound + piece.records.count / 2
        return [
            [Piece(frame: piece.frame, records: piece.records.lowerBound..<middle)],
            [Piece(frame: piece.frame, records: middle..<piece.records.upperBound)],
        ]
    }
}

extension [BatchSplit.Piece] {
    package var messages: Int { reduce(0) { $0 + $1.records.count } }

    fileprivate func prefix(messages: Int) -> [BatchSplit.Piece] {
        var left = messages
        var taken: [BatchSplit.Piece] = []
        for piece in self where left > 0 {
            taken.append(.init(frame: piece.frame, records: piece.records.prefix(left)))
            left -= taken[taken.count - 1].records.count
        }
        return taken
    }

    fileprivate func dropFirst(messages: Int) -> [BatchSplit.Piece] {
        var gone = messages
        return compactMap { piece in
            let records = piece.records.dropFirst(gone)
            gone -= piece.records.count - records.count
            return records.isEmpty ? nil : .init(frame: piece.frame, records: records)
        }
    }
}
