/// One line of a simulator's journal, written as a JSON object a line: what a device did, and what it was told.
///
/// A message carries its `n` in its payload, as the number at the path `n`, so that an audit finds it in the tables.
package struct JournalLine: Codable, Sendable, Equatable {
    package enum Event: String, Codable, Sendable {
        /// The first sending of `n`.
        case publish
        /// `n` may have been sent again: the connection broke while it was in flight.
        case resend
        /// PUBACK or PUBCOMP came with a reason below 0x80.
        case acknowledge
        /// PUBACK or PUBREC came with a reason of 0x80 or above.
        case refuse
    }

    package var event: Event
    package var device: String
    /// Unique per device over all runs, below 2⁵³; ascends with each publish.
    package var n: Int64
    package var qos: UInt8
    /// Microseconds since 1970.
    package var at: Int64
    /// The reason code of `refuse`.
    package var reason: UInt8?

    package init(event: Event, device: String, n: Int64, qos: UInt8, at: Int64, reason: UInt8? = nil) {
        self.event = event
        self.device = device
        self.n = n
        self.qos = qos
        self.at = at
        self.reason = reason
    }
}
