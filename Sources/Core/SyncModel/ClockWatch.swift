/// What the wall times of some messages are to be moved by, because nothing had set the clock when they were stamped. A
/// record of its own: the messages stay as they are.
package struct ClockCorrection: Sendable, Equatable {
    package var epoch: Epoch
    package var sequences: ClosedRange<UInt64>
    /// Microseconds: the true time is the wall time and this.
    package var offset: Int64

    package init(epoch: Epoch, sequences: ClosedRange<UInt64>, offset: Int64) {
        self.epoch = epoch
        self.sequences = sequences
        self.offset = offset
    }
}

/// Follows the clocks of one boot and decides how messages of unsynchronised times are to be corrected once the clock is
/// synchronised again. A pure value: it is told each frame that is committed and each look at the clocks, and what it
/// says is to be stored in the same transaction.
///
/// All is measured against the time since the boot, sleep included: no step moves that. What the wall clock is ahead of
/// it, the offset, is one number within a frame, and is the same for many frames unless the clock is stepped: these are a
/// stretch. A synchronised clock tells what the offset should be; the difference corrects the stretch.
/// `docs/decisions/0013-the-gateways-clock.md` has the reasons.
package struct ClockWatch: Sendable, Equatable {
    /// A moment at which the clock was right.
    package struct Anchor: Sendable, Equatable {
        /// Microseconds since the boot.
        package var bootTime: Int64
        package var offset: Int64

        package init(bootTime: Int64, offset: Int64) {
            self.bootTime = bootTime
            self.offset = offset
        }
    }

    /// Consecutive messages that were stamped without synchronisation and with one offset.
    package struct Stretch: Sendable, Equatable {
        package var epoch: Epoch
        package var firstSequence: UInt64
        package var lastSequence: UInt64
        package var offset: Int64
        /// Microseconds since the boot, of its first frame.
        package var since: Int64

        package init(epoch: Epoch, firstSequence: UInt64, lastSequence: UInt64, offset: Int64, since: Int64) {
            self.epoch = epoch
            self.firstSequence = firstSequence
            self.lastSequence = lastSequence
            self.offset = offset
            self.since = since
        }
    }

    package enum Action: Sendable, Equatable {
        /// From here on it has every message that is committed, until it ends.
        case begin(Stretch, after: Anchor?)
        /// The one that has begun.
        case end(lastSequence: UInt64)
        /// All stretches are settled.
        case correct([ClockCorrection])
    }

    /// So long a clock must be synchronised without a step before it is believed: programs that set clocks may call it
    /// synchronised a moment before they step it.
    package static let settlingTime: Int64 = 60_000_000
    /// More than this between two offsets is a step; below are the moments between the readings of two clocks.
    package static let tolerance: Int64 = 100_000
    /// After a stretch of so long another begins, so that the drift within one stays small.
    package static let longestStretch: Int64 = 3_600_000_000
    /// Microseconds a microsecond: the most by which the kernel corrects a clock's rate. What changed by more did not
    /// drift.
    package static let maximumDrift = 500e-6
    /// Six weeks without synchronisation; what comes beyond is not corrected.
    package static let maximumStretches = 1_024

    private let boot: FrameClock
    package private(set) var stretches: [Stretch]
    /// The last stretch has not ended.
    private var isGrowing: Bool
    /// The last time that the clock was right, before all stretches.
    package private(set) var anchor: Anchor?
    /// Since when the clock is synchronised without a step.
    private var steady: Anchor?

    /// - Parameters:
    ///   - clock: now.
    ///   - stretches: of this boot, as stored.
    ///   - isGrowing: the last of them has not ended.
    package init(at clock: FrameClock, stretches: [Stretch] = [], isGrowing: Bool = false, anchor: Anchor? = nil) {
        boot = clock
        self.stretches = stretches
        self.isGrowing = isGrowing && !stretches.isEmpty
        self.anchor = anchor
    }

    /// The next look should come after `settlingTime`: there is something to correct, and the clock seems right.
    package var isSettling: Bool { steady != nil && !stretches.isEmpty }

    /// A frame is committed; frames come in the order of their sequences.
    ///
    /// - Parameter isPast: its clock was read long ago and tells nothing of now.
    package mutating func commit(
        _ clock: FrameClock, epoch: Epoch, sequences: ClosedRange<UInt64>, isPast: Bool = false
    ) -> [Action] {
        guard clock.isOfSameBoot(as: boot) else { return end() }
        if clock.isSynchronised { return end() + (isPast ? [] : observe(clock)) }
        if !isPast { steady = nil }
        let stretch = Stretch(
            epoch: epoch, firstSequence: sequences.lowerBound, lastSequence: sequences.upperBound,
            offset: clock.bootOffset, since: clock.bootTime)
        let isFull = stretches.count >= Self.maximumStretches
        if let last = stretches.last, isGrowing, Self.continues(last, with: stretch),
            isFull || anchor == nil || stretch.since - last.since < Self.longestStretch
        {
            stretches[stretches.count - 1].lastSequence = stretch.lastSequence
            return []
        }
        var actions = end()
        guard !isFull else { return actions }
        stretches.append(stretch)
        isGrowing = true
        actions.append(.begin(stretch, after: anchor))
        return actions
    }

    /// What the clocks say now.
    package mutating func observe(_ clock: FrameClock) -> [Action] {
        guard clock.isSynchronised, clock.isOfSameBoot(as: boot) else {
            steady = nil
            return []
        }
        guard let since = steady, abs(clock.bootOffset - since.offset) <= Self.tolerance else {
            steady = Anchor(bootTime: clock.bootTime, offset: clock.bootOffset)
            return []
        }
        guard clock.bootTime - since.bootTime >= Self.settlingTime else { return [] }
        defer {
            anchor = Anchor(bootTime: clock.bootTime, offset: since.offset)
            stretches = []
            isGrowing = false
        }
        guard !stretches.isEmpty else { return [] }
        return [.correct(stretches.compactMap { correction(of: $0, by: since) })]
    }

    private mutating func end() -> [Action] {
        guard isGrowing, let last = stretches.last else { return [] }
        isGrowing = false
        return [.end(lastSequence: last.lastSequence)]
    }

    private static func continues(_ last: Stretch, with next: Stretch) -> Bool {
        last.epoch == next.epoch && last.lastSequence + 1 == next.firstSequence
            && abs(next.offset - last.offset) <= tolerance
    }

    private func correction(of stretch: Stretch, by now: Anchor) -> ClockCorrection? {
        let (offset, isTooLarge) = trueOffset(at: stretch.since, by: now).subtractingReportingOverflow(stretch.offset)
        guard !isTooLarge, SyncLimits.clockOffsets.contains(offset), stretch.firstSequence <= stretch.lastSequence
        else { return nil }
        return ClockCorrection(
            epoch: stretch.epoch, sequences: stretch.firstSequence...stretch.lastSequence, offset: offset)
    }

    /// What the wall clock should have been ahead of the boot then. Between two times at which it was right, the clock
    /// drifted evenly; what no drift explains is an error of the first.
    private func trueOffset(at time: Int64, by now: Anchor) -> Int64 {
        guard let anchor, anchor.bootTime < now.bootTime else { return now.offset }
        let elapsed = Double(now.bootTime - anchor.bootTime)
        let drift = Double(now.offset - anchor.offset)
        guard abs(drift) <= elapsed * Self.maximumDrift + Double(Self.tolerance) else { return now.offset }
        let share = min(max(Double(time - anchor.bootTime) / elapsed, 0), 1)
        return anchor.offset + Int64((drift * share).rounded())
    }
}
