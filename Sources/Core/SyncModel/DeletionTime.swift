/// The time by which data is deleted for its age (docs/decisions/0025).
///
/// A clock that is years ahead makes everything old at once, and what is deleted does not come back when the clock does. So a
/// clock alone lets nothing go: the data that has come must be of about that time too. Where none comes nothing has to go.
package struct DeletionTime: Sendable, Equatable {
    /// Microseconds since 1970, as all times here.
    package struct Clocks: Sendable, Equatable {
        package var process: Int64
        package var database: Int64

        package init(process: Int64, database: Int64) {
            self.process = process
            self.database = database
        }

        /// What neither is ahead of.
        package var told: Int64 { min(process, database) }
    }

    /// What some of the newest rows before a time say.
    package struct Look: Sendable, Equatable {
        /// The newest time that a clock other than the log's has given: a synchronised gateway's, or a device's that the log's
        /// agrees with.
        package var witnessed: Int64?
        /// The newest time of a row, which may be the log's word alone.
        package var newest: Int64?

        package init(witnessed: Int64? = nil, newest: Int64? = nil) {
            self.witnessed = witnessed
            self.newest = newest
        }
    }

    private static let hour: Int64 = 3_600_000_000
    private static let day = 24 * hour
    /// Where to look: so long before the clocks' time. Rows of a moment may all be of one kind, so one look is not enough.
    package static let distances = [0, hour, day, 4 * day]
    /// So old a row must be before the log is believed without a witness: a clock that has stepped has no such rows yet.
    private static let settled = 4 * day
    /// Without data for so long days still go. Less than the days by which every row outlives `hotDays`.
    private static let slack = 2 * day
    /// A clock so far ahead of what may be deleted is told to people; a quiet week is no reason.
    private static let concern = 7 * day

    package let clocks: Clocks
    /// The newest time that something else than a clock of this system stands for; `nil`: there is nothing.
    package let evidence: Int64?

    /// - Parameter looks: one for each of `distances`, in order.
    package init(_ clocks: Clocks, looks: [Look]) {
        self.clocks = clocks
        let settled = zip(Self.distances, looks).filter { $0.0 >= Self.settled }
        evidence = looks.compactMap(\.witnessed).max() ?? settled.compactMap(\.1.newest).max()
    }

    /// For whatever deletes; `nil`: nothing goes.
    package var limit: Int64? { evidence.map { min(clocks.told, $0 + Self.slack) } }

    /// How far this process's clock is ahead of the limit.
    package var ahead: Int64 { limit.map { max(0, clocks.process - $0) } ?? 0 }

    /// The clock is wrong, or no data has come for long.
    package var isHeldBack: Bool { ahead > Self.concern }
}
