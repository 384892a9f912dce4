/// What one simulated device decides: when to connect, when to publish, and what an answer means. Times are
/// milliseconds of a monotonic clock.
package struct DeviceModel: Sendable {
    /// `down` → `connecting` → `up`; both of the latter can go `down`.
    package enum Link: Sendable, Equatable {
        case down(retryAt: Int64)
        case connecting(since: Int64)
        case up
    }

    package enum Answer: Sendable, Equatable {
        case acknowledged(n: Int64)
        case refused(n: Int64, reason: UInt8)
    }

    /// Milliseconds from the start of a connection to the server's CONNACK.
    package static let connectLimit: Int64 = 10_000
    /// Milliseconds to wait after the first failure; doubled by each that follows, up to `backoffCeiling`.
    package static let backoffFloor: Int64 = 100
    package static let backoffCeiling: Int64 = 2_000

    package let id: String
    package let qos: UInt8
    package private(set) var link: Link
    package private(set) var counts = SimulationCounts()
    /// Packet id → number of the message, for what has no answer.
    private var outstanding: [Int32: Int64] = [:]
    private var nextNumber: Int64
    private var nextPublish: Double
    private let interval: Double
    private let inFlightLimit: Int
    private var failures = 0
    private var wasUp = false

    /// - Parameters:
    ///   - firstNumber: the number of its first message.
    ///   - interval: milliseconds between messages.
    ///   - start: when it connects first, and publishes as soon as it is connected.
    package init(id: String, qos: UInt8, firstNumber: Int64, interval: Double, inFlightLimit: Int, start: Int64) {
        self.id = id
        self.qos = qos
        self.interval = interval
        self.inFlightLimit = inFlightLimit
        nextNumber = firstNumber
        nextPublish = Double(start)
        link = .down(retryAt: start)
        counts.devices = 1
    }

    package var hasOutstanding: Bool { !outstanding.isEmpty }

    package func shouldConnect(now: Int64) -> Bool {
        if case .down(let retryAt) = link { return now >= retryAt }
        return false
    }

    package mutating func connecting(now: Int64) {
        link = .connecting(since: now)
    }

    /// Whether the server left this connection without an answer for too long.
    package func connectTimedOut(now: Int64) -> Bool {
        if case .connecting(let since) = link { return now - since >= Self.connectLimit }
        return false
    }

    /// CONNACK with reason 0.
    package mutating func connected() {
        link = .up
        failures = 0
        counts.connected = 1
        if wasUp { counts.reconnects += 1 }
        wasUp = true
    }

    /// The connection broke or was not to be had.
    ///
    /// - Parameter jitter: from 0 up to 1.
    /// - Returns: what the next connection sends again, ascending. A connection that was never accepted carried
    ///   nothing, so it adds nothing.
    package mutating func broke(now: Int64, jitter: Double, reason: String) -> [Int64] {
        if case .down = link { return [] }
        let resends = link == .up ? outstanding.values.sorted() : []
        let ceiling = min(Self.backoffCeiling, Self.backoffFloor << min(failures, 10))
        failures += 1
        link = .down(retryAt: now + ceiling / 2 + Int64(Double(ceiling / 2) * jitter))
        counts.connected = 0
        counts.resent += resends.count
        counts.lastFailure = reason
        return resends
    }

    /// The number of the message that is to be sent now, if one is. A device has no store: a reading that falls due
    /// while it is offline or has all it may in flight is passed over, and counted.
    package mutating func takePublish(now: Int64) -> Int64? {
        guard Double(now) >= nextPublish else { return nil }
        nextPublish += interval
        // After a stall the missed readings are gone; their number is known by the time that passed.
        if nextPublish < Double(now) {
            let missed = ((Double(now) - nextPublish) / interval).rounded(.up)
            nextPublish += missed * interval
            if wasUp { counts.heldBack += Int(missed) }
        }
        guard link == .up, outstanding.count < inFlightLimit else {
            if wasUp { counts.heldBack += 1 }
            return nil
        }
        let n = nextNumber
        nextNumber += 1
        counts.published += 1
        return n
    }

    /// When `takePublish` has something next.
    package var nextPublishTime: Int64 { Int64(nextPublish.rounded(.up)) }

    /// The library took the message under this packet id.
    package mutating func sent(n: Int64, packetID: Int32) {
        guard qos > 0 else { return }
        outstanding[packetID] = n
        counts.outstanding = outstanding.count
    }

    /// PUBACK, PUBCOMP, or a PUBREC that refuses. Nil: not of a message that waits (QoS 0 reports its sending so).
    package mutating func answered(packetID: Int32, reason: UInt8) -> Answer? {
        guard let n = outstanding.removeValue(forKey: packetID) else { return nil }
        counts.outstanding = outstanding.count
        // 0x92, "packet identifier not found", comes in PUBCOMP alone: the exchange was completed before a crash of the
        // server, whose answer was lost (MQTT 5, 3.7.2.1: "not an error during recovery").
        if reason >= 0x80, !(qos == 2 && reason == 0x92) {
            counts.refused += 1
            return .refused(n: n, reason: reason)
        }
        counts.acknowledged += 1
        return .acknowledged(n: n)
    }
}
