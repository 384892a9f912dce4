/// Mistakes that are made on purpose, one at a time, in what drives the parts: each must be found.
enum PlantedBug: String, CaseIterable {
    /// Acknowledgements leave when the group is handed to the writer.
    case acknowledgementBeforeCommit
    /// The buffer deletes a batch when its request leaves.
    case deletionBeforeAnswer
    /// The cloud's rows are committed without its offset and deduplication.
    case forgottenOffset
    /// A frame is deleted, and no ledger line says so.
    case dropWithoutLedger
    /// What a salvage carried over gets new sequences.
    case renumberedSalvage
}
