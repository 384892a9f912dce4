/// How long rows stay, and how the work on them is bounded.
package struct LifecycleConfiguration: Sendable, Equatable {
    /// A libpq connection string; may hold a password.
    package var database: String
    package var window: RetentionWindow
    /// Hourly roll-ups older than this many days are deleted; never before the rows that they sum up.
    package var rollupDays: Int32 = 730
    /// This process has an archive. Whether a day waits for one is the database's to say, by the flag `archive`, since
    /// processes without an archive drop days too; this one turns the flag on where nobody has set it.
    package var hasArchive = false
    /// Partitions are made for today and this many days more.
    package var daysAhead: Int32 = 3
    /// From one pass to the next.
    package var interval: Duration = .seconds(60)
    /// From an hour's end until it is closed, so that ordinary delays need no second pass.
    package var closeDelay: Duration = .seconds(300)
    /// From a late row's mark until its hour is rolled up again, so that a gateway's whole backlog costs one second pass.
    package var againDelay: Duration = .seconds(600)
    /// From the flag's change until everyone acts upon it; several times `FeatureFlags.maximumAge`.
    package var flagDelay: Duration = .seconds(60)
    /// For transactions that may have read the progress before an hour was closed; then the next pass tries again.
    package var quietTimeout: Duration = .seconds(30)
    /// Of roll-ups in one pass; what is left is for the next.
    package var rollupBudget: Duration = .seconds(600)
    /// Of each statement, milliseconds.
    package var statementTimeout = 1_800_000
    /// Of each lock, milliseconds: short, since others queue behind whoever waits.
    package var lockTimeout = 2_000
    /// Dropped in one pass.
    package var daysPerPass = 4
    /// Of trace contexts: deleted by one statement, so that it stays short, and statements in one pass.
    package var tracesAtOnce = 20_000
    package var traceRounds = 30

    package init(database: String, hotDays: Int32) {
        self.database = database
        window = RetentionWindow(hotDays: hotDays)
    }
}
