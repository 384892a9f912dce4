import NIOConcurrencyHelpers

/// What runs only while its flag in the database is on. Values are stored, so they never change their meaning.
package enum FeatureFlag: String, Sendable, CaseIterable {
    /// Writers mark the hours of late rows, and hours and days are rolled up.
    case rollups
    /// Days of rows stay until the archive has them, whichever process is at work on them. The first process that has an
    /// archive turns it on.
    case archive
}

/// The flags of the database as a program sees them, at most `maximumAge` old wherever that matters. A flag that is not
/// in the database is off, and so are all of them where the schema has none.
package final class FeatureFlags: Sendable {
    package struct State: Sendable, Equatable {
        package var isEnabled: Bool
        /// Microseconds since 1970 by the database's clock.
        package var changedAt: Int64
    }

    private struct Known {
        var states: [FeatureFlag: State] = [:]
        var readAt: ContinuousClock.Instant?
    }

    /// A flag that was turned on is acted upon by everyone this long after, and by some before.
    package static let maximumAge: Duration = .seconds(10)
    package static let channel = "sluice_feature_flag"

    // A lock, because a watcher writes what writers read; never held over a call.
    private let known = NIOLockedValueBox(Known())

    package init() {}

    /// As it was last read, however long ago.
    package func isOn(_ flag: FeatureFlag) -> Bool { known.withLockedValue { $0.states[flag]?.isEnabled ?? false } }

    /// Reads the flags if they were not read within `maximumAge`. Works within a transaction.
    package func current(
        _ flag: FeatureFlag, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Bool {
        let readAt = known.withLockedValue { $0.readAt }
        if readAt.map({ ContinuousClock.now - $0 > Self.maximumAge }) ?? true { try refresh(on: connection) }
        return isOn(flag)
    }

    /// - Returns: what changed, for a log line.
    @discardableResult
    package func refresh(on connection: isolated PostgresConnection) throws(PostgresError) -> [FeatureFlag: Bool] {
        // Taken before, so that the age is never less than it is.
        let now = ContinuousClock.now
        let states = try Self.read(on: connection)
        return known.withLockedValue { known in
            var changed: [FeatureFlag: Bool] = [:]
            for flag in FeatureFlag.allCases {
                let isEnabled = states[flag]?.isEnabled ?? false
                if isEnabled != known.states[flag]?.isEnabled ?? false { changed[flag] = isEnabled }
            }
            known = Known(states: states, readAt: now)
            return changed
        }
    }

    /// What was read may be wrong: a statement that a flag allows has failed.
    package func forget() { known.withLockedValue { $0.readAt = nil } }

    /// Flags of the database that this program knows.
    package static func read(
        on connection: isolated PostgresConnection
    ) throws(PostgresError) -> [FeatureFlag: State] {
        // Asked first, because a statement that fails would end the caller's transaction.
        guard try connection.query("SELECT to_regclass('feature_flag') IS NOT NULL").bool(0, 0) else { return [:] }
        let rows = try connection.query(
            "SELECT name, enabled, (extract(epoch FROM changed_at) * 1000000)::int8 FROM feature_flag")
        var states: [FeatureFlag: State] = [:]
        for row in 0..<rows.rowCount {
            guard let flag = FeatureFlag(rawValue: rows.string(row, 0)) else { continue }
            states[flag] = State(isEnabled: rows.bool(row, 1), changedAt: rows.integer(row, 2))
        }
        return states
    }

    /// - Returns: whether that was a change; setting what is set leaves the time of the change as it is.
    package static func set(
        _ flag: FeatureFlag, enabled: Bool, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Bool {
        guard try connection.query("SELECT to_regclass('feature_flag') IS NOT NULL").bool(0, 0) else {
            throw PostgresError(sqlState: "", message: "the schema has no flags: run sluice migrate up first")
        }
        return try connection.query(
            """
            INSERT INTO feature_flag AS f (name, enabled, changed_at) VALUES ($1, $2, clock_timestamp())
            ON CONFLICT (name) DO UPDATE SET enabled = excluded.enabled, changed_at = excluded.changed_at
            WHERE f.enabled <> excluded.enabled
            """, [.text(flag.rawValue), .bool(enabled)]
        ).affectedRows == 1
    }
}
