import Database
import ObjectStore

/// Why the archive did not do what it was asked.
package enum ArchiveError: Error, Sendable, CustomStringConvertible {
    case store(ObjectStoreError)
    case database(PostgresError)
    /// An object is not what was written.
    case badObject(key: String, reason: String)
    case missingObject(key: String)
    case notArchived(ArchiveDay)
    /// The tables hold what cannot be archived.
    case badRow(String)
    case compression(String)
    case badSchema(String)
    case interrupted

    package var description: String {
        switch self {
        case .store(let error): error.description
        case .database(let error):
            error.category == .setup
                ? "\(error); is the schema there? See sluice migrate status" : error.description
        case .badObject(let key, let reason): "the object \(key) is damaged: \(reason)"
        case .missingObject(let key): "the object \(key) is not there; somebody or something has deleted it"
        case .notArchived(let day): "\(day) is not in the archive"
        case .badRow(let reason): reason
        case .compression(let reason): "zstd: \(reason)"
        case .badSchema(let name): "\(name) is no name of a schema: small letters, digits and _ are allowed"
        case .interrupted: "the archive was interrupted; it goes on with its next run"
        }
    }
}

/// Runs a step of the store or the database under the archive's own errors.
func stored<Value>(_ body: () async throws(ObjectStoreError) -> Value) async throws(ArchiveError) -> Value {
    do throws(ObjectStoreError) { return try await body() } catch { throw .store(error) }
}

func queried<Value>(_ body: () async throws(PostgresError) -> Value) async throws(ArchiveError) -> Value {
    do throws(PostgresError) { return try await body() } catch { throw .database(error) }
}
