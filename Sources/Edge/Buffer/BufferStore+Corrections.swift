import Operations
import SyncModel

/// What `ClockWatch` says, stored with the stamps that it comes from; corrections wait here for the next batch.
extension Schema {
    /// Times are microseconds, `boot` and `epoch` 16 bytes. A stretch without a last sequence goes on to the end of what
    /// its epoch has, so that a commit writes no row of its own for it.
    static let corrections = """
        CREATE TABLE clock_stretch (
            id INTEGER PRIMARY KEY, boot BLOB NOT NULL, epoch BLOB NOT NULL, first_sequence INTEGER NOT NULL,
            last_sequence INTEGER, wall_offset INTEGER NOT NULL, since INTEGER NOT NULL,
            anchor_time INTEGER, anchor_offset INTEGER);
        CREATE TABLE clock_correction (
            id INTEGER PRIMARY KEY AUTOINCREMENT, epoch BLOB NOT NULL, first_sequence INTEGER NOT NULL,
            last_sequence INTEGER NOT NULL, wall_offset INTEGER NOT NULL);
        """
}

/// A stamp that is written and to be remembered once it is committed.
struct WrittenStamp {
    var clocks: GatewayClock
    var watch: ClockWatch
    /// There are new corrections to be sent.
    var corrects = false
}

extension BufferStore {
    /// That wait. Where synchronisation comes and goes that often in one outage, later messages stay flagged.
    static let maximumCorrections = 10_000
    /// That one batch carries.
    static let maximumCorrectionsInBatch = 1_000
    /// What a clock's offset can be; a damaged file may say anything.
    private static let offsets: ClosedRange<Int64> = -(1 << 60)...(1 << 60)

    // MARK: Watching

    /// Ends what earlier epochs of this boot left open, and forgets other boots: nobody will know their true time. In the
    /// caller's transaction, before epochs are deleted.
    func inheritClockWatch(at clock: FrameClock, stamp: GatewayTimeStamp?) throws(SQLiteError) -> ClockWatch {
        let forget = try connection.prepare("DELETE FROM clock_stretch WHERE boot <> ?")
        defer { forget.finalize() }
        forget.bind(1, clock.boot.blob)
        try forget.run()
        try connection.execute(
            """
            UPDATE clock_stretch SET last_sequence =
                (SELECT last_sequence FROM epoch WHERE epoch.epoch = clock_stretch.epoch) WHERE last_sequence IS NULL;
            DELETE FROM clock_stretch WHERE last_sequence IS NULL OR last_sequence < first_sequence;
            """)
        var anchor: ClockWatch.Anchor?
        if let last = stamp?.clock, last.isSynchronised, last.isOfSameBoot(as: clock) {
            // Sleep since then is not known; it would be more than any drift, and the anchor then not be believed.
            anchor = .init(
                bootTime: last.monotonicTime &+ clock.asleepTime,
                offset: last.wallTime &- last.monotonicTime &- clock.asleepTime)
        }
        return try loadClockWatch(at: clock, anchor: anchor)
    }

    /// - Parameter anchor: what counts while the file has no stretches.
    func loadClockWatch(at clock: FrameClock, anchor: ClockWatch.Anchor?) throws(SQLiteError) -> ClockWatch {
        let statement = try connection.prepare(
            """
            SELECT s.epoch, s.first_sequence, ifnull(s.last_sequence, epoch.last_sequence), wall_offset, since,
                anchor_time, anchor_offset, s.last_sequence IS NULL
            FROM clock_stretch s LEFT JOIN epoch ON epoch.epoch = s.epoch WHERE s.boot = ?
            ORDER BY s.id LIMIT \(ClockWatch.maximumStretches)
            """)
        defer { statement.finalize() }
        statement.bind(1, clock.boot.blob)
        var stretches: [ClockWatch.Stretch] = []
        var anchor = anchor
        var isGrowing = false
        while try statement.step() {
            guard let epoch = Epoch(blob: statement.blob(0)),
                let sequences = Self.sequences(statement.integer(1), statement.integer(2)),
                Self.offsets.contains(statement.integer(3)), Self.offsets.contains(statement.integer(4))
            else { throw inconsistency("a stretch of the clock makes no sense") }
            isGrowing = statement.integer(7) != 0
            stretches.append(
                .init(
                    epoch: epoch, firstSequence: sequences.lowerBound, lastSequence: sequences.upperBound,
                    offset: statement.integer(3), since: statement.integer(4)))
            anchor = nil
            if let time = statement.optionalInteger(5), let offset = statement.optionalInteger(6),
                Self.offsets.contains(time), Self.offsets.contains(offset)
            {
                anchor = .init(bootTime: time, offset: offset)
            }
        }
        return ClockWatch(at: clock, stretches: stretches, isGrowing: isGrowing, anchor: anchor)
    }

