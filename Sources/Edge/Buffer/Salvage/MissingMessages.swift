import SyncModel

/// Works out which messages of one epoch are missing, and whose they were: pure, frames in, ledger lines out.
///
/// Numbers of a device are dense, so a hole between two of its frames says exactly which messages it lost. What no hole
/// explains (a device's last messages, or all of them) is missing by its sequence alone; its lines name the device `#`,
/// which no device can be called, and number the messages by their sequences, so that a second salvage says the same.
struct MissingMessages {
    static let unknownDevice = LedgerLine.unknownDevice
    /// Holes beyond this many are told by their sequences.
    static let maximumHoles = 100_000

    private struct Mark {
        var number: UInt64
        var sequence: UInt64
    }

    private let epoch: Epoch
    private let lastSequence: UInt64
    private let settled: IntervalSet
    /// Nothing of the epoch was answered, so each device's numbers begin at 1 within what is read.
    private let isFromStart: Bool
    private var present: IntervalSet
    private let ledger: [LedgerLine]
    private let accounted: AccountedNumbers
    private var marks: [String: Mark] = [:]
    private var holes: [LedgerLine] = []

    /// - Parameters:
    ///   - settled: sequences that are answered, or in the ledger already.
    ///   - ledger: lines of the epoch since the file was made; those that span more sequences than they have messages are
    ///     not in `settled`.
    ///   - accounted: by all lines there are.
    init(
        epoch: Epoch, lastSequence: UInt64, settled: IntervalSet, isFromStart: Bool, ledger: [LedgerLine],
        accounted: AccountedNumbers
    ) {
        self.epoch = epoch
        self.lastSequence = lastSequence
        self.settled = settled
        self.isFromStart = isFromStart
        self.ledger = ledger
        self.accounted = accounted
        present = settled
    }

    /// Frames come in the order of their sequences and do not overlap.
    mutating func add(_ frame: Frame) {
        let first = frame.firstSequence
        // Cannot throw: sequences of a frame fit, and the number of ranges is not bounded.
        _ = try? present.insert(first...(first + UInt64(frame.records.count) - 1))
        var spans = [(first: Int, last: Int, count: UInt64)?](repeating: nil, count: frame.devices.count)
        for (index, record) in frame.records.enumerated() {
            let span = spans[record.device]
            spans[record.device] = (span?.first ?? index, index, (span?.count ?? 0) + 1)
        }
        for (device, span) in zip(frame.devices, spans) {
            guard let span else { continue }
            if let mark = marks[device.id] ?? (isFromStart ? Mark(number: 0, sequence: 0) : nil) {
                note(device, after: mark, before: first + UInt64(span.first))
            }
            marks[device.id] = Mark(
                number: device.firstNumber + span.count - 1, sequence: first + UInt64(span.last))
        }
    }

    private mutating func note(_ device: FrameDevice, after mark: Mark, before sequence: UInt64) {
        guard device.firstNumber > mark.number + 1, sequence > mark.sequence + 1, holes.count < Self.maximumHoles
        else { return }
        for numbers in accounted.missing(from: (mark.number + 1)...(device.firstNumber - 1), of: device.id) {
            holes.append(
                LedgerLine(
                    epoch: epoch, device: device.id, sequences: (mark.sequence + 1)...(sequence - 1),
                    numbers: numbers, reason: .damaged))
        }
    }

    /// - Returns: the lines, and how many messages they stand for.
    func lines() -> (lines: [LedgerLine], messages: UInt64) {
        guard lastSequence > 0 else { return ([], 0) }
        let gaps = present.gaps(in: 1...lastSequence)
        guard !gaps.isEmpty else { return ([], 0) }
        // A hole over something that is settled may be settled with it: then the sequences tell.
        var lines = holes.filter { hole in
            settled.gaps(in: hole.sequences) == [hole.sequences]
                && present.gaps(in: hole.sequences).reduce(0, { $0 + $1.messages }) >= hole.numbers.messages
        }
        let left = LedgerCover.unexplained(gaps, lines: lines + ledger)
        for (gap, count) in zip(gaps, left) where count > 0 {
            lines.append(
                LedgerLine(
                    epoch: epoch, device: Self.unknownDevice, sequences: gap,
                    numbers: gap.lowerBound...(gap.lowerBound + count - 1), reason: .damaged))
        }
        return (lines, lines.map(\.numbers.messages).saturatedSum())
    }
}

/// What the ledger of an epoch has of each device, by its dense numbers.
struct AccountedNumbers {
    private var numbers: [String: IntervalSet] = [:]

    init(_ lines: [LedgerLine]) {
        for line in lines {
            // Cannot throw: numbers were checked when they were read, and how many ranges there are is not bounded.
            _ = try? numbers[line.device, default: IntervalSet(maximumRanges: .max)].insert(line.numbers)
        }
    }

    func missing(from range: ClosedRange<UInt64>, of device: String) -> [ClosedRange<UInt64>] {
        numbers[device]?.gaps(in: range) ?? [range]
    }

    /// Positions of the frame's messages that the ledger has.
    func positions(in frame: Frame) -> Set<Int> {
        let sets = frame.devices.map { numbers[$0.id] }
        guard sets.contains(where: { $0 != nil }) else { return [] }
        var next = frame.devices.map(\.firstNumber)
        var found: Set<Int> = []
        for (index, record) in frame.records.enumerated() {
            if sets[record.device]?.contains(next[record.device]) == true { found.insert(index) }
            next[record.device] += 1
        }
        return found
    }
}

extension ClosedRange<UInt64> {
    fileprivate var messages: UInt64 { upperBound - lowerBound + 1 }
}
