import Glibc
import NIOCore

/// Brings the schema from one version to another, one transaction a file, one migrator at a time.
package struct Migrator: Sendable {
    package struct Step: Sendable, Equatable, Codable {
        package var version: Int
        package var name: String
        /// RFC 3339; `nil`: not applied.
        package var appliedAt: String?

        package init(version: Int, name: String, appliedAt: String?) {
            self.version = version
            self.name = name
            self.appliedAt = appliedAt
        }
    }

    /// Of `pg_try_advisory_lock`; any number that nothing else in the database uses.
    private static let lockKey: Int64 = 0x736C_7569_6365

    package let files: [MigrationFile]
    package let path: String
    /// Seconds to wait for another migrator, and to try for the locks that a migration needs.
    package let lockWait: Int
    /// Milliseconds of one such try. Writers queue behind a migration that waits for a lock, so it waits shortly and often.
    package let lockTry: Int

    package init(path: String, lockWait: Int = 60, lockTry: Int = 500) throws(MigrationError) {
        self.path = path
        self.lockWait = lockWait
        self.lockTry = lockTry
        files = try MigrationFile.load(from: path)
    }

    /// Applies what is missing up to `target` (`nil`: the newest), in order.
    package func up(
        on connection: isolated PostgresConnection, to target: Int? = nil
    ) throws(MigrationError) -> [MigrationFile] {
        let target = target ?? files.count
        guard (0...files.count).contains(target) else { throw .noSuchTarget(target, newest: files.count) }
        return try locked(connection) { () throws(MigrationError) in
            let applied = try verify(connection)
            let missing = files.filter { $0.version > applied.count && $0.version <= target }
            for file in missing {
                try apply(file.up, name: "\(file.fileName).up.sql", on: connection) { () throws(PostgresError) in
                    try connection.query(
                        "INSERT INTO schema_version (version, name, checksum, contracts) VALUES ($1, $2, sha256($3), $4)",
                        [
                            .int4(Int32(file.version)), .text(file.name), .bytes(.init(string: file.up)),
                            .bool(MigrationCheck.contracts(file.up)),
                        ])
                }
            }
            return missing
        }
    }

    /// Goes back until `target` is the newest version applied; `nil`: one step.
    package func down(
        on connection: isolated PostgresConnection, to target: Int? = nil
    ) throws(MigrationError) -> [MigrationFile] {
        try locked(connection) { () throws(MigrationError) in
            let applied = try verify(connection)
            let target = target ?? max(0, applied.count - 1)
            guard (0...files.count).contains(target) else { throw .noSuchTarget(target, newest: files.count) }
            let undone = Array(files.filter { $0.version <= applied.count && $0.version > target }.reversed())
            for file in undone {
                try apply(file.down, name: "\(file.fileName).down.sql", on: connection) { () throws(PostgresError) in
                    try connection.query("DELETE FROM schema_version WHERE version = $1", [.int4(Int32(file.version))])
                }
            }
            return undone
        }
    }

    /// Every migration, and when it was applied. Reads only.
    package func status(on connection: isolated PostgresConnection) throws(MigrationError) -> [Step] {
        let applied = try verify(connection)
        return files.map { file in
            Step(
                version: file.version, name: file.name,
                appliedAt: file.version <= applied.count ? applied[file.version - 1] : nil)
        }
    }

    /// When each applied version was applied, after a check that the files are those that were applied.
    private func verify(_ connection: isolated PostgresConnection) throws(MigrationError) -> [String] {
        let rows: PostgresResult
        do throws(PostgresError) {
            guard try connection.query("SELECT to_regclass('schema_version') IS NOT NULL").bool(0, 0) else { return [] }
            rows = try connection.query(
                """
                SELECT s.version, s.name,
                       s.checksum = sha256(f.content) OR encode(s.checksum, 'hex') = ANY (string_to_array(f.former, ' ')),
                       to_char(s.applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
                FROM schema_version s
                LEFT JOIN unnest($1::bytea[], $2::text[]) WITH ORDINALITY AS f (content, former, version)
                    ON f.version = s.version
                ORDER BY s.version
                """,
                [
                    .byteaArray(files.map { ByteBuffer(string: $0.up) }),
                    .textArray(files.map { $0.former.joined(separator: " ") }),
                ])
        } catch { throw .database(error) }
        var applied: [String] = []
        for row in 0..<rows.rowCount {
            let version = Int(rows.integer(row, 0))
            if version != row + 1 { throw .gap(missing: row + 1, path: "the database's schema_version") }
            if version > files.count { throw .unknownVersion(version, name: rows.string(row, 1), path: path) }
            if !rows.bool(row, 2) { throw .changed(version: version, name: rows.string(row, 1)) }
            applied.append(rows.string(row, 3))
        }
        return applied
    }

    /// Tries again while others hold the locks that the file needs.
    private func apply(
        _ sql: String, name: String, on connection: isolated PostgresConnection,
        record: () throws(PostgresError) -> Void
    ) throws(MigrationError) {
        let deadline = ContinuousClock.now + .seconds(lockWait)
        while true {
            do throws(MigrationError) {
                return try attempt(sql, name: name, on: connection, record: record)
            } catch {
                guard case .failed(_, let cause) = error, cause.category == .contention, ContinuousClock.now < deadline
                else { throw error }
            }
            // Whoever waited behind this one goes first. The thread is the connection's own.
            usleep(UInt32.random(in: 100_000...500_000))
        }
    }

    /// One file and its line in `schema_version` in one transaction.
    private func attempt(
        _ sql: String, name: String, on connection: isolated PostgresConnection,
        record: () throws(PostgresError) -> Void
    ) throws(MigrationError) {
        do throws(PostgresError) {
            try connection.run("BEGIN")
            try connection.run("SET LOCAL lock_timeout = '\(lockTry)ms'")
            try connection.run(sql)
        } catch {
            connection.rollBack()
            throw .failed(path: "\(path)/\(name)", error)
        }
        guard connection.isInTransaction else { throw .endedTransaction(path: "\(path)/\(name)") }
        do throws(PostgresError) {
            try record()
            try connection.run("COMMIT")
        } catch {
            connection.rollBack()
            throw .failed(path: "\(path)/\(name)", error)
        }
    }

    private func locked<Value>(
        _ connection: isolated PostgresConnection, _ body: () throws(MigrationError) -> Value
    ) throws(MigrationError) -> Value {
        try acquireLock(connection)
        // The lock is the session's: where unlocking fails, it ends with the connection.
        defer { _ = try? connection.query("SELECT pg_advisory_unlock($1)", [.int8(Self.lockKey)]) }
        do throws(PostgresError) {
            try connection.run(
                """
                CREATE TABLE IF NOT EXISTS schema_version (
                    version integer PRIMARY KEY, name text NOT NULL, checksum bytea NOT NULL,
                    applied_at timestamptz NOT NULL DEFAULT now(), contracts boolean NOT NULL DEFAULT false)
                """)
            // Younger than the table; asked first, because adding it would lock out readers each time.
            let hasColumn = try connection.query(
                """
                SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'schema_version'::regclass AND attname = 'contracts')
                """
            ).bool(0, 0)
            if !hasColumn {
                try connection.run("ALTER TABLE schema_version ADD COLUMN contracts boolean NOT NULL DEFAULT false")
            }
        } catch { throw .database(error) }
        return try body()
    }

    private func acquireLock(_ connection: isolated PostgresConnection) throws(MigrationError) {
        do throws(PostgresError) {
            try connection.run("SET lock_timeout = '\(lockWait)s'")
            try connection.query("SELECT pg_advisory_lock($1)", [.int8(Self.lockKey)])
        } catch { throw error.sqlState == "55P03" ? .busy(seconds: lockWait) : .database(error) }
    }
}
