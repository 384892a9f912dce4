import NIOConcurrencyHelpers
import Operations
import SyncModel

/// The gateway's own time, stored in the row of the running epoch: a commit with messages writes that row anyway, so the
/// stamp costs no page. When nothing is committed it is written by itself, seldom.
extension Schema {
    /// Times are microseconds. `good_…` is the last time that was known to be right.
    static let gatewayTime = """
        ALTER TABLE epoch ADD COLUMN gateway_time INTEGER;
        ALTER TABLE epoch ADD COLUMN monotonic_time INTEGER;
        ALTER TABLE epoch ADD COLUMN wall_time INTEGER;
        ALTER TABLE epoch ADD COLUMN boot BLOB;
        ALTER TABLE epoch ADD COLUMN synchronised INTEGER;
        ALTER TABLE epoch ADD COLUMN good_wall_time INTEGER;
        ALTER TABLE epoch ADD COLUMN good_gateway_time INTEGER;
        ALTER TABLE epoch ADD COLUMN good_has_gap INTEGER;
        """

    /// Up to the second layout, expiry was stored by the wall clock.
    static func expireInGatewayTime(_ connection: SQLiteConnection, at clock: FrameClock) throws(SQLiteError) {
        let newest = try connection.integer(
            "SELECT max(time) FROM (SELECT wall_time AS time FROM frame UNION ALL SELECT disconnected_at FROM session)")
        let origin = GatewayTime.origin(newest: newest, at: clock)
        try connection.execute(
            """
            UPDATE session SET disconnected_at = min(0, disconnected_at - \(origin)) WHERE disconnected_at IS NOT NULL;
            UPDATE queue SET expires_at = expires_at - \(origin) WHERE expires_at IS NOT NULL;
            UPDATE retained SET expires_at = expires_at - \(origin) WHERE expires_at IS NOT NULL;
            """)
    }
}

extension BufferStore {
    /// Microseconds between two stamps at least, while no message is committed.
    static let stampInterval: Int64 = 600_000_000

    /// Microseconds.
    var monotonicTime: Int64 { configuration.clock.monotonicTime() }

    /// Microseconds of the gateway's own time, for whatever has to count age.
    func gatewayNow() -> Int64 { clocks.time.microseconds(at: configuration.clock.now().monotonicTime) }

    var isStampDue: Bool { epochRow != 0 && monotonicTime >= nextStamp }

    /// Seconds until the next stamp.
    var timeToStamp: Double? {
        epochRow == 0 ? nil : max(0, Double(nextStamp - monotonicTime) / 1_000_000)
    }

    /// The newest stamp of all epochs, and the last known good time that was stored with it.
    func lastStamp() throws(SQLiteError) -> (stamp: GatewayTimeStamp, good: KnownGoodTime?)? {
        let statement = try connection.prepare(
            """
            SELECT gateway_time, monotonic_time, wall_time, boot, synchronised,
                good_wall_time, good_gateway_time, good_has_gap FROM epoch
            WHERE gateway_time IS NOT NULL ORDER BY gateway_time DESC, id DESC LIMIT 1
            """)
        defer { statement.finalize() }
        guard try statement.step() else { return nil }
        // Where the id of the boot cannot be read it is not known, and the wall clock has to tell.
        let boot = Epoch(blob: statement.blob(3)) ?? Epoch(high: 0, low: 0)
        let stamp = GatewayTimeStamp(
            gatewayTime: statement.integer(0),
            clock: FrameClock(
                wallTime: statement.integer(2), monotonicTime: statement.integer(1), bootHigh: boot.high,
                bootLow: boot.low, isSynchronised: statement.integer(4) == 1))
        let good = statement.optionalInteger(5).map {
            KnownGoodTime(
                wallTime: $0, gatewayTime: statement.integer(6), hasGap: statement.integer(7) != 0)
        }
        return (stamp, good)
    }

    /// In the caller's transaction, who remembers what this returns when it is committed.
    ///
    /// - Parameter actions: what the watch said of the frames that are committed with it.
    func writeStamp(
        _ clocks: GatewayClock, _ watch: ClockWatch, actions: [ClockWatch.Action] = []
    ) throws(SQLiteError) -> WrittenStamp {
        let clock = configuration.clock.now()
        var written = WrittenStamp(clocks: clocks, watch: watch)
        written.clocks.observe(clock)
        written.corrects = try store(actions + written.watch.observe(clock))
        let clocks = written.clocks
        let statement = statements.saveStamp
        statement.bind(1, clocks.time.microseconds(at: clock.monotonicTime))
        statement.bind(2, clock.monotonicTime)
        statement.bind(3, clock.wallTime)
        statement.bind(4, Epoch(high: clock.bootHigh, low: clock.bootLow).blob)
        statement.bind(5, clock.isSynchronised ? 1 : 0)
        statement.bind(6, clocks.good?.wallTime)
        statement.bind(7, clocks.good?.gatewayTime)
        statement.bind(8, clocks.good.map { $0.hasGap ? 1 : 0 })
        statement.bind(9, epochRow)
        try statement.run()
        return written
    }

    /// A stamp by itself. One that finds no room on the disk waits for its next turn like one that was written.
    func stamp() {
        guard epochRow != 0 else { return }
        let written = attempt(mayUseReserve: false) { () throws(SQLiteError) in
            try transaction { () throws(SQLiteError) in try writeStamp(clocks, clockWatch) }
        }
        stamped((try? written.get()) ?? WrittenStamp(clocks: clocks, watch: clockWatch))
    }

    func stamped(_ stamp: WrittenStamp) {
        nextStamp = monotonicTime + (stamp.watch.isSettling ? ClockWatch.settlingTime : Self.stampInterval)
        clocks = stamp.clocks
        clockWatch = stamp.watch
        shared.clocks.withLockedValue { $0 = stamp.clocks }
        if stamp.corrects { shared.announce() }
    }
}
