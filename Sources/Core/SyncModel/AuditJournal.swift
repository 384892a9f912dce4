/// What one device's journal says of its messages, and how often each was found.
struct AuditJournal: Sendable {
    private struct Entry: Sendable {
        static let published: UInt8 = 1
        static let acknowledged: UInt8 = 2
        static let resent: UInt8 = 4
        static let exactlyOnce: UInt8 = 8

        var flags: UInt8 = 0
        /// Messages found with this number; more than 255 count as 255.
        var copies: UInt8 = 0

        func has(_ flag: UInt8) -> Bool { flags & flag != 0 }
    }

    private var entries = SparseTable<Entry>(empty: Entry())
    private(set) var foundMessages: UInt64 = 0

    mutating func published(_ n: UInt64, qos: UInt8) {
        entries[n].flags |= Entry.published | (qos == 2 ? Entry.exactlyOnce : 0)
    }

    mutating func resent(_ n: UInt64) { entries[n].flags |= Entry.resent }

    mutating func acknowledged(_ n: UInt64) { entries[n].flags |= Entry.acknowledged }

    mutating func found(_ n: UInt64) {
        foundMessages += 1
        if entries[n].copies < .max { entries[n].copies += 1 }
    }

    struct Totals: Sendable, Equatable {
        var published: UInt64 = 0
        var acknowledged: UInt64 = 0
        /// Acknowledged and nowhere found.
        var missing: UInt64 = 0
        /// Second messages with the same number: MQTT lets QoS 1 make them after a second sending, QoS 2 never.
        var redelivered: UInt64 = 0
        var duplicated: UInt64 = 0
        /// Found, but not in the journal.
        var unpublished: UInt64 = 0

        static func += (a: inout Totals, b: Totals) {
            a.published += b.published
            a.acknowledged += b.acknowledged
            a.missing += b.missing
            a.redelivered += b.redelivered
            a.duplicated += b.duplicated
            a.unpublished += b.unpublished
        }
    }

    func totals() -> Totals {
        var totals = Totals()
        entries.forEach { _, entry in
            if entry.has(Entry.published) { totals.published += 1 }
            if entry.has(Entry.acknowledged) {
                totals.acknowledged += 1
                if entry.copies == 0 { totals.missing += 1 }
            }
            if entry.copies > 0, !entry.has(Entry.published) { totals.unpublished += 1 }
            guard entry.copies > 1 else { return }
            if entry.has(Entry.resent), !entry.has(Entry.exactlyOnce) {
                totals.redelivered += UInt64(entry.copies) - 1
            } else {
                totals.duplicated += UInt64(entry.copies) - 1
            }
        }
        return totals
    }
}
