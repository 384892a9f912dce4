/// Why a message was not admitted; each is a metric label.
package enum RefusalReason: Int, Sendable, CaseIterable {
    case notAuthorized, rate, globalRate, storageFull, retainedFull, heldFull, will, payloadFormat
}

/// Why a message did not reach a subscriber; each is a metric label.
package enum DropReason: Int, Sendable, CaseIterable {
    case queueFull, expired, tooLarge, slowReader, sessionEnded
}

/// Counts by the cases of an enum, without hashing.
package struct CaseCounts<Key>: Sendable, Equatable
where Key: CaseIterable & RawRepresentable & Sendable, Key.RawValue == Int {
    private var counts = [UInt64](repeating: 0, count: Key.allCases.count)

    package init() {}

    package subscript(_ key: Key) -> UInt64 {
        get { counts[key.rawValue] }
        set { counts[key.rawValue] = newValue }
    }

    package var total: UInt64 { counts.reduce(0, +) }
}

/// What the broker has done since the process started.
package struct BrokerCounters: Sendable, Equatable {
    /// PUBLISH packets by QoS, repeats and refused ones included.
    package var received = [UInt64](repeating: 0, count: 3)
    /// Appended to frames, wills included.
    package var synced: UInt64 = 0
    /// Of them, those that a rule would have aggregated if their payloads were numbers.
    package var unreadable: UInt64 = 0
    /// QoS 2 packets whose id was already known.
    package var repeated: UInt64 = 0
    package var refused = CaseCounts<RefusalReason>()
    /// Of `refused`, those at QoS 0, which no sender hears of.
    package var refusedSilently: UInt64 = 0
    package var held: UInt64 = 0
    package var willsPublished: UInt64 = 0
    /// PUBLISH packets to subscribers by QoS, resent ones included.
    package var delivered = [UInt64](repeating: 0, count: 3)
    package var dropped = CaseCounts<DropReason>()
    package var connectionsAccepted: UInt64 = 0
    package var connectionsRefused: UInt64 = 0
    package var sessionsExpired: UInt64 = 0

    package init() {}
}

package struct ConnectionSnapshot: Sendable, Equatable {
    package var connection: ConnectionID
    package var deviceID: String
    package var clientID: String
    /// Microseconds on the monotonic clock.
    package var connectedAt: Int64
    package var isPaused: Bool
    package var heldMessages: Int
}

package struct SessionSnapshot: Sendable, Equatable {
    package var deviceID: String
    package var clientID: String
    package var connection: ConnectionID?
    package var isStored: Bool
    package var subscriptions: Int
    package var queuedMessages: Int
    package var queuedBytes: Int
}
