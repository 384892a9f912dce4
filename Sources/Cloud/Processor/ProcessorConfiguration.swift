import Flow

/// How the processor reads, judges and stores.
package struct ProcessorConfiguration: Sendable, Equatable {
    /// A libpq connection string; may hold a password.
    package var database: String
    /// Members of a group share the log's partitions.
    package var group = "sluice-processor"
    package var member: String
    /// Dotted path of the number or RFC 3339 text in a payload that is its time; `nil`: the gateway's time counts.
    package var timeField: String?
    /// Rows older than this many days when they arrive are stored at their arrival.
    package var hotDays = 90
    package var metricsPerMessage = 256
    package var metricsPerDevice = 1_000
    /// Sparkplug's nodes and devices of a gateway whose births are kept; those not heard of for longest make room.
    package var sparkplugEntities = 20_000
    /// What of these births is in memory, in metrics; a batch that needs more to be read is cut in halves.
    package var sparkplugMetricsInMemory = 2_000_000
    /// Of one poll and one transaction.
    package var maximumRecords = 2_000
    /// Of one poll and one transaction.
    package var maximumBytes = 2 * 1024 * 1024
    /// Partitions are made for today and this many days more.
    package var daysAhead = 3
    /// How long to wait for records before looking at shutdown and maintenance.
    package var pollTimeout: Duration = .seconds(1)
    /// How often the database is asked whether it is there and still has this processor's claims, and the log for its lag.
    package var maintenanceInterval: Duration = .seconds(10)
    /// How often gateways that are silent are looked for in the database, and what counts as silent: long enough that
    /// a backlog or the log's lag does not hide in the time that the database has.
    package var silenceInterval: Duration = .seconds(300)
    package var silence: Duration = .seconds(600)
    /// After another processor took a partition that the log still assigns to this one.
    package var reclaimDelay: Duration = .seconds(30)
    /// First and longest wait between attempts at a database or log that is away, full jitter.
    package var backoffBase: Duration = .milliseconds(200)
    package var backoffCap: Duration = .seconds(15)
    /// Of each statement; a batch that takes longer, reading or writing, is cut in halves.
    package var statementTimeout: Duration = .seconds(10)
    /// A server that has said nothing for so long beyond that is given up: it hangs, or the way to it does.
    package var answerGrace: Duration = .seconds(5)
    /// Ranges of one deduplication state; beyond, the partition stops with an alarm.
    package var maximumRanges = 65_536

    /// The circuit breaker around the database, and what comes instead while it is open.
    package var fallback = DatabaseFallback.Settings()
    /// Objects of dead letters that wait to be recorded in the database; then the log keeps the rest.
    package var maximumDeadLetters = 100_000
    /// Shortest time between two samples.
    package var sampleInterval: Duration = .milliseconds(500)

    package init(database: String, member: String) {
        self.database = database
        self.member = member
    }
}
