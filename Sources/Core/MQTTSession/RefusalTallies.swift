/// How many messages of a device were refused, by reason, since the buffer's file was made.
package struct RefusalRecord: Sendable, Equatable {
    /// Empty: of all devices that were forgotten.
    package var device: String
    package var counts: CaseCounts<RefusalReason>

    package init(device: String, counts: CaseCounts<RefusalReason>) {
        self.device = device
        self.counts = counts
    }
}

/// The refusals of all devices, bounded in devices: beyond, those whose last refusal is longest ago are added to the record
/// without a name. What changed is stored with a commit now and then, never with one of its own.
struct RefusalTallies: Sendable {
    private struct Entry: Sendable {
        var counts = CaseCounts<RefusalReason>()
        /// Microseconds on the monotonic clock; 0 for one from before the start.
        var changedAt: Int64 = 0
        var isStored = true
    }

    private let maximumDevices: Int
    private var entries: [BytewiseString: Entry] = [:]
    /// Not stored yet.
    private var changed: [BytewiseString] = []
    private var forgotten: [BytewiseString] = []
    private static let others = BytewiseString("")

    init(maximumDevices: Int, restoring records: [RefusalRecord]) {
        self.maximumDevices = max(1, maximumDevices)
        for record in records { entries[BytewiseString(record.device)] = Entry(counts: record.counts) }
    }

    mutating func count(_ reason: RefusalReason, of device: String, at now: Int64) {
        let key = BytewiseString(device)
        if entries[key] == nil, entries.count > maximumDevices { forgetOldest() }
        add(key, at: now) { $0[reason] += 1 }
    }

    private mutating func add(_ key: BytewiseString, at now: Int64, _ body: (inout CaseCounts<RefusalReason>) -> Void) {
        let wasStored = entries[key]?.isStored ?? true
        body(&entries[key, default: Entry()].counts)
        entries[key]?.changedAt = now
        entries[key]?.isStored = false
        if wasStored { changed.append(key) }
    }

    /// A sixteenth at a time, so that a flood of new names does not search for each.
    private mutating func forgetOldest() {
        let old = entries.filter { $0.key != Self.others }.sorted {
            ($0.value.changedAt, $0.key.string) < ($1.value.changedAt, $1.key.string)
        }.prefix(max(1, maximumDevices / 16))
        for (key, entry) in old {
            entries[key] = nil
            add(Self.others, at: entry.changedAt) { counts in
                for reason in RefusalReason.allCases { counts[reason] += entry.counts[reason] }
            }
            forgotten.append(key)
        }
    }

    subscript(device: String) -> CaseCounts<RefusalReason> {
        entries[BytewiseString(device)]?.counts ?? CaseCounts()
    }

    /// What is to be stored; from then on it counts as stored.
    mutating func takeChanges() -> [DurableChange] {
        var changes = forgotten.map { DurableChange.refusalsForgotten(device: $0.string) }
        for key in changed {
            guard let entry = entries[key] else { continue }
            entries[key]?.isStored = true
            changes.append(.refusalsCounted(RefusalRecord(device: key.string, counts: entry.counts)))
        }
        forgotten = []
        changed = []
        return changes
    }
}
