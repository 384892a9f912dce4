import Database
import NIOCore
import ObjectStore

/// Brings archived days back into tables beside the live ones.
package struct ArchiveRestore: Sendable {
    package struct Day: Codable, Sendable, Equatable {
        package var day: String
        package var measurementRows = 0
        package var eventRows = 0
        package var manifests = 0
    }

    private let database: PostgresConfiguration
    private let catalog: ArchiveCatalog
    /// `nil`: the tables `measurement_restored` and `event_restored`.
    private let schema: String?

    /// - Parameter schema: is made where it is missing; its tables are `measurement` and `event`.
    package init(database url: String, store: any ObjectStore, schema: String? = nil) throws(ArchiveError) {
        if let schema {
            let isName =
                (1...63).contains(schema.utf8.count) && schema.first.map { !$0.isNumber } == true
                && schema.utf8.allSatisfy { (97...122).contains($0) || (48...57).contains($0) || $0 == 95 }
            // The live tables are not to be written to.
            guard isName, schema != "public", !schema.hasPrefix("pg_") else { throw .badSchema(schema) }
        }
        database = .unlimited(url: url, applicationName: "sluice-archive-restore")
        catalog = ArchiveCatalog(store)
        self.schema = schema
    }

    package func target(_ table: ArchiveTable) -> String {
        schema.map { "\($0).\(table.rawValue)" } ?? "\(table.rawValue)_restored"
    }

    /// One transaction: the tables have the whole day as it was archived, or what they had before. To repeat it is to do
    /// it again.
    package func restore(_ day: ArchiveDay) async throws(ArchiveError) -> Day {
        let manifests = try await catalog.manifests(day)
        guard !manifests.isEmpty else { throw .notArchived(day) }
        let connection = try await queried { () throws(PostgresError) in try await PostgresConnection.connect(database)
        }
        do throws(ArchiveError) {
            try await compare(manifests, day, connection)
            let restored = try await restore(manifests, day, connection)
            await connection.close()
            return restored
        } catch {
            // The server rolls back.
            await connection.close()
            throw error
        }
    }

    /// The manifests must be those that the database remembers, where it does.
    private func compare(
        _ manifests: [ArchiveCatalog.Manifest], _ day: ArchiveDay, _ connection: PostgresConnection
    ) async throws(ArchiveError) {
        let known = try await queried { () throws(PostgresError) in try await Self.digests(day, connection) }
        for (number, digest) in known.enumerated() {
            let key = ArchiveKeys.manifest(day, number)
            guard number < manifests.count else { throw .missingObject(key: key) }
            guard manifests[number].digest == digest else {
                throw .badObject(key: key, reason: "its digest is not the one in the table archive_manifest")
            }
        }
    }

    private static func digests(
        _ day: ArchiveDay, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> [String] {
        let rows = try connection.query(
            "SELECT digest FROM archive_manifest WHERE day = $1::date ORDER BY number", [.text(day.description)])
        return (0..<rows.rowCount).map { rows.string($0, 0) }
    }

    private func restore(
        _ manifests: [ArchiveCatalog.Manifest], _ day: ArchiveDay, _ connection: PostgresConnection
    ) async throws(ArchiveError) -> Day {
        try await queried { () throws(PostgresError) in
            try await connection.run("BEGIN")
            if let schema { try await connection.run("CREATE SCHEMA IF NOT EXISTS \(schema)") }
            for table in ArchiveTable.allCases {
                try await connection.run(
                    """
                    CREATE TABLE IF NOT EXISTS \(target(table)) (LIKE \(table.rawValue));
                    CREATE INDEX IF NOT EXISTS \(table.rawValue)_restored_time ON \(target(table)) (time);
                    DELETE FROM \(target(table)) WHERE \(ArchiveTable.condition(day));
                    \(table.createStaging)
                    """)
            }
        }
        var restored = Day(day: day.description)
        for manifest in manifests {
            for file in manifest.content.files {
                let rows = try await restore(file, connection)
                if file.table == .measurement { restored.measurementRows += rows } else { restored.eventRows += rows }
            }
            restored.manifests += 1
        }
        try await queried { () throws(PostgresError) in try await connection.run("COMMIT") }
        return restored
    }

    private func restore(
        _ file: ArchiveManifest.File, _ connection: PostgresConnection
    ) async throws(ArchiveError) -> Int {
        let lines = try await Self.verified(file, catalog.store)
        let table = file.table
        let rows = try await queried { () throws(PostgresError) in
            try await connection.run("TRUNCATE \(table.staging)")
            _ = try await connection.copyIn("COPY \(table.staging) FROM STDIN", rows: lines, isText: true)
            for statement in table.restoreNames { try await connection.run(statement) }
            return try await Self.insert(table, into: target(table), connection)
        }
        guard rows == file.rows else {
            throw .badObject(key: file.key, reason: "\(rows) rows come out instead of \(file.rows)")
        }
        return rows
    }

    private static func insert(
        _ table: ArchiveTable, into target: String, _ connection: isolated PostgresConnection
    ) throws(PostgresError) -> Int {
        try connection.query(table.restore(into: target)).affectedRows
    }

    /// The lines of a file whose bytes are those that were written.
    static func verified(
        _ file: ArchiveManifest.File, _ store: any ObjectStore
    ) async throws(ArchiveError) -> ByteBuffer {
        let bytes: ByteBuffer?
        do throws(ObjectStoreError) {
            bytes = try await store.read(file.key, maximumBytes: file.bytes)
        } catch {
            if case .tooLarge = error {
                throw .badObject(key: file.key, reason: "it has more than \(file.bytes) bytes")
            }
            throw .store(error)
        }
        guard let bytes else { throw .missingObject(key: file.key) }
        guard ArchiveCollector.digest(of: bytes) == file.digest else {
            throw .badObject(key: file.key, reason: "its SHA-256 is not the one in its manifest")
        }
        return try Zstandard.unpacked(bytes, bytes: file.unpackedBytes, key: file.key)
    }
}
