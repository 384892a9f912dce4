import Flow
import SyncModel

/// Tokens for messages or bytes; exact to the microsecond.
struct RateBucket: Sendable {
    /// Tokens a second; `nil`: unlimited.
    private var rate: Double?
    private var capacity: Double
    private var level: Double
    /// Microseconds on the monotonic clock.
    private var updated: Int64

    init(rate: Double?, capacity: Double, now: Int64) {
        self.rate = rate
        self.capacity = max(capacity, 1)
        self.level = self.capacity
        self.updated = now
    }

    /// Keeps what is there, within the new capacity.
    mutating func change(rate: Double?, capacity: Double, now: Int64) {
        refill(now)
        self.rate = rate
        self.capacity = max(capacity, 1)
        level = min(level, self.capacity)
    }

    mutating func has(_ amount: Double, now: Int64) -> Bool {
        guard rate != nil else { return true }
        refill(now)
        return level >= min(amount, capacity)
    }

    /// May leave a debt, which the next ones wait for.
    mutating func take(_ amount: Double) {
        if rate != nil { level -= min(amount, capacity) }
    }

    /// Whether the debt would stay within another full bucket.
    mutating func mayOwe(_ amount: Double, now: Int64) -> Bool {
        guard rate != nil else { return true }
        refill(now)
        return level - min(amount, capacity) >= -capacity
    }

    /// When `amount` will be there; now, if it is.
    func readyAt(_ amount: Double, now: Int64) -> Int64 {
        guard let rate else { return now }
        let missing = min(amount, capacity) - level
        if missing <= 0 { return now }
        guard rate > 0 else { return .max }
        let wait = (missing / rate * 1_000_000).rounded(.up)
        return wait < 1e15 ? updated + Int64(wait) : .max
    }

    private mutating func refill(_ now: Int64) {
        guard let rate, now > updated else { return }
        level = min(capacity, level + Double(now - updated) * rate / 1_000_000)
        updated = now
    }
}

/// A device as this process knows it; its index in `Broker.devices` is its `DeviceHandle`.
struct DeviceState: Sendable {
    let id: String
    /// Known by a plaintext client's own word alone.
    var isLocal: Bool
    var group: String?
    var overLimit: OverLimit
    var messages: RateBucket
    var bytes: RateBucket
    var burst: Int
    /// Its messages that wait for a commit before they are routed.
    var pendingRoutes = 0
    var storedSessions = 0
    /// All of them.
    var sessions = 0
    /// PUBLISH packets, refused ones included, since the process started.
    var offeredMessages: UInt64 = 0
    /// Topic, payload and properties of them.
    var offeredBytes: UInt64 = 0
    var meter = RateMeter()
    /// When it was last over its limits; microseconds on the monotonic clock.
    var lastOver: Int64?
}

/// The answer to one message.
enum AdmissionVerdict: Equatable {
    case admitted
    /// - Parameter readyAt: microseconds on the monotonic clock; `nil` when no time can be told.
    case over(RefusalReason, OverLimit, readyAt: Int64?)
}

extension BrokerConfiguration {
    /// The group is the first that matches; a plaintext client's is "local", whatever its id.
    func policy(deviceID: String, isLocal: Bool) -> (group: String?, rate: RatePolicy) {
        if isLocal {
            return ("local", groups.first { $0.name == "local" }?.rate ?? defaultRate)
        }
        let group = groups.first { group in group.devices.contains { Glob.matches($0, deviceID) } }
        return (group?.name, group?.rate ?? defaultRate)
    }

    /// A byte limit's burst lets any allowed packet through.
    func byteBurst(_ policy: RatePolicy) -> Double { Double(max(policy.bytesPerSecond ?? 0, maximumPacketSize)) }
}

extension DeviceState {
    init(id: String, isLocal: Bool, configuration: BrokerConfiguration, now: Int64) {
        let (group, rate) = configuration.policy(deviceID: id, isLocal: isLocal)
        self.id = id
        self.isLocal = isLocal
        self.group = group
        overLimit = rate.overLimit
        burst = rate.burst
        messages = RateBucket(rate: rate.messagesPerSecond, capacity: Double(rate.burst), now: now)
        bytes = RateBucket(
            rate: rate.bytesPerSecond.map(Double.init), capacity: configuration.byteBurst(rate), now: now)
    }

    mutating func apply(_ configuration: BrokerConfiguration, now: Int64) {
        let (group, rate) = configuration.policy(deviceID: id, isLocal: isLocal)
        self.group = group
        overLimit = rate.overLimit
        burst = rate.burst
        messages.change(rate: rate.messagesPerSecond, capacity: Double(rate.burst), now: now)
        bytes.change(
            rate: rate.bytesPerSecond.map(Double.init), capacity: configuration.byteBurst(rate), now: now)
    }
}
