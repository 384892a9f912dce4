import Database
import DeadLetters
import EventLog
import ObjectStore
import SyncModel

/// Counts the messages of dead letters that are not replayed, by looking into their objects.
struct DeadLetterAudit: Sendable {
    /// Only this gateway's messages; `nil`: all.
    let gateway: String?
    let store: (any ObjectStore)?

    /// - Parameter letters: those that waited in the snapshot of the tables.
    func read(_ letters: [DeadLetterEntry], into tally: AuditTally) async -> AuditTally {
        if letters.isEmpty { return tally }
        var tally = tally
        guard let store else {
            tally.note(
                "\(letters.count) dead letters are not replayed, and their objects were not looked into: name the object "
                    + "store, or run sluice dlq replay first")
            return tally
        }
        let files = DeadLetterFiles(store: store)
        for letter in letters {
            do throws(DeadLetterFiles.Failure) {
                for record in try await files.read(letter).records {
                    if let entry = try? LogEntry.decode(record.record.value) {
                        if gateway == nil || entry.gateway == gateway { tally.add(deadLetter: entry) }
                    } else {
                        tally.note("offset \(record.offset) in \(letter.object) cannot be decoded")
                    }
                }
            } catch {
                tally.note("\(error)")
            }
        }
        return tally
    }
}
