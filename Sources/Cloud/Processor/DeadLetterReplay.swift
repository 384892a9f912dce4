import Database
import DeadLetters
import EventLog
import NIOCore
import SyncModel

/// Stores the records of dead letters: each by the processor's own way, in one transaction that also marks it as
/// replayed. So it happens once, however often and by how many it is tried.
package struct DeadLetterReplay: Sendable {
    package enum Outcome: Sendable, Equatable {
        /// Messages that became rows, and those that had been stored before.
        case replayed(messages: Int, duplicates: Int, refused: Int)
        /// It is no dead letter that waits: somebody else was faster.
        case notWaiting
    }

    package enum Failure: Error, Sendable, CustomStringConvertible {
        case object(DeadLetterFiles.Failure)
        case database(PostgresError)
        case refused(String)

        package var description: String {
            switch self {
            case .object(let failure): failure.description
            case .database(let error): error.description
            case .refused(let why): why
            }
        }
    }

    /// Devices may be deleted while it is tried.
    private static let maximumAttempts = 5

    private let configuration: ProcessorConfiguration
    private let files: DeadLetterFiles

    package init(configuration: ProcessorConfiguration, files: DeadLetterFiles) {
        // A dead letter is stored whole, so there is no smaller batch to fall back to.
        var configuration = configuration
        configuration.sparkplugMetricsInMemory *= 10
        self.configuration = configuration
        self.files = files
    }

    /// Replays one dead letter. Nothing has changed where it throws.
    package func replay(
        _ id: Int64, _ entry: DeadLetterEntry, on connection: PostgresConnection
    ) async throws(Failure) -> Outcome {
        let object: DeadLetterObject
        do throws(DeadLetterFiles.Failure) { object = try await files.read(entry) } catch { throw .object(error) }
        let preparer = BatchPreparer(configuration: configuration)
        let writer = BatchWriter(
            maximumRanges: configuration.maximumRanges, maximumSparkplugEntities: configuration.sparkplugEntities)
        do throws(PostgresError) {
            for _ in 0..<Self.maximumAttempts {
                var batch = try await preparer.prepare(
                    object.records, advances: [], incarnation: object.incarnation, claim: .deadLetter(id),
                    connection: connection)
                let (outcome, refused) = try await writer.isolate(in: &batch, preparer: preparer, on: connection)
                switch outcome {
                case .stored(let summary):
                    return .replayed(
                        messages: summary.messages, duplicates: summary.duplicates, refused: refused.count)
                case .settled, .lost, .ahead: return .notWaiting
                case .failed(let error): throw error
                case .registryChanged:
                    preparer.forget()
                    preparer.forgetBirths()
                case .overflow(_, let device, let ranges):
                    throw PostgresError(
                        sqlState: "", message: "device \(device) has more than \(ranges) gaps in its numbers")
                case .corrupt(_, let reason): throw PostgresError(sqlState: "", message: reason)
                }
            }
        } catch { throw .database(error) }
        throw .refused("devices are being deleted all the time: try again")
    }
}
