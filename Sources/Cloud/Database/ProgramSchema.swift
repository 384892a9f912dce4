/// Whether this program and a database's schema fit. A migration that expands (all but those marked as contracting) suits
/// programs of the release before it as well; what a contracting one takes away, a program must know of.
package enum ProgramSchema {
    /// Migrations without which this program cannot work, by name; what came later is behind flags.
    package static let required = ["spine", "clock_correction", "sparkplug", "dead_letters", "traces"]
    /// Contracting migrations that this program was written for.
    package static let contractions: [String] = []

    package enum Verdict: Sendable, Equatable, CustomStringConvertible {
        case fits
        case tooOld(missing: [String])
        case tooNew(unknown: [String])

        package var description: String {
            switch self {
            case .fits: "the schema fits"
            case .tooOld(let missing):
                "the database's schema is too old for this program: it lacks \(missing.joined(separator: ", ")); run "
                    + "sluice migrate up"
            case .tooNew(let unknown):
                "the database's schema is too new for this program: it knows nothing of \(unknown.joined(separator: ", ")); "
                    + "install the newer release, or go back with sluice migrate down of that release"
            }
        }
    }

    package static func check(on connection: isolated PostgresConnection) throws(PostgresError) -> Verdict {
        guard try connection.query("SELECT to_regclass('schema_version') IS NOT NULL").bool(0, 0) else {
            return .tooOld(missing: required)
        }
        // The column is younger than the table.
        let rows = try connection.query(
            "SELECT name, coalesce((to_jsonb(s) ->> 'contracts')::boolean, false) FROM schema_version s ORDER BY version"
        )
        let applied = (0..<rows.rowCount).map { (name: rows.string($0, 0), contracts: rows.bool($0, 1)) }
        let missing = required.filter { name in !applied.contains { $0.name == name } }
        if !missing.isEmpty { return .tooOld(missing: missing) }
        let unknown = applied.filter { $0.contracts && !contractions.contains($0.name) }
        return unknown.isEmpty ? .fits : .tooNew(unknown: unknown.map(\.name))
    }

    /// Before a program uses the database: the schema fits, and the database is the one that it was.
    package static func admit(on connection: isolated PostgresConnection) throws(PostgresError) {
        let verdict = try check(on: connection)
        if verdict != .fits { throw PostgresError(sqlState: "", message: verdict.description) }
        if let change = try DatabaseIdentity.change(on: connection) {
            throw PostgresError(sqlState: "", message: change.description)
        }
    }
}