    private static func sequences(_ first: Int64, _ last: Int64) -> ClosedRange<UInt64>? {
        0 < first && first <= last && last < .max ? UInt64(first)...UInt64(last) : nil
    }

    /// In the caller's transaction.
    ///
    /// - Returns: whether there are corrections to be sent.
    func store(_ actions: [ClockWatch.Action]) throws(SQLiteError) -> Bool {
        // All of it is rare, so nothing is kept prepared.
        var corrects = false
        for action in actions {
            switch action {
            case .begin(let stretch, let anchor): try insert(stretch, after: anchor)
            case .end(let last):
                try connection.execute(
                    "UPDATE clock_stretch SET last_sequence = \(last) WHERE last_sequence IS NULL")
            case .correct(let corrections):
                try connection.execute("DELETE FROM clock_stretch")
                try insert(corrections)
                corrects = true
            }
        }
        return corrects
    }

    private func insert(
        _ stretch: ClockWatch.Stretch, after anchor: ClockWatch.Anchor?
    ) throws(SQLiteError) {
        let statement = try connection.prepare(
            """
            INSERT INTO clock_stretch (boot, epoch, first_sequence, wall_offset, since, anchor_time, anchor_offset)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            """)
        defer { statement.finalize() }
        statement.bind(1, configuration.clock.boot.blob)
        statement.bind(2, stretch.epoch.blob)
        statement.bind(3, Int64(stretch.firstSequence))
        statement.bind(4, stretch.offset)
        statement.bind(5, stretch.since)
        statement.bind(6, anchor?.bootTime)
        statement.bind(7, anchor?.offset)
        try statement.run()
    }

    private func insert(_ corrections: [ClockCorrection]) throws(SQLiteError) {
        let waiting = Int(try connection.integer("SELECT count(*) FROM clock_correction") ?? 0)
        let statement = try connection.prepare(
            "INSERT INTO clock_correction (epoch, first_sequence, last_sequence, wall_offset) VALUES (?, ?, ?, ?)")
        defer { statement.finalize() }
        for correction in corrections.prefix(max(0, Self.maximumCorrections - waiting)) {
            statement.bind(1, correction.epoch.blob)
            statement.bind(2, Int64(correction.sequences.lowerBound))
            statement.bind(3, Int64(correction.sequences.upperBound))
            statement.bind(4, correction.offset)
            try statement.run()
        }
    }

    // MARK: Sending

    /// The last one that the next batch is to carry; 0: none.
    func lastCorrection() throws(SQLiteError) -> Int64 {
        try connection.integer(
            """
            SELECT max(id) FROM (
                SELECT id FROM clock_correction ORDER BY id LIMIT \(Self.maximumCorrectionsInBatch))
            """) ?? 0
    }

    /// Those that the cut carries; none for a cut that is not the open one.
    func corrections(of cut: Cut) throws(SQLiteError) -> [ClockCorrection] {
        guard let open = openCuts[cut.lane], open.cut == cut, open.lastCorrection > 0 else { return [] }
        let statement = try connection.prepare(
            """
            SELECT epoch, first_sequence, last_sequence, wall_offset FROM clock_correction WHERE id <= ? ORDER BY id
            """)
        defer { statement.finalize() }
        statement.bind(1, open.lastCorrection)
        var found: [ClockCorrection] = []
        while try statement.step() {
            guard let epoch = Epoch(blob: statement.blob(0)),
                let sequences = Self.sequences(statement.integer(1), statement.integer(2)),
                SyncLimits.clockOffsets.contains(statement.integer(3))
            else { throw inconsistency("a correction of the clock makes no sense") }
            found.append(ClockCorrection(epoch: epoch, sequences: sequences, offset: statement.integer(3)))
        }
        return found
    }

    /// In the transaction that answers the cut.
    func deleteCorrections(through last: Int64) throws(SQLiteError) {
        guard last > 0 else { return }
        try connection.execute("DELETE FROM clock_correction WHERE id <= \(last)")
    }
}

extension FrameClock {
    fileprivate var boot: Epoch { Epoch(high: bootHigh, low: bootLow) }
}

extension SystemClock {
    fileprivate var boot: Epoch { Epoch(high: bootHigh, low: bootLow) }
}
