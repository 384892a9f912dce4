/// What an `event` row holds; values are stored, so they never change their meaning.
package enum EventKind: Int16, Sendable, CaseIterable {
    /// What is not numeric of a JSON object, or JSON that is no object; in `body`.
    case json = 1
    /// The payload is no JSON (RFC 8259); in `bytes`.
    case noJSON = 2
    /// More numbers than a message may have; whole in `body`.
    case tooManyMetrics = 3
    /// The device has used up its metric ids; whole in `body`.
    case metricLimit = 4
    /// Nested deeper than `PayloadFlattener.maximumDepth`; in `bytes`.
    case tooDeep = 5
    /// An object names a key twice, which jsonb would silently make one; in `bytes`.
    case duplicateKey = 6
    /// JSON with text or numbers that PostgreSQL's jsonb cannot hold: U+0000, half a surrogate pair, numbers beyond
    /// 1,000 digits; in `bytes`.
    case unstorable = 7
    /// Topic or path too long for a metric's name; whole in `body`.
    case nameTooLong = 8
    /// PostgreSQL refused the message's rows: `reason` says why, the payload is in `bytes`.
    case rejected = 9
    /// What is not in `measurement` of a Sparkplug message, an object a metric; in `body`. Where that does not tell all,
    /// the payload is in `bytes`.
    case sparkplug = 10
}

/// Bits of `flags` in `measurement` and `event`.
package struct RowFlags: OptionSet, Sendable {
    package let rawValue: Int16

    package init(rawValue: Int16) { self.rawValue = rawValue }

    /// `time` is the log's append time, because the device's or gateway's (kept in `device_time`) was outside the window.
    package static let outsideWindow = RowFlags(rawValue: 1)
    /// `time` (or `device_time`) comes from the payload's time field.
    package static let payloadTime = RowFlags(rawValue: 2)
    /// The payload has the configured time field, but no time in it; the field is stored as any other.
    package static let unusableTime = RowFlags(rawValue: 4)
    package static let clockNotSynchronised = RowFlags(rawValue: 8)
    package static let backlog = RowFlags(rawValue: 16)
    package static let retain = RowFlags(rawValue: 32)
    /// The publisher had set DUP.
    package static let duplicate = RowFlags(rawValue: 64)
    package static let will = RowFlags(rawValue: 128)
    /// Sparkplug's quality of this value is BAD, or a code that the standard does not have.
    package static let badQuality = RowFlags(rawValue: 256)
    /// Sparkplug's quality of this value is STALE.
    package static let staleQuality = RowFlags(rawValue: 512)
    /// Sparkplug's `is_historical`: no current value.
    package static let historical = RowFlags(rawValue: 1_024)
    /// Sparkplug's `is_transient`: its sender would not have it stored.
    package static let transient = RowFlags(rawValue: 2_048)
}
