/// Which frames the cloud has answered for: all up to `prefix`, and a few runs beyond it. Live frames are answered while
/// older ones, the backlog of an outage, still wait; what has caught up with the prefix becomes part of it.
struct AnsweredFrames: Equatable {
    /// Frames after `start` up to and with `end`.
    struct Run: Equatable {
        var start: FramePosition
        var end: FramePosition
    }

    /// More outages than this within one backlog have no lane of their own: see `BufferStore.startLive`.
    static let maximumRuns = 64

    private(set) var prefix: FramePosition
    /// Ascending, disjoint, touching neither each other nor the prefix.
    private(set) var runs: [Run]

    init(prefix: FramePosition = FramePosition(), runs: [Run] = []) {
        self.prefix = prefix
        self.runs = runs
    }

    /// The last answered frame.
    var end: FramePosition { runs.last?.end ?? prefix }

    func contains(_ frame: Int64) -> Bool {
        frame <= prefix.frame || runs.contains { $0.start.frame < frame && frame <= $0.end.frame }
    }

    /// - Parameter run: frames none of which is answered.
    mutating func insert(_ run: Run) {
        guard run.end.frame > run.start.frame else { return }
        let index = runs.firstIndex { $0.start.frame >= run.end.frame } ?? runs.count
        runs.insert(run, at: index)
        if index + 1 < runs.count, runs[index + 1].start.frame == run.end.frame {
            runs[index].end = runs.remove(at: index + 1).end
        }
        if index > 0, runs[index - 1].end.frame == run.start.frame {
            runs[index - 1].end = runs.remove(at: index).end
        }
        if let first = runs.first, first.start.frame == prefix.frame {
            prefix = first.end
            runs.removeFirst()
        }
    }

    /// The first frames after `position` that are not answered.
    ///
    /// - Returns: the place before them, and the last of them; `nil` when they go on to the newest.
    func gap(after position: FramePosition) -> (start: FramePosition, end: FramePosition?) {
        var start = position.frame > prefix.frame ? position : prefix
        for run in runs where run.end.frame > start.frame {
            if run.start.frame > start.frame { return (start, run.start) }
            start = run.end
        }
        return (start, nil)
    }

    /// Runs of frames in `frames` that are not answered, ascending.
    func gaps(in frames: ClosedRange<Int64>) -> [ClosedRange<Int64>] {
        var gaps: [ClosedRange<Int64>] = []
        var next = max(frames.lowerBound, prefix.frame + 1)
        for run in runs where run.end.frame >= next && run.start.frame < frames.upperBound {
            if run.start.frame >= next { gaps.append(next...run.start.frame) }
            next = run.end.frame + 1
        }
        if next <= frames.upperBound { gaps.append(next...frames.upperBound) }
        return gaps
    }

    /// What the frames up to `end` held that are not answered, dropped ones among them.
    func unanswered(through end: FramePosition) -> FrameTotals {
        guard end.frame > prefix.frame else { return FrameTotals() }
        var totals = FrameTotals(messages: end.messages - prefix.messages, bytes: end.bytes - prefix.bytes)
        for run in runs where run.start.frame < end.frame {
            let runEnd = run.end.frame <= end.frame ? run.end : end
            totals.messages -= runEnd.messages - run.start.messages
            totals.bytes -= runEnd.bytes - run.start.bytes
        }
        return totals
    }

    /// The place of a frame up to which nothing is left: what is not answered was dropped.
    func position(after dropped: FrameTotals, frame: Int64) -> FramePosition {
        let gaps = unanswered(through: end)
        return FramePosition(
            frame: max(frame, end.frame), messages: end.messages + dropped.messages - gaps.messages,
            bytes: end.bytes + dropped.bytes - gaps.bytes)
    }

    /// The answered frames, ascending; their rows may be deleted.
    var stretches: [ClosedRange<Int64>] {
        (prefix.frame > 0 ? [1...prefix.frame] : []) + runs.map { ($0.start.frame + 1)...$0.end.frame }
    }
}
