/// How old the records of an event log are. Age counts the time for which the log was open, so that no step of a clock, within a
/// run or between two, makes records old or keeps them. Times are microseconds of that running time, `monotonic` of a clock that
/// does not jump and may begin anew with each run.
package struct LogAge: Sendable, Equatable {
    /// Everything up to a segment was written when the log had run for so long, or before.
    package struct Mark: Sendable, Equatable {
        package var time: Int64
        package var segment: Int64

        package init(time: Int64, segment: Int64) {
            self.time = time
            self.segment = segment
        }
    }

    /// What may be deleted: everything up to a segment.
    package enum Expired: Sendable, Equatable {
        case through(Int64)
        /// Up to the segment of the newest mark that is not younger.
        case marked(notAfter: Int64)
    }

    /// Commits write marks so often at most. By so much records live longer, and so much of a run is forgotten by a crash,
    /// counted from its newest commit.
    package static let interval: Int64 = 1_000_000

    /// Where this run began.
    private let begin: Int64
    private let beginMonotonic: Int64
    /// Of the newest commit. What an earlier run left without a mark counts as written when this one began.
    private var newest: Mark
    /// The newest that a commit of this run has written.
    private var written: Mark?

    /// - Parameters:
    ///   - last: the newest mark that the log has, `nil` for one that was never open to a program that counts age.
    ///   - segment: the newest segment, 0 for none.
    package init(after last: Mark?, newest segment: Int64, monotonic: Int64) {
        begin = last?.time ?? 0
        beginMonotonic = monotonic
        newest = Mark(time: begin, segment: segment)
    }

    private func time(_ monotonic: Int64) -> Int64 { begin + max(0, monotonic - beginMonotonic) }

    /// A commit of segments up to `segment`; remembered by the caller when it has succeeded.
    ///
    /// - Returns: marks that the commit writes, in this order; later ones replace those of the same time.
    package mutating func append(through segment: Int64, monotonic: Int64) -> [Mark] {
        let before = newest
        newest = Mark(time: time(monotonic), segment: segment)
        if let written, newest.time < written.time + Self.interval { return [] }
        defer { written = newest }
        return before.segment == 0 || before == written ? [newest] : [before, newest]
    }

    /// - Returns: marks to be written at the end of a run.
    package func end(monotonic: Int64) -> [Mark] {
        guard newest.segment > 0 else { return [] }
        let last = Mark(time: time(monotonic), segment: newest.segment)
        return newest == last || newest == written ? [last] : [newest, last]
    }

    package func expired(keeping retention: Int64, monotonic: Int64) -> Expired {
        let limit = time(monotonic) - retention
        return newest.time <= limit ? .through(newest.segment) : .marked(notAfter: limit)
    }
}

/// The time that records carry. It keeps their order while a clock is corrected by a little, and follows one that is set back by
/// more: else a wrong step ahead would stay in it until the true time had caught up.
package enum LogAppendTime {
    /// Microseconds.
    package static let tolerance: Int64 = 60_000_000

    /// - Parameter last: of the record before.
    package static func next(after last: Int64, wall: Int64) -> Int64 {
        wall < last && last - wall <= tolerance ? last : wall
    }
}
